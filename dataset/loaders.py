"""Examples to batches: one canvas for whole-picture tasks, one for each prompted instance, sequences of every task."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from config import CFG, UserError, replace
from dataset.build_captioning_vocab import caption_vocabulary, token_ids_for
from dataset.captioning import caption_sequences
from dataset.coco import Example, PictureDataset
from dataset.detection import detection_sequence, is_shown, object_boxes
from dataset.geometry import Geometry
from dataset.keypoint import has_keypoints, keypoint_sequence, keypoints_on_canvas
from dataset.segmentation import has_mask, segmentation_sequence, shown_polygons
from dataset.skeleton import COCO_PERSON
from dataset.transforms import Jitter, check_augmentation, jitter_box, jitter_colors, rand_augment
from tokenizers.captioning import CaptioningTokenizer, TextVocabulary, WordVocabulary, drop_words
from tokenizers.detection import DetectionTokenizer
from tokenizers.keypoint import KeypointTokenizer, mask_points
from tokenizers.segmentation import SegmentationTokenizer
from tokenizers.vocabulary import TokenSequence

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; annotations are not evaluated

WHOLE_PICTURE_TASKS = {"detection", "captioning"}
CROP_NEEDS = {"segmentation": "segmentation", "keypoint": "keypoints"}  # what makes the crop of an object useful


def build_tokenizers(
    cfg: CFG, class_ids: Sequence[int], text: TextVocabulary, num_points: int = len(COCO_PERSON)
) -> dict:
    """The tokenizer of every task by its name; `num_points` are the keypoints of an instance."""
    vocab_size = cfg.model.vocab_size
    return {
        "detection": DetectionTokenizer(
            vocab_size, class_ids, cfg.train.end_weight, cfg.train.noise_weight, cfg.model.full_detection
        ),
        "segmentation": SegmentationTokenizer(vocab_size, separators=cfg.model.separators),
        "keypoint": KeypointTokenizer(vocab_size, num_points, cfg.train.invisible_weight),
        "captioning": CaptioningTokenizer(vocab_size, text, cfg.model.max_words, cfg.train.caption_end_weight),
    }


def training_tokenizers(training: PictureDataset, cfg: CFG) -> dict:
    """The tokenizers that this split makes: its classes, the points of its skeleton, the words of its captions.

    Their `vocab_size` is that of the settings, or larger where the captions' words need more token ids.
    """
    has_captions = "captioning" in cfg.tasks
    text = caption_vocabulary(training.all_captions(), cfg) if has_captions else WordVocabulary([])
    cfg = replace(cfg, vocab_size=token_ids_for(text, cfg.model.vocab_size))
    return build_tokenizers(cfg, sorted(training.class_names), text, len(training.skeleton))


def check_lengths(cfg: CFG, num_points: int = len(COCO_PERSON)) -> None:
    """Raise UserError unless the longest sequence that may be taught fits into the decoder."""
    objects, points, words = cfg.model.max_objects, cfg.model.max_points, cfg.model.max_words
    longest = {
        "detection": (5 * objects + 1, f"--max-objects {objects}"),
        "segmentation": (2 * points + cfg.model.separators * (points // 3) + 5, f"--max-points {points}"),
        "keypoint": (2 * num_points + 5, f"an instance of {num_points} keypoints"),
        "captioning": (words + 1, f"--max-words {words}"),
    }
    for task, (length, flag) in longest.items():
        if task in cfg.tasks and length > cfg.model.max_tokens:
            raise UserError(
                f"{flag} makes {task} sequences of up to {length} tokens, but --max-tokens is {cfg.model.max_tokens}; "
                f"lower the one or raise the other"
            )


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
    """What one picture teaches: `canvases` (H, W, 3) uint8 with the `objects` on each, and for each task
    (canvas number, sequence) pairs. `name` is that of the picture's file."""

    canvases: list[np.ndarray] = field(default_factory=list)
    objects: list[CanvasObjects] = field(default_factory=list)
    sequences: dict[str, list[tuple[int, TokenSequence]]] = field(default_factory=dict)
    name: str = ""

    def teach(self, task: str, sequence: TokenSequence) -> None:
        """Add a sequence about the last canvas."""
        self.sequences.setdefault(task, []).append((len(self.canvases) - 1, sequence))


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
    """CanvasObjects of B canvases, padded with class 0: `boxes` (B, M, 4), `classes` (B, M), `points` (B, M, P, 2),
    `visible` (B, M, P)."""

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
    """Samples of a PictureDataset for the tasks of `cfg`; the same (seed, epoch, index) gives the same sample.

    `augment` changes pictures and hides what is read as earlier answers. Noise objects and the classes that go with
    them are how such a model speaks: they are in every sample. With `stand_ins` the next picture that can be read
    stands in for one that cannot, which is told once; without, such a picture is a UserError.
    """

    def __init__(
        self, examples: PictureDataset, tokenizers: dict, cfg: CFG, augment: bool, stand_ins: bool = False
    ) -> None:
        self.examples, self.tokenizers, self.cfg, self.augment = examples, tokenizers, cfg, augment
        self.stand_ins = stand_ins
        self.told = torch.zeros(len(examples), dtype=torch.bool).share_memory_()  # by any of the loading processes
        check_lengths(cfg, len(examples.skeleton))
        check_augmentation(cfg)
        whole = WHOLE_PICTURE_TASKS | ({"segmentation"} if cfg.model.segment_whole else set())
        self.crop_tasks = [task for task in cfg.tasks if task not in whole]
        self.indices = examples.indices_for(cfg.tasks, cfg.data.train_difficult)
        if not self.indices:
            mistakes = "; ".join(examples.problems.lines())
            raise UserError(
                f"{examples.folder} has no picture with annotations for --task {cfg.task}"
                + (f", only some that cannot be used: {mistakes}" if mistakes else "")
            )
        if "keypoint" in cfg.tasks and tokenizers["keypoint"].num_points != len(examples.skeleton):
            raise UserError(
                f"{examples.folder} has {len(examples.skeleton)} keypoints, the model or the training pictures have "
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
            margin = 1 if model.crop_inside else 1 + 2 * model.crop_padding
            useful = [CROP_NEEDS[task] for task in self.crop_tasks]
            for annotation in self.examples.objects.get(entry["id"], []):
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
        """The picture at `index` of `indices`, or its stand-in, and its number."""
        for step in range(len(self)):
            number = self.indices[(index + step) % len(self)]
            try:
                return number, self.examples.load(number, self.shrinks[number])
            except UserError as error:
                if not self.stand_ins:
                    raise
                if not self.told[number]:
                    self.told[number] = True
                    print(f"another picture stands in: {error}", file=sys.stderr)
        raise UserError(f"{self.examples.folder} has no picture that can be read")

    def _add_copy(self, sample: Sample, example: Example, size: int, rng: np.random.Generator) -> None:
        """Every task's canvases of the picture and the sequences about them."""
        if WHOLE_PICTURE_TASKS & set(self.cfg.tasks):
            self._add_whole_picture(sample, example, size, rng)
        if "segmentation" in self.cfg.tasks and self.cfg.model.segment_whole and has_mask(example).any():
            self._add_prompted_picture(sample, example, size, rng)
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
        """Add the picture, placed by `geometry` with random changes; return its placement and if it is mirrored."""
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

    def _add_whole_picture(self, sample: Sample, example: Example, size: int, rng: np.random.Generator) -> None:
        cfg, data = self.cfg, self.cfg.data
        geometry, flipped = self._whole_canvas(sample, example, size, Jitter.of_pictures(data), rng)
        if "detection" in cfg.tasks:
            for _ in range(data.orders_per_image):
                sample.teach("detection", detection_sequence(example, geometry, self.tokenizers["detection"], cfg, rng))
        if "captioning" in cfg.tasks:
            tokenizer = self.tokenizers["captioning"]
            for sequence in caption_sequences(example, flipped, tokenizer, data.captions_per_image, rng):
                if self.augment and data.drop_words:
                    sequence = drop_words(sequence, data.drop_words, rng)
                sample.teach("captioning", sequence)

    def _add_prompted_picture(self, sample: Sample, example: Example, size: int, rng: np.random.Generator) -> None:
        """A canvas of the whole picture, for segmentation of several instances on it."""
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
