"""Examples to samples: one canvas for whole-image tasks, one for each prompted instance, sequences of every task."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from pix2seq.config import CFG
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.copy_paste import copy_paste, has_masks
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.mixture import Mixture, sources_of
from pix2seq.dataset.mosaic import IMAGES, mosaic
from pix2seq.dataset.plausibility import (
    doubt_about_mirroring,
    doubts_about_boxes,
    only_unusable,
    require_learnable,
    require_plausible,
)
from pix2seq.dataset.transforms import Jitter, jitter_colors, rand_augment
from pix2seq.dataset.views import CanvasObjects, View, is_shown, object_boxes
from pix2seq.errors import Unreadable, UserError
from pix2seq.runtime.console import tell
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.vocabulary import TokenSequence

if TYPE_CHECKING:
    from pix2seq.task import Task


@dataclass
class Sample:
    """What is learned from one image: `canvases` (H, W, 3), gray levels, with the `objects` on each, and for each task
    (canvas number, sequence) pairs. `name` is that of the image's file."""

    canvases: list[np.ndarray] = field(default_factory=list)
    objects: list[CanvasObjects] = field(default_factory=list)
    sequences: dict[str, list[tuple[int, TokenSequence]]] = field(default_factory=dict)
    name: str = ""

    def add(self, task: str, sequences: Sequence[TokenSequence]) -> None:
        """Add sequences about the last canvas."""
        if sequences:
            pairs = [(len(self.canvases) - 1, sequence) for sequence in sequences]
            self.sequences.setdefault(task, []).extend(pairs)


class SampleDataset(Dataset):
    """Samples of an ImageDataset or a Mixture for `tasks`; the same (seed, epoch, index) gives the same sample.

    `augment` changes images and replaces some input tokens. Noise objects and their classes are part of the targets of
    a model that is trained with them, with and without `augment`. With `replace_unreadable` an image that cannot be
    read is replaced by the next one that can, which is reported once; otherwise it raises a UserError.
    """

    def __init__(
        self,
        examples: ImageDataset | Mixture,
        tasks: Mapping[str, Task],
        tokenizers: Tokenizers,
        cfg: CFG,
        augment: bool,
        replace_unreadable: bool = False,
    ) -> None:
        self.examples, self.tasks, self.tokenizers, self.cfg = examples, tasks, tokenizers, cfg
        self.augment, self.replace_unreadable = augment, replace_unreadable
        self.reported = torch.zeros(len(examples), dtype=torch.bool).share_memory_()  # by any of the loading processes
        tokenizers.check_lengths(cfg.model, {name: task.samples.LIMIT[0] for name, task in tasks.items()})
        self.image_tasks = [task for task in tasks.values() if not task.is_prompted]
        self.cropped_tasks = [task for task in tasks.values() if task.is_cropped(cfg.model)]
        self.uncropped_tasks = [t for t in tasks.values() if t.is_prompted and not t.is_cropped(cfg.model)]
        require_plausible(examples, tasks)
        self.indices = examples.indices_for(tasks.values(), cfg.data.train_difficult)
        if not self.indices:
            raise UserError(
                f"{examples.folder} has no image with annotations for --task {','.join(tasks)}{only_unusable(examples)}"
            )
        if augment:
            require_learnable(examples, tasks)
            for doubt in (doubt_about_mirroring(examples, tasks, cfg), *doubts_about_boxes(examples, tasks)):
                if doubt:
                    tell(doubt)
        num_points = tokenizers.labels.num_points
        if any(task.needs_skeleton for task in tasks.values()) and num_points != len(examples.skeleton):
            raise UserError(
                f"{examples.folder} has {len(examples.skeleton)} keypoints, the model or the training images have "
                f"{num_points}; both must name the same points"
            )
        self.shrinks = [1] * len(examples)
        if augment:
            self.shrinks = [self._shrink(index) for index in range(len(examples))]
            if cfg.data.cache_gb:
                examples.keep_decoded(self.shrinks, cfg.data.cache_gb)
            self._find_partners()

    def _find_partners(self) -> None:
        """Which images may be put together: some share a mosaic, and on some the objects of `donors` are pasted.

        Only images whose objects are known: others would get captions that no longer fit, and objects without a label.
        An image in a shard gets partners of its shard alone: others may not be here.
        """
        data, examples = self.cfg.data, self.examples
        self.shard_of = examples.shard_numbers()
        self.in_mosaics, self.gets_pasted = np.zeros((2, len(examples)), dtype=bool)
        finding = [task for task in self.image_tasks if task.finds_instances]
        if data.mosaic and finding:
            self.in_mosaics[examples.indices_for(finding, data.train_difficult)] = True
        if data.copy_paste:
            about_objects = [task for task in self.tasks.values() if task.about_objects]
            self.gets_pasted[examples.indices_for(about_objects, data.train_difficult)] = True
            donors = [number for number in np.flatnonzero(self.gets_pasted).tolist() if self._has_masks(number)]
            self.donors = self._by_shard(donors)
            if not self.donors:
                raise UserError(
                    f"--copy-paste {data.copy_paste} needs objects with masks, but {examples.folder} has none for "
                    f"--task {','.join(self.tasks)}; leave it out"
                )
        self.mosaic_images = self._by_shard(np.flatnonzero(self.in_mosaics).tolist())

    def _by_shard(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        """Images by the number of their shard."""
        found: dict[int, list[int]] = {}
        for number in numbers:
            found.setdefault(int(self.shard_of[number]), []).append(number)
        return found

    def _has_masks(self, number: int) -> bool:
        """Whether an image has an object with a mask; of one that is not drawn yet it is not known."""
        if not self.examples.complete:
            return True
        return has_masks(self.examples.annotations(number)[0], self.cfg.data.train_difficult)

    def _shrink(self, index: int) -> int:
        """How many times smaller (1, 2, 4, 8) a JPEG may be decoded so that no canvas magnifies it."""
        model, data, entry = self.cfg.model, self.cfg.data, self.examples.images[index]
        if not entry["file_name"].lower().endswith((".jpg", ".jpeg")):
            return 1
        scales = [max(data.max_scale, data.crop_max_scale) / max(entry.get("width", 1), entry.get("height", 1))]
        if self.cropped_tasks:
            if data.copy_paste or not self.examples.complete:
                return 1  # an object that is not there yet may be so small that its crop needs every pixel
            margin = 1 if model.crop_inside else 1 + 2 * model.crop_padding
            tasks = self.examples.unlabeled_in(index).taught(self.cropped_tasks)
            for annotation in self.examples.annotations(index)[0]:
                if any(task.samples.trains_on([annotation], (), False) for task in tasks):
                    scales.append(data.crop_max_scale / (max(annotation["bbox"][2:]) * margin))
        finest = max(scales) * model.image_size
        return next((shrink for shrink in (8, 4, 2) if shrink * finest <= 1), 1)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def parts(self) -> list[tuple[int, float]]:
        """For each source (number of images, weight), in the order of the indices: for EpochSampler."""
        sources = sources_of(self.examples)
        ends = np.cumsum([0] + [len(source.dataset) for source in sources])
        counts = np.diff(np.searchsorted(self.indices, ends)).tolist()
        return [(count, source.weight) for count, source in zip(counts, sources, strict=True)]

    @property
    def shards(self) -> np.ndarray:
        """The number of the shard (n,) that each image lies in, -1 if in none: for EpochSampler."""
        return self.examples.shard_numbers()[self.indices]

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """`key` is (epoch, index, canvas size in pixels), and a number if the image comes again in the epoch."""
        epoch, index, size, *turn = key
        rng = np.random.default_rng([self.cfg.seed, epoch, index, *turn])
        number, example = self._read(self.indices, index)
        sample = Sample(name=self.examples.name_of(number))
        for _ in range(self.cfg.data.copies_per_image if self.augment else 1):
            self._add_copy(sample, number, example, size, rng)
        return sample

    def _read(self, numbers: Sequence[int], index: int) -> tuple[int, Example]:
        """The image at `index` of `numbers`, or its replacement, and its number."""
        tasks, with_difficult = self.tasks.values(), self.cfg.data.train_difficult
        for step in range(len(numbers)):
            number = numbers[(index + step) % len(numbers)]
            if not self.examples.complete and not self.examples.is_useful(number, tasks, with_difficult):
                continue  # those of a complete dataset are not among `indices`
            try:
                example = self.examples.load(number, self.shrinks[number])
                return number, example if with_difficult else example.without(example.difficult)
            except Unreadable as error:
                if not self.replace_unreadable:
                    raise
                if not self.reported[number]:
                    self.reported[number] = True
                    print(f"replaced by another image: {error}", file=sys.stderr)
        raise UserError(f"{self.examples.folder} has no image that can be read")

    def _add_copy(self, sample: Sample, number: int, example: Example, size: int, rng: np.random.Generator) -> None:
        """Every task's canvases of the image and the sequences about them; no prompted instance is on a mosaic, which
        is too coarse for crops."""
        data = self.cfg.data
        shard = int(self.shard_of[number]) if self.augment else -1
        if self.augment and self.gets_pasted[number] and rng.random() < data.copy_paste and shard in self.donors:
            donors = self.donors[shard]
            _, donor = self._read(donors, rng.integers(len(donors)))
            example = copy_paste(example, donor, data, rng)
        if tasks := example.unlabeled.taught(self.image_tasks):
            if self.augment and self.in_mosaics[number] and rng.random() < data.mosaic:
                view = self._mosaic_view(sample, example, self.mosaic_images[shard], size, rng)
            else:
                view = self._whole_view(sample, example, size, Jitter.of_images(data), rng)
            self._add_sequences(sample, tasks, view, rng)
        for task in example.unlabeled.taught(self.uncropped_tasks):
            self._add_prompts(sample, task, example, size, rng)
        for instance in self._choose_instances(example, rng):
            self._add_crop(sample, example, instance, size, rng)

    def _add_sequences(self, sample: Sample, tasks: Sequence[Task], view: View, rng: np.random.Generator) -> None:
        for task in tasks:
            sample.add(task.name, task.samples.sequences(view, self.tokenizers[task.name], self.cfg, rng))

    def _add_prompts(self, sample: Sample, task: Task, example: Example, size: int, rng: np.random.Generator) -> None:
        """A canvas of the whole image, and prompts for several instances on it."""
        data, labeled = self.cfg.data, task.samples.labeled(example)
        if not labeled.any():
            return
        jitter = dataclasses.replace(Jitter.of_prompts(data), flip=data.flip)
        view = self._whole_view(sample, example, size, jitter, rng)
        shown = is_shown(object_boxes(example, view.geometry), data.min_visible)
        for instance in rng.permutation(np.flatnonzero(labeled & shown))[: data.prompts_per_image]:
            self._add_sequences(sample, [task], dataclasses.replace(view, instance=instance), rng)

    def _choose_instances(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        """Objects that some task on crops can learn from; an object that serves more tasks comes sooner."""
        uses = np.zeros(len(example.classes))
        for task in example.unlabeled.taught(self.cropped_tasks):
            uses += task.samples.labeled(example)
        usable = np.flatnonzero(uses)
        if len(usable) == 0:
            return usable
        count = min(self.cfg.data.crops_per_image, len(usable))
        chance = uses[usable] ** 2
        return rng.choice(usable, count, replace=False, p=chance / chance.sum())

    def _add_crop(self, sample: Sample, example: Example, instance: int, size: int, rng: np.random.Generator) -> None:
        geometry = Geometry.for_instance(example.boxes[instance], example.image, self.cfg.model, size)
        extent = geometry.apply(geometry.region[2:]) if geometry.region else (size, size)
        view = self._view(sample, example, geometry, extent, Jitter.of_prompts(self.cfg.data), rng)
        cropped = example.unlabeled.taught(self.cropped_tasks)
        tasks = [task for task in cropped if task.samples.labeled(example)[instance]]
        self._add_sequences(sample, tasks, dataclasses.replace(view, instance=instance), rng)

    def _whole_view(
        self, sample: Sample, example: Example, size: int, jitter: Jitter, rng: np.random.Generator
    ) -> View:
        height, width = example.image.shape[:2]
        geometry = Geometry.letterbox(width, height, size)
        return self._view(sample, example, geometry, geometry.apply([width, height]), jitter, rng)

    def _mosaic_view(
        self, sample: Sample, example: Example, others: Sequence[int], size: int, rng: np.random.Generator
    ) -> View:
        """Add a mosaic of the image and random `others`, by their numbers, as a canvas."""
        model, data = self.cfg.model, self.cfg.data
        chosen = rng.integers(len(others), size=IMAGES - 1)
        parts = [example, *(self._read(others, index)[1] for index in chosen)]
        parts = [
            dataclasses.replace(part, image=rand_augment(part.image, data.rand_augment, data.rand_magnitude, rng))
            for part in parts
        ]
        composed = mosaic(parts, size, data, model.pad_value, rng, model.pixels)
        sample.canvases.append(jitter_colors(composed.image, data.color_jitter, rng))
        view = View(composed, Geometry.letterbox(size, size, size), augment=True)
        sample.objects.append(view.objects())
        return view

    def _view(
        self,
        sample: Sample,
        example: Example,
        geometry: Geometry,
        extent: Sequence[float],
        jitter: Jitter,
        rng: np.random.Generator,
    ) -> View:
        """Add the image, placed by `geometry` with random changes, as a canvas; return how it lies there."""
        data, image, flipped = self.cfg.data, example.image, False
        if self.augment:
            geometry, flipped = jitter.place(geometry, extent, rng)
            image = rand_augment(image, data.rand_augment, data.rand_magnitude, rng)
        canvas = geometry.warp(image, self.cfg.model.pad_value, self.cfg.model.pixels)
        sample.canvases.append(jitter_colors(canvas, data.color_jitter, rng) if self.augment else canvas)
        view = View(example, geometry, flipped, self.augment)
        sample.objects.append(view.objects())
        return view
