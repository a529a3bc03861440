"""Examples to batches: one canvas for whole-picture tasks, one for each prompted instance, sequences of every task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from config import CFG, UserError
from dataset.captioning import caption_sequences
from dataset.coco import NUM_KEYPOINTS, CocoDataset, Example
from dataset.detection import detection_sequence
from dataset.geometry import Geometry
from dataset.keypoint import has_keypoints, keypoint_sequence, keypoints_on_canvas
from dataset.segmentation import has_mask, segmentation_sequence
from dataset.transforms import jitter_box, jitter_colors, jitter_geometry
from tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from tokenizers.detection import DetectionTokenizer
from tokenizers.keypoint import KeypointTokenizer
from tokenizers.segmentation import SegmentationTokenizer
from tokenizers.vocabulary import TokenSequence

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; annotations are not evaluated

WHOLE_PICTURE_TASKS = {"detection", "captioning"}
INSTANCE_TASKS = {"segmentation", "keypoint"}


def build_tokenizers(cfg: CFG, class_ids: Sequence[int], words: Sequence[str]) -> dict:
    """The tokenizer of every task by its name."""
    vocab_size = cfg.model.vocab_size
    return {
        "detection": DetectionTokenizer(vocab_size, class_ids, cfg.train.end_weight),
        "segmentation": SegmentationTokenizer(vocab_size),
        "keypoint": KeypointTokenizer(vocab_size, invisible_weight=cfg.train.invisible_weight),
        "captioning": CaptioningTokenizer(vocab_size, WordVocabulary(words)),
    }


def check_lengths(cfg: CFG) -> None:
    """Raise UserError unless the longest sequence that may be taught fits into the decoder."""
    objects, points = cfg.model.max_objects, cfg.model.max_points
    longest = {
        "detection": (5 * objects + 1, f"--max-objects {objects}"),
        "segmentation": (2 * points + points // 3 + 5, f"--max-points {points}"),
    }
    if objects < 1 or points < 3:
        raise UserError(f"expected --max-objects of at least 1 and --max-points of at least 3, got {objects}, {points}")
    for task, (length, flag) in longest.items():
        if task in cfg.tasks and length > cfg.model.max_tokens:
            raise UserError(
                f"{flag} makes {task} sequences of up to {length} tokens, but --max-tokens is {cfg.model.max_tokens}; "
                f"lower the one or raise the other"
            )


@dataclass(frozen=True)
class CanvasObjects:
    """Objects on a canvas, y before x in canvas fractions: `boxes` (M, 4), `classes` (M,), `points` (M, 17, 2),
    `visible` (M, 17)."""

    boxes: np.ndarray
    classes: np.ndarray
    points: np.ndarray
    visible: np.ndarray


@dataclass
class Sample:
    """What one picture teaches: `canvases` (H, W, 3) uint8 with the `objects` on each, and for each task
    (canvas number, sequence) pairs."""

    canvases: list[np.ndarray] = field(default_factory=list)
    objects: list[CanvasObjects] = field(default_factory=list)
    sequences: dict[str, list[tuple[int, TokenSequence]]] = field(default_factory=dict)


class Tensors:
    """A dataclass whose fields are all tensors."""

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""
        return type(self)(*(part.to(device, non_blocking=True) for part in vars(self).values()))


@dataclass(frozen=True)
class TaskBatch(Tensors):
    """Sequences of one task: `tokens`, `targets` (S, L) int64, `weights` (S, L), `image_index` (S,)."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    image_index: Tensor


@dataclass(frozen=True)
class ObjectBatch(Tensors):
    """CanvasObjects of B canvases, padded with class 0: `boxes` (B, M, 4), `classes` (B, M), `points` (B, M, 17, 2),
    `visible` (B, M, 17)."""

    boxes: Tensor
    classes: Tensor
    points: Tensor
    visible: Tensor


@dataclass(frozen=True)
class Batch:
    """`images` (B, 3, H, W) uint8, the `objects` on them, and by task name the sequences about them."""

    images: Tensor
    objects: ObjectBatch
    tasks: dict[str, TaskBatch]

    def to(self, device: torch.device) -> Batch:
        """On `device`, images as floats in [0, 1]."""
        images = self.images.to(device, non_blocking=True).float() / 255
        return Batch(images, self.objects.to(device), {task: part.to(device) for task, part in self.tasks.items()})


class SequenceDataset(Dataset):
    """Samples of a CocoDataset for the tasks of `cfg`; the same (seed, epoch, index) gives the same sample."""

    def __init__(self, examples: CocoDataset, tokenizers: dict, cfg: CFG, augment: bool) -> None:
        self.examples, self.tokenizers, self.cfg, self.augment = examples, tokenizers, cfg, augment
        check_lengths(cfg)
        self.indices = examples.indices_for(cfg.tasks)
        if not self.indices:
            raise UserError(f"{examples.folder} has no picture with annotations for --task {cfg.task}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        """`key` is (epoch, index, canvas size in pixels)."""
        epoch, index, size = key
        rng = np.random.default_rng([self.cfg.seed, epoch, index])
        example = self.examples[self.indices[index]]
        sample = Sample()
        tasks = set(self.cfg.tasks)
        if tasks & WHOLE_PICTURE_TASKS:
            self._add_whole_picture(sample, example, size, rng)
        if tasks & INSTANCE_TASKS:
            for instance in self._choose_instances(example, rng):
                self._add_instance(sample, example, instance, size, rng)
        return sample

    def _canvas(
        self, sample: Sample, example: Example, geometry: Geometry, rng: np.random.Generator
    ) -> tuple[Geometry, bool]:
        """Add the picture, placed by `geometry` with random changes; return its placement and if it is mirrored."""
        data, flipped = self.cfg.data, False
        if self.augment:
            flipped = rng.random() < data.flip
            geometry = jitter_geometry(geometry, data, flipped, rng)
        canvas = geometry.warp(example.image, self.cfg.model.pad_value)
        sample.canvases.append(jitter_colors(canvas, data.color_jitter, rng) if self.augment else canvas)
        sample.objects.append(canvas_objects(example, geometry, flipped))
        return geometry, flipped

    def _add_whole_picture(self, sample: Sample, example: Example, size: int, rng: np.random.Generator) -> None:
        cfg, number = self.cfg, len(sample.canvases)
        height, width = example.image.shape[:2]
        geometry, flipped = self._canvas(sample, example, Geometry.letterbox(width, height, size), rng)
        if "detection" in cfg.tasks:
            tokenizer = self.tokenizers["detection"]
            sample.sequences["detection"] = [
                (number, detection_sequence(example, geometry, tokenizer, cfg.model.max_objects, rng))
                for _ in range(cfg.data.orders_per_image)
            ]
        if "captioning" in cfg.tasks:
            count, tokenizer = cfg.data.captions_per_image, self.tokenizers["captioning"]
            captions = caption_sequences(example, flipped, tokenizer, count, rng)
            sample.sequences["captioning"] = [(number, sequence) for sequence in captions]

    def _choose_instances(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        """Objects that some instance task can be taught on; an object that serves more tasks comes sooner."""
        uses = np.zeros(len(example.classes))
        if "segmentation" in self.cfg.tasks:
            uses += has_mask(example)
        if "keypoint" in self.cfg.tasks:
            uses += has_keypoints(example)
        usable = np.flatnonzero(uses)
        if len(usable) == 0:
            return usable
        count = min(self.cfg.data.crops_per_image, len(usable))
        chance = uses[usable] ** 2
        return rng.choice(usable, count, replace=False, p=chance / chance.sum())

    def _add_instance(
        self, sample: Sample, example: Example, instance: int, size: int, rng: np.random.Generator
    ) -> None:
        cfg, number = self.cfg, len(sample.canvases)
        box = example.boxes[instance]
        geometry, flipped = self._canvas(sample, example, Geometry.crop(box, cfg.model.crop_padding, size), rng)
        prompted = jitter_box(box, cfg.data.box_jitter, rng) if self.augment else box
        prompt_box = np.clip(geometry.box_fractions(prompted[None])[0], 0, 1)
        if "segmentation" in cfg.tasks and example.polygons[instance]:
            tokenizer = self.tokenizers["segmentation"]
            sequence = segmentation_sequence(
                example, instance, prompt_box, geometry, tokenizer, cfg.model.max_points, rng
            )
            sample.sequences.setdefault("segmentation", []).append((number, sequence))
        if "keypoint" in cfg.tasks and has_keypoints(example)[instance]:
            tokenizer = self.tokenizers["keypoint"]
            sequence = keypoint_sequence(example, instance, prompt_box, geometry, flipped, tokenizer)
            sample.sequences.setdefault("keypoint", []).append((number, sequence))


def canvas_objects(example: Example, geometry: Geometry, flipped: bool) -> CanvasObjects:
    """The example's objects as they lie on its canvas."""
    placed = [keypoints_on_canvas(keypoints, geometry, flipped) for keypoints in example.keypoints]
    points = np.array([points for points, _ in placed], dtype=np.float32).reshape(-1, NUM_KEYPOINTS, 2)
    visible = np.array([visible for _, visible in placed], dtype=np.float32).reshape(-1, NUM_KEYPOINTS)
    boxes = np.clip(geometry.box_fractions(example.boxes), 0, 1).astype(np.float32)
    return CanvasObjects(boxes, example.classes, points, visible)


def collate(samples: list[Sample]) -> Batch:
    """Stack canvases and pad each task's sequences to its longest one; a task with no sequence is left out."""
    canvases = np.stack([canvas for sample in samples for canvas in sample.canvases])
    sequences: dict[str, list[tuple[int, TokenSequence]]] = {}
    offset = 0
    for sample in samples:
        for task, pairs in sample.sequences.items():
            sequences.setdefault(task, []).extend((offset + number, sequence) for number, sequence in pairs)
        offset += len(sample.canvases)
    images = torch.from_numpy(canvases).permute(0, 3, 1, 2)
    objects = _pad_objects([objects for sample in samples for objects in sample.objects])
    return Batch(images, objects, {task: _pad(pairs) for task, pairs in sequences.items() if pairs})


def _pad_objects(canvases: list[CanvasObjects]) -> ObjectBatch:
    most = max(max(len(canvas.classes) for canvas in canvases), 1)
    padded = []
    for name in ("boxes", "classes", "points", "visible"):
        parts = [getattr(canvas, name) for canvas in canvases]
        whole = np.zeros((len(parts), most, *parts[0].shape[1:]), dtype=parts[0].dtype)
        for row, part in zip(whole, parts, strict=True):
            row[: len(part)] = part
        padded.append(torch.from_numpy(whole))
    return ObjectBatch(*padded)


def _pad(pairs: list[tuple[int, TokenSequence]]) -> TaskBatch:
    length = max(len(sequence.input) for _, sequence in pairs)
    tokens, targets = np.zeros((2, len(pairs), length), dtype=np.int64)
    weights = np.zeros((len(pairs), length), dtype=np.float32)
    for row, (_, sequence) in enumerate(pairs):
        end = len(sequence.input)
        tokens[row, :end], targets[row, :end], weights[row, :end] = sequence.input, sequence.target, sequence.weight
    image_index = torch.tensor([number for number, _ in pairs])
    return TaskBatch(torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(weights), image_index)


class EpochSampler(Sampler):
    """Batches of keys (epoch, index, canvas size) of one epoch in a random order; each process takes its share."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.size_px, self.limit = 0, 0, 0

    def set_epoch(self, epoch: int, size_px: int, limit: int = 0) -> None:
        """The next pass is `epoch`, on canvases of `size_px`, of at most `limit` batches (0: all)."""
        self.epoch, self.size_px, self.limit = epoch, size_px, limit

    def __len__(self) -> int:
        batches = max(self.length // (self.batch_size * self.world_size), 1)
        return min(batches, self.limit) if self.limit else batches

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        order = np.resize(order, max(self.length, self.world_size))  # no process may be left without a picture
        order = order[self.rank :: self.world_size]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, int(index), self.size_px) for index in order[start : start + self.batch_size]]


def build_loader(dataset: SequenceDataset, sampler: EpochSampler, workers: int) -> DataLoader:
    """Batches made by `workers` processes that live as long as the loader."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_single_thread,
    )


def _single_thread(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
