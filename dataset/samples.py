"""Examples to samples: one canvas for whole-image tasks, one for each prompted instance, sequences of every task."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from pix2seq.config import CFG
from pix2seq.dataset.captioning import caption_sequences
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.detection import detection_sequence, is_shown, object_boxes
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.keypoint import has_keypoints, keypoint_sequence, keypoints_on_canvas
from pix2seq.dataset.segmentation import has_mask, segmentation_sequence, shown_polygons
from pix2seq.dataset.transforms import Jitter, check_augmentation, jitter_box, jitter_colors, rand_augment
from pix2seq.errors import UserError
from pix2seq.tokenizers.build import check_lengths
from pix2seq.tokenizers.captioning import drop_words
from pix2seq.tokenizers.keypoint import mask_points
from pix2seq.tokenizers.vocabulary import TokenSequence

if TYPE_CHECKING:
    pass  # Python 3.11; annotations are not evaluated

WHOLE_IMAGE_TASKS = {"detection", "captioning"}
CROP_NEEDS = {"segmentation": "segmentation", "keypoint": "keypoints"}  # what makes the crop of an object useful


@dataclass(frozen=True)
class CanvasObjects:
    """Objects on a canvas, y before x in canvas fractions: `boxes` (M, 4), `classes` (M,), `points` (M, P, 2),
    `visible` (M, P)."""

    boxes: np.ndarray
    classes: np.ndarray
    points: np.ndarray
    visible: np.ndarray


@dataclass
class Sample:
    """What one image teaches: `canvases` (H, W, 3) uint8 with the `objects` on each, and for each task
    (canvas number, sequence) pairs. `name` is that of the image's file."""

    canvases: list[np.ndarray] = field(default_factory=list)
    objects: list[CanvasObjects] = field(default_factory=list)
    sequences: dict[str, list[tuple[int, TokenSequence]]] = field(default_factory=dict)
    name: str = ""

    def teach(self, task: str, sequence: TokenSequence) -> None:
        """Add a sequence about the last canvas."""
        self.sequences.setdefault(task, []).append((len(self.canvases) - 1, sequence))


class SequenceDataset(Dataset):
    """Samples of a ImageDataset for the tasks of `cfg`; the same (seed, epoch, index) gives the same sample.

    `augment` changes images and hides what is read as earlier answers. Noise objects and the classes that go with
    them are how such a model speaks: they are in every sample. With `stand_ins` the next image that can be read
    stands in for one that cannot, which is told once; without, such an image is a UserError.
    """

    def __init__(
        self, examples: ImageDataset, tokenizers: dict, cfg: CFG, augment: bool, stand_ins: bool = False
    ) -> None:
        self.examples, self.tokenizers, self.cfg, self.augment = examples, tokenizers, cfg, augment
        self.stand_ins = stand_ins
        self.told = torch.zeros(len(examples), dtype=torch.bool).share_memory_()  # by any of the loading processes
        check_lengths(cfg, len(examples.skeleton))
        check_augmentation(cfg)
        whole = WHOLE_IMAGE_TASKS | ({"segmentation"} if cfg.model.segment_whole else set())
        self.crop_tasks = [task for task in cfg.tasks if task not in whole]
        self.indices = examples.indices_for(cfg.tasks, cfg.data.train_difficult)
        if not self.indices:
            mistakes = "; ".join(examples.problems.lines())
            raise UserError(
                f"{examples.folder} has no image with annotations for --task {cfg.task}"
                + (f", only some that cannot be used: {mistakes}" if mistakes else "")
            )
        if "keypoint" in cfg.tasks and tokenizers["keypoint"].num_points != len(examples.skeleton):
            raise UserError(
                f"{examples.folder} has {len(examples.skeleton)} keypoints, the model or the training images have "
                f"{tokenizers['keypoint'].num_points}; both must name the same points"
            )
        self.shrinks = [1] * len(examples)
        if augment:
            self.shrinks = [self._shrink(index) for index in range(len(examples))]
            if cfg.data.cache_gb:
                examples.keep_decoded(self.shrinks, cfg.data.cache_gb)

    def _shrink(self, index: int) -> int:
        """How many times smaller (1, 2, 4, 8) a JPEG may be decoded so that no canvas magnifies it."""
        model, data, entry = self.cfg.model, self.cfg.data, self.examples.images[index]
        if not entry["file_name"].lower().endswith((".jpg", ".jpeg")):
            return 1
        scales = [max(data.max_scale, data.crop_max_scale) / max(entry.get("width", 1), entry.get("height", 1))]
        if self.crop_tasks:
            if not self.examples.complete:
                return 1  # an object that is not drawn yet may be so small that its crop needs every pixel
            margin = 1 if model.crop_inside else 1 + 2 * model.crop_padding
            useful = [CROP_NEEDS[task] for task in self.crop_tasks]
            for annotation in self.examples.annotations(index)[0]:
                if any(annotation.get(part) for part in useful):
                    scales.append(data.crop_max_scale / (max(annotation["bbox"][2:]) * margin))
        finest = max(scales) * model.image_size
        return next((shrink for shrink in (8, 4, 2) if shrink * finest <= 1), 1)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        """`key` is (epoch, index, canvas size in pixels)."""
        epoch, index, size = key
        rng = np.random.default_rng([self.cfg.seed, epoch, index])
        number, example = self._read(index)
        if not self.cfg.data.train_difficult:
            example = example.without(example.difficult)
        sample = Sample(name=self.examples.images[number]["file_name"])
        for _ in range(self.cfg.data.copies_per_image if self.augment else 1):
            self._add_copy(sample, example, size, rng)
        return sample

    def _read(self, index: int) -> tuple[int, Example]:
        """The image at `index` of `indices`, or its stand-in, and its number."""
        data = self.cfg.data
        for step in range(len(self)):
            number = self.indices[(index + step) % len(self)]
            if not self.examples.complete and not self.examples.is_useful(number, self.cfg.tasks, data.train_difficult):
                continue  # those of a complete dataset are not among `indices`
            try:
                return number, self.examples.load(number, self.shrinks[number])
            except UserError as error:
                if not self.stand_ins:
                    raise
                if not self.told[number]:
                    self.told[number] = True
                    print(f"another image stands in: {error}", file=sys.stderr)
        raise UserError(f"{self.examples.folder} has no image that can be read")

    def _add_copy(self, sample: Sample, example: Example, size: int, rng: np.random.Generator) -> None:
        """Every task's canvases of the image and the sequences about them."""
        if WHOLE_IMAGE_TASKS & set(self.cfg.tasks):
            self._add_whole_image(sample, example, size, rng)
        if "segmentation" in self.cfg.tasks and self.cfg.model.segment_whole and has_mask(example).any():
            self._add_prompted_image(sample, example, size, rng)
        for instance in self._choose_instances(example, rng):
            self._add_crop(sample, example, instance, size, rng)

    def _canvas(
        self,
        sample: Sample,
        example: Example,
        geometry: Geometry,
        extent: Sequence[float],
        jitter: Jitter,
        rng: np.random.Generator,
    ) -> tuple[Geometry, bool]:
        """Add the image, placed by `geometry` with random changes; return its placement and if it is mirrored."""
        data, image, flipped = self.cfg.data, example.image, False
        if self.augment:
            geometry, flipped = jitter.place(geometry, extent, rng)
            image = rand_augment(image, data.rand_augment, data.rand_magnitude, rng)
        canvas = geometry.warp(image, self.cfg.model.pad_value)
        sample.canvases.append(jitter_colors(canvas, data.color_jitter, rng) if self.augment else canvas)
        sample.objects.append(canvas_objects(example, geometry, flipped))
        return geometry, flipped

    def _whole_canvas(
        self, sample: Sample, example: Example, size: int, jitter: Jitter, rng: np.random.Generator
    ) -> tuple[Geometry, bool]:
        height, width = example.image.shape[:2]
        geometry = Geometry.letterbox(width, height, size)
        return self._canvas(sample, example, geometry, geometry.apply([width, height]), jitter, rng)

    def _add_whole_image(self, sample: Sample, example: Example, size: int, rng: np.random.Generator) -> None:
        cfg, data = self.cfg, self.cfg.data
        geometry, flipped = self._whole_canvas(sample, example, size, Jitter.of_images(data), rng)
        if "detection" in cfg.tasks:
            for _ in range(data.orders_per_image):
                sample.teach("detection", detection_sequence(example, geometry, self.tokenizers["detection"], cfg, rng))
        if "captioning" in cfg.tasks:
            tokenizer = self.tokenizers["captioning"]
            for sequence in caption_sequences(example, flipped, tokenizer, data.captions_per_image, rng):
                if self.augment and data.drop_words:
                    sequence = drop_words(sequence, data.drop_words, rng)
                sample.teach("captioning", sequence)

    def _add_prompted_image(self, sample: Sample, example: Example, size: int, rng: np.random.Generator) -> None:
        """A canvas of the whole image, for segmentation of several instances on it."""
        data = self.cfg.data
        jitter = dataclasses.replace(Jitter.of_prompts(data), flip=data.flip)
        geometry, _ = self._whole_canvas(sample, example, size, jitter, rng)
        shown = is_shown(object_boxes(example, geometry), data.min_visible)
        for instance in rng.permutation(np.flatnonzero(has_mask(example) & shown))[: data.prompts_per_image]:
            self._teach_segmentation(sample, example, instance, geometry, rng)

    def _choose_instances(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        """Objects that some task on crops can be taught on; an object that serves more tasks comes sooner."""
        uses = np.zeros(len(example.classes))
        if "segmentation" in self.crop_tasks:
            uses += has_mask(example)
        if "keypoint" in self.crop_tasks:
            uses += has_keypoints(example)
        usable = np.flatnonzero(uses)
        if len(usable) == 0:
            return usable
        count = min(self.cfg.data.crops_per_image, len(usable))
        chance = uses[usable] ** 2
        return rng.choice(usable, count, replace=False, p=chance / chance.sum())

    def _add_crop(self, sample: Sample, example: Example, instance: int, size: int, rng: np.random.Generator) -> None:
        data = self.cfg.data
        geometry = Geometry.for_instance(example.boxes[instance], example.image, self.cfg.model, size)
        extent = geometry.apply(geometry.region[2:]) if geometry.region else (size, size)
        geometry, flipped = self._canvas(sample, example, geometry, extent, Jitter.of_prompts(data), rng)
        if "segmentation" in self.crop_tasks and example.polygons[instance]:
            self._teach_segmentation(sample, example, instance, geometry, rng)
        if "keypoint" in self.crop_tasks and has_keypoints(example)[instance]:
            box = self._prompt_box(example, instance, geometry, rng)
            sequence = keypoint_sequence(example, instance, box, geometry, flipped, self.tokenizers["keypoint"])
            if self.augment and data.mask_points:
                sequence = mask_points(sequence, rng.random(), rng)
            sample.teach("keypoint", sequence)

    def _prompt_box(self, example: Example, instance: int, geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
        """The box (4,) in canvas fractions that points at an instance."""
        box = object_boxes(example, geometry)[instance]
        return np.clip(jitter_box(box, self.cfg.data.box_jitter, rng) if self.augment else box, 0, 1)

    def _teach_segmentation(
        self, sample: Sample, example: Example, instance: int, geometry: Geometry, rng: np.random.Generator
    ) -> None:
        if not shown_polygons(example, instance, geometry):
            return
        box, tokenizer = self._prompt_box(example, instance, geometry, rng), self.tokenizers["segmentation"]
        points, shuffle = self.cfg.model.max_points, self.cfg.data.shuffle_polygons
        sequence = segmentation_sequence(example, instance, box, geometry, tokenizer, points, rng, shuffle)
        sample.teach("segmentation", sequence)


def canvas_objects(example: Example, geometry: Geometry, flipped: bool) -> CanvasObjects:
    """The example's objects as they lie on its canvas."""
    skeleton = example.skeleton
    placed = [keypoints_on_canvas(keypoints, geometry, flipped, skeleton) for keypoints in example.keypoints]
    points = np.array([points for points, _ in placed], dtype=np.float32).reshape(-1, len(skeleton), 2)
    visible = np.array([visible for _, visible in placed], dtype=np.float32).reshape(-1, len(skeleton))
    boxes = np.clip(object_boxes(example, geometry), 0, 1).astype(np.float32)
    return CanvasObjects(boxes, example.classes, points, visible)
