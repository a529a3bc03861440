"""Samples and batches: reproducible, mirrored consistently, and every sequence assigned to its canvas."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.batches import build_loader, collate
from pix2seq.dataset.caption_vocabulary import caption_vocabulary
from pix2seq.dataset.captioning import caption_sequences, mirror_caption
from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.keypoint import keypoint_sequence
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import Sample, SampleDataset
from pix2seq.dataset.segmentation import segmentation_sequence
from pix2seq.dataset.skeleton import COCO_PERSON
from pix2seq.dataset.sources import open_split
from pix2seq.dataset.transforms import jitter_box, jitter_colors
from pix2seq.dataset.views import CanvasObjects, View
from pix2seq.errors import UserError
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import LabelSpace, TokenSequence, max_length

SIZE = 64
PROMPTS = {"detection": 10, "segmentation": 11, "keypoint": 12, "captioning": 13}
KEYPOINTS = KeypointTokenizer(3000, 17, 0.1)
POLYGONS = SegmentationTokenizer(3000, 24)


def samples_for(cfg: CFG, names: Sequence[str] = tuple(TASKS), augment: bool = True) -> SampleDataset:
    cfg, tasks = config.replace(cfg, task=",".join(names)), choose_tasks(names)
    split = open_split(cfg, "train2017", tasks)
    labels = LabelSpace(sorted(split.class_names), 17, caption_vocabulary(split.all_captions(), cfg))
    return SampleDataset(split, tasks, Tokenizers.build(tasks, cfg, labels), cfg, augment)


def person() -> Example:
    """One person with 17 different keypoints in a square image of 100 × 100 pixels."""
    keypoints = np.stack([np.arange(17) * 5 + 5, np.arange(17) * 4 + 10, np.full(17, 2)], axis=1)[None]
    box = np.array([[5.0, 10, 85, 74]])
    polygon = np.array([[5, 10], [85, 10], [60, 74.0]])
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    return Example(image, 1, box, np.array([1]), [[polygon]], keypoints.astype(float), ["a man left of a dog"])


def assert_same_sample(first: Sample, second: Sample) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(first.canvases, second.canvases, strict=True))
    assert first.sequences.keys() == second.sequences.keys()
    for task, pairs in first.sequences.items():
        for (number, a), (other, b) in zip(pairs, second.sequences[task], strict=True):
            assert number == other
            assert np.array_equal(a.input, b.input) and np.array_equal(a.weight, b.weight)


# Samples


def test_the_same_key_gives_the_same_sample(tiny_cfg: CFG):
    dataset = samples_for(tiny_cfg)
    assert_same_sample(dataset[(3, 5, SIZE)], dataset[(3, 5, SIZE)])


def test_another_epoch_augments_differently(tiny_cfg: CFG):
    dataset = samples_for(tiny_cfg)
    assert not np.array_equal(dataset[(0, 5, SIZE)].canvases[0], dataset[(1, 5, SIZE)].canvases[0])


def test_evaluation_samples_are_the_letterboxed_image(tiny_cfg: CFG):
    dataset = samples_for(tiny_cfg, ["detection"], augment=False)
    image = dataset.examples[2].image
    expected = Geometry.letterbox(image.shape[1], image.shape[0], SIZE).warp(image, tiny_cfg.model.pad_value)
    assert np.array_equal(dataset[(0, 2, SIZE)].canvases[0], expected)


@pytest.mark.parametrize("mosaics", [0.0, 1.0])
def test_canvases_of_exact_pixels_are_trained_on(tiny_cfg: CFG, mosaics: float):
    """Gray levels that are not whole, those between 0 and 255, with the same sequences."""
    cfg = config.replace(tiny_cfg, mosaic=mosaics)
    rounded, exact = (samples_for(config.replace(cfg, pixels=name))[(0, 5, SIZE)] for name in ("uint8", "float32"))
    for whole, canvas in zip(rounded.canvases, exact.canvases, strict=True):
        assert (whole.dtype, canvas.dtype) == (np.uint8, np.float32)
        assert canvas.min() >= 0 and canvas.max() <= 255
        assert 0 < np.abs(canvas - whole).mean() < 1
    images = collate([exact]).to(torch.device("cpu")).images
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(exact.canvases) / np.float32(255))
    for task, pairs in rounded.sequences.items():
        for (_, one), (_, other) in zip(pairs, exact.sequences[task], strict=True):
            assert np.array_equal(one.target, other.target)


def test_the_number_of_workers_changes_nothing(tiny_cfg: CFG):
    dataset = samples_for(tiny_cfg)
    batches = []
    for workers in (0, 2):
        sampler = EpochSampler(len(dataset), 4, seed=0)
        sampler.set_epoch(1, SIZE)
        batches.append(list(build_loader(dataset, sampler, workers)))
    for alone, shared in zip(*batches, strict=True):
        assert torch.equal(alone.images, shared.images)
        assert alone.tasks.keys() == shared.tasks.keys() == set(TASKS)
        for task in alone.tasks:
            assert all(map(torch.equal, vars(alone.tasks[task]).values(), vars(shared.tasks[task]).values()))


@pytest.mark.parametrize("task", TASKS)
def test_each_task_alone_gives_only_its_sequences(tiny_cfg: CFG, task: str):
    dataset = samples_for(tiny_cfg, [task])
    for index in range(len(dataset)):
        sequences = dataset[(0, index, SIZE)].sequences
        assert list(sequences) == [task] and sequences[task]
        assert all(sequence.input[0] == PROMPTS[task] for _, sequence in sequences[task])


def test_a_dataset_without_anything_to_train_on_is_refused(tiny_cfg: CFG):
    tasks = choose_tasks(["keypoint"])
    split = open_split(tiny_cfg, "train2017", tasks)
    split.objects = {}
    tokenizers = Tokenizers.build(tasks, tiny_cfg, LabelSpace([1], 17, WordVocabulary([])))
    with pytest.raises(UserError, match="no image with annotations"):
        SampleDataset(split, tasks, tokenizers, config.replace(tiny_cfg, task="keypoint"), augment=True)


def test_images_of_the_wanted_size_come_out(tiny_cfg: CFG):
    dataset = samples_for(tiny_cfg)
    assert {canvas.shape for canvas in dataset[(0, 0, 48)].canvases} == {(48, 48, 3)}


def test_a_sequence_of_the_most_objects_fits_the_decoder(tiny_cfg: CFG):
    dataset = samples_for(tiny_cfg)
    for index in range(len(dataset)):
        for task, pairs in dataset[(0, index, SIZE)].sequences.items():
            longest = max(len(sequence.input) for _, sequence in pairs)
            assert longest <= max_length(dataset.tokenizers[task]) <= tiny_cfg.model.max_tokens


# Mirrored samples


def test_a_mirrored_person_exchanges_left_and_right_joints():
    geometry = Geometry.letterbox(100, 100, SIZE)
    views = View(person(), geometry, instance=0), View(person(), geometry.flip(), flipped=True, instance=0)
    straight, mirrored = (
        keypoint_sequence(view, np.array([0, 0, 1, 1]), KEYPOINTS).target[5:].reshape(17, 2) for view in views
    )
    assert np.array_equal(mirrored[:, 0], straight[list(COCO_PERSON.flip), 0])
    assert np.allclose(mirrored[:, 1] - 1000, 999 - (straight[list(COCO_PERSON.flip), 1] - 1000), atol=1)


def test_a_mirrored_caption_exchanges_left_and_right():
    assert (
        mirror_caption("A dog left of a left-handed man on the right")
        == "A dog right of a right-handed man on the left"
    )


def test_a_mirrored_caption_exchanges_capitalized_words_too():
    assert mirror_caption("Left of a man").lower() == "right of a man"


def test_mirroring_does_not_change_words_that_only_contain_left():
    assert mirror_caption("bright leftovers") == "bright leftovers"


def test_mirrored_samples_have_mirrored_captions():
    text = WordVocabulary(["<unk>", "a", "dog", "left", "man", "of", "right"])
    tokenizer = CaptioningTokenizer(3200, text, max_words=64, end_weight=1.0)
    (sequence,) = caption_sequences(person(), True, tokenizer, 1, np.random.default_rng(0))
    assert tokenizer.decode(sequence.target) == "a man right of a dog"


def test_polygons_run_the_same_way_round_when_mirrored():
    def doubled_area(geometry: Geometry) -> float:
        sequence = segmentation_sequence(
            person(), 0, np.array([0, 0, 1, 1]), geometry, POLYGONS, np.random.default_rng(0)
        )
        ((y, x),) = (polygon.T for polygon in POLYGONS.decode(sequence.target[5:]))
        return x @ np.roll(y, -1) - y @ np.roll(x, -1)

    geometry = Geometry.letterbox(100, 100, SIZE)
    assert doubled_area(geometry) > 0
    assert doubled_area(geometry.flip()) == pytest.approx(doubled_area(geometry), rel=0.01)


def test_keypoints_off_the_canvas_are_invisible():
    geometry = Geometry.crop(np.array([0.0, 0, 50, 50]), 0.0, SIZE)
    sequence = keypoint_sequence(View(person(), geometry, instance=0), np.array([0, 0, 1, 1]), KEYPOINTS)
    found = KEYPOINTS.decode(sequence.target[5:], np.ones(34))
    inside = (person().keypoints[0, :, :2] <= 50).all(axis=1)
    assert np.array_equal(found.visible, inside)


def test_a_task_without_sequences_is_not_in_the_sample():
    sequence = TokenSequence.from_response(np.array([10]), np.array([0]), np.ones(1))
    sample = Sample(canvases=[np.zeros((4, 4, 3), dtype=np.uint8)] * 2)
    sample.add("segmentation", [])
    sample.add("detection", [sequence, sequence])
    assert sample.sequences == {"detection": [(1, sequence), (1, sequence)]}


# Batches


def sample_of(canvases: list[np.ndarray], sequences: dict[str, list[tuple[int, TokenSequence]]]) -> Sample:
    """A sample whose canvases show no objects."""
    none = np.zeros(0, dtype=np.int64)
    nothing = CanvasObjects(np.zeros((0, 4)), none, np.zeros((0, 17, 2)), np.zeros((0, 17)), none)
    return Sample(canvases, [nothing] * len(canvases), sequences)


def test_image_index_points_at_the_canvas_of_each_sequence():
    def sample(color: int, canvases: int, tasks: dict[str, list[int]]) -> Sample:
        """Sequences whose first token is their canvas's gray level."""
        pixels = [np.full((4, 4, 3), color + number, dtype=np.uint8) for number in range(canvases)]
        sequence = {
            number: TokenSequence.from_response(np.array([color + number]), np.array([7, 0]), np.ones(2))
            for number in range(canvases)
        }
        return sample_of(pixels, {task: [(number, sequence[number]) for number in ns] for task, ns in tasks.items()})

    batch = collate(
        [
            sample(10, 2, {"detection": [0, 0], "keypoint": [1]}),
            sample(20, 1, {"detection": [0]}),
            sample(30, 3, {"detection": [0], "keypoint": [1, 2]}),
        ]
    )
    assert batch.images.shape == (6, 3, 4, 4)
    for part in batch.tasks.values():
        assert torch.equal(batch.images[part.image_index, 0, 0, 0].long(), part.tokens[:, 0])
    assert batch.tasks["keypoint"].tokens[:, 0].tolist() == [11, 31, 32]


def test_padding_is_not_trained():
    sequences = [
        TokenSequence.from_response(np.array([10]), np.array([5] * length + [0]), np.ones(length + 1))
        for length in (1, 6)
    ]
    canvas = np.zeros((4, 4, 3), dtype=np.uint8)
    part = collate([sample_of([canvas], {"detection": [(0, sequence) for sequence in sequences]})]).tasks["detection"]
    assert part.weights.tolist() == [[1] * 2 + [0] * 5, [1] * 7]
    assert not part.tokens[0, 2:].any() and not part.targets[0, 2:].any()


def test_a_task_without_sequences_is_left_out_of_the_batch():
    canvas = np.zeros((4, 4, 3), dtype=np.uint8)
    sequence = TokenSequence.from_response(np.array([10]), np.array([0]), np.ones(1))
    assert list(collate([sample_of([canvas], {"captioning": [], "detection": [(0, sequence)]})]).tasks) == ["detection"]


def test_the_objects_of_a_canvas_are_in_its_row(tiny_cfg: CFG):
    dataset = samples_for(tiny_cfg)
    samples = [dataset[(0, index, SIZE)] for index in range(4)]
    batch = collate(samples)
    canvases = [objects for sample in samples for objects in sample.objects]
    assert len(batch.objects.classes) == len(batch.images) == len(canvases)
    for row, objects in enumerate(canvases):
        count = len(objects.classes)
        assert batch.objects.classes[row].tolist() == [
            *objects.classes,
            *[0] * (batch.objects.classes.shape[1] - count),
        ]
        np.testing.assert_array_equal(batch.objects.boxes[row, :count], objects.boxes)


# Order of an epoch


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_an_epoch_without_overlap(world_size: int):
    seen = []
    for rank in range(world_size):
        sampler = EpochSampler(50, 4, 0, rank, world_size)
        sampler.set_epoch(2, SIZE)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 50 // (4 * world_size)
        assert all(len(batch) == 4 for batch in batches)
        seen += [index for batch in batches for _, index, _ in batch]
    assert len(set(seen)) == len(seen)


def test_epochs_come_in_different_orders():
    sampler = EpochSampler(50, 4, 0)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch, SIZE)
        orders.append([index for batch in sampler for _, index, _ in batch])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_fewer_images_than_a_batch_still_make_one_batch(world_size: int):
    for rank in range(world_size):
        (batch,) = EpochSampler(3, 4, 0, rank, world_size)
        assert len(batch) >= 1


# Random changes


def test_a_jittered_box_stays_near_and_in_order():
    box = np.array([10.0, 20, 110, 60])
    rng = np.random.default_rng(0)
    moved = np.array([jitter_box(box, 0.1, rng) for _ in range(200)])
    assert np.all(np.abs(moved - box) <= 0.3 * np.array([100, 40, 100, 40]))
    assert np.all(moved[:, :2] < moved[:, 2:])


def test_colors_change_within_their_amount():
    image = np.full((8, 8, 3), 100, dtype=np.uint8)
    changed = [jitter_colors(image, 0.2, np.random.default_rng(seed)) for seed in range(50)]
    assert all(other.min() >= 79 and other.max() <= 120 for other in changed)
    assert len({int(other[0, 0, 0]) for other in changed}) > 10


def test_no_color_jitter_changes_no_pixel():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(jitter_colors(image, 0.0, np.random.default_rng(0)), image)
