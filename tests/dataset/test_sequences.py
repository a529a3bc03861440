"""Sequence augmentation: noise objects, object order, hidden inputs, and what is never trained."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pix2seq import config
from pix2seq.config import CFG, PAPER_DATA
from pix2seq.dataset.batches import build_loader
from pix2seq.dataset.caption_vocabulary import caption_vocabulary
from pix2seq.dataset.coco import Example
from pix2seq.dataset.detection import detection_sequence, noise_boxes, order_objects, truncated_normal
from pix2seq.dataset.geometry import Geometry, clip_polygon
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.segmentation import segmentation_sequence, shown_polygons
from pix2seq.dataset.sources import open_split
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.token_ids import CLASS_SHIFT, END, FAKE, INVISIBLE
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import LabelSpace, dequantize, max_length

SIZE = 64
PROMPTS = {"detection": 10, "segmentation": 11, "keypoint": 12, "captioning": 13}
UNIT = np.array([0.0, 0, 1, 1])
COORDINATES, CLASS = slice(0, 4), 4


def paper_cfg(cfg: CFG, **values) -> CFG:
    """The papers' augmentation on the tests' own images, colors and angles on top."""
    data = dataclasses.replace(PAPER_DATA, data_root=cfg.data.data_root, workers=0, rand_augment=2, crop_rotation=30.0)
    return config.replace(dataclasses.replace(cfg, data=data), **{"full_detection": True} | values)


def samples_for(cfg: CFG, augment: bool = True) -> SampleDataset:
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, "train2017", tasks)
    text = caption_vocabulary(split.all_captions(), cfg) if "captioning" in cfg.tasks else WordVocabulary(["<unk>"])
    tokenizers = Tokenizers.build(tasks, cfg, LabelSpace(sorted(split.class_names), 17, text))
    return SampleDataset(split, tasks, tokenizers, cfg, augment)


def objects_of(sequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets and weights (n, 5) of a detection sequence's objects."""
    count = len(sequence.target) // 5
    # The prompt stands first in the input: each target is what is read next.
    read = np.append(sequence.input[1:], END)
    return tuple(part[: 5 * count].reshape(count, 5) for part in (read, sequence.target, sequence.weight))


def two_objects(polygons: list | None = None) -> Example:
    """Two objects in the left half of an image of 200 × 100 pixels."""
    boxes = np.array([[10.0, 60, 30, 90], [20, 5, 90, 50]])
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    return Example(image, 1, boxes, np.array([3, 7]), polygons or [[], []], np.zeros((2, 17, 3)), [])


def detect(example: Example, seed: int = 0, **values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cfg = config.replace(CFG(), max_objects=12, full_detection=True, **values)
    tokenizer = DetectionTokenizer(3000, [3, 7], 12, cfg.train.end_weight, cfg.train.noise_weight, full=True)
    geometry = Geometry.letterbox(200, 100, SIZE)
    return objects_of(detection_sequence(example, geometry, tokenizer, cfg, np.random.default_rng(seed)))


# Noise objects


def test_real_objects_come_first_then_noise_to_the_most():
    for seed in range(20):
        _, target, _ = detect(two_objects(), seed, noise_objects=True)
        assert set(target[:2, CLASS]) == {3 + CLASS_SHIFT, 7 + CLASS_SHIFT}
        assert target[2:, CLASS].tolist() == [FAKE] * 10


def test_only_the_class_of_noise_is_trained():
    _, _, weight = detect(two_objects(), noise_objects=True, noise_weight=0.7)
    assert np.all(weight[:2] == 1)
    assert np.all(weight[2:, COORDINATES] == 0) and np.allclose(weight[2:, CLASS], 0.7)


def test_real_boxes_stay_as_they_are_beside_noise():
    _, plain, _ = detect(two_objects(), object_order="area")
    _, noisy, _ = detect(two_objects(), object_order="area", noise_objects=True)
    assert np.array_equal(plain[:2], noisy[:2])


def test_noise_lies_on_the_image_and_not_in_the_padding():
    for seed in range(20):
        _, target, _ = detect(two_objects(), seed, noise_objects=True)
        boxes = dequantize(target[:, COORDINATES])
        assert np.all(boxes[:, 2] <= 0.5 + 1e-3) and np.all(boxes[:, :2] <= boxes[:, 2:])


def test_an_image_without_objects_is_nothing_but_noise():
    nothing = Example(
        np.zeros((9, 9, 3), np.uint8), 1, np.zeros((0, 4)), np.zeros(0, int), [], np.zeros((0, 17, 3)), []
    )
    _, target, _ = detect(nothing, noise_objects=True)
    assert target[:, CLASS].tolist() == [FAKE] * 12
    assert len(np.unique(target[:, COORDINATES], axis=0)) == 12


def near_duplicates(boxes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Which noise boxes (n,) lie on a ground truth box, with edges at most a tenth of a side away."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return (np.abs(noise[:, None] - boxes) <= 0.1 * sides + 1e-6).all(axis=2).any(axis=1)


def test_noise_has_the_composition_of_the_official_sample(reference):
    sample = reference("noise_bbox_sample.npz")
    boxes, count = sample["bbox_in"].astype(float), int(sample["n_noise"])
    assert np.array_equal(sample["bbox_out"][: len(boxes)], sample["bbox_in"])
    assert sample["label_out"].tolist() == [*sample["label_in"], *[FAKE - CLASS_SHIFT] * count]

    def make_up(noise: np.ndarray) -> tuple[int, int]:
        """Numbers of duplicated objects, and of objects of exactly a real one's size elsewhere (if not clipped)."""
        doubled = near_duplicates(boxes, noise)
        sizes, true_sizes = noise[:, 2:] - noise[:, :2], boxes[:, 2:] - boxes[:, :2]
        moved = (np.abs(sizes[:, None] - true_sizes) < 1e-5).all(axis=2).any(axis=1) & ~doubled
        return int(doubled.sum()), int(moved.sum())

    rng = np.random.default_rng(0)
    draws = np.array([make_up(noise_boxes(boxes, count, UNIT, rng)) for _ in range(400)])
    official = make_up(sample["bbox_out"][len(boxes) :].astype(float))
    assert tuple(official) in {tuple(draw) for draw in draws.tolist()}
    assert set(draws[:, 0]) == set(range(count + 1))
    assert draws[:, 0].mean() == pytest.approx(count / 2, abs=0.5)
    assert 0 < draws[:, 1].mean() < count / 4  # half of the rest, less those that the image's edge cuts


@given(st.integers(0, 6), st.integers(0, 40), st.integers(0, 2**16))
def test_noise_boxes_have_the_requested_number_and_lie_inside(objects: int, count: int, seed: int):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0.1, 0.6, (objects, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    area = np.array([0.1, 0.0, 0.6, 0.9])
    noise = noise_boxes(boxes, count, area, rng)
    assert noise.shape == (count, 4)
    assert np.all(noise >= np.tile(area[:2], 2)) and np.all(noise <= np.tile(area[2:], 2))
    assert np.all(noise[:, :2] <= noise[:, 2:])


def test_truncated_normal_numbers_end_at_two_deviations():
    values = truncated_normal(0.5, (4000,), np.random.default_rng(0))
    assert np.abs(values).max() <= 1
    assert values.std() == pytest.approx(0.5 * 0.88, abs=0.02)


# Classes that are read as earlier tokens


@pytest.mark.parametrize("mode", ["rand_cls", "rand_n_fake_cls"])
def test_corrupted_inputs_do_not_reveal_the_class_of_the_targets(mode: str):
    real = np.array([3, 7]) + CLASS_SHIFT
    classes = []
    for seed in range(40):
        read, target, _ = detect(two_objects(), seed, noise_objects=True, class_corruption=mode)
        assert np.array_equal(read[:, COORDINATES], target[:, COORDINATES])
        assert set(target[:2, CLASS]) == set(real)
        classes += read[:-1, CLASS].tolist()  # the last class is never read
    assert np.mean(np.isin(classes, real)) < 0.02
    assert np.mean(np.array(classes) == FAKE) == pytest.approx(0.5 if mode == "rand_n_fake_cls" else 0, abs=0.1)


def test_uncorrupted_inputs_are_the_targets():
    read, target, _ = detect(two_objects(), noise_objects=True)
    assert np.array_equal(read.ravel()[:-1], target.ravel()[:-1])


# Order of objects


def test_objects_by_area_begin_with_the_largest():
    boxes = np.array([[0, 0, 0.1, 0.1], [0.5, 0.5, 0.9, 0.9], [0, 0, 0.2, 0.3]])
    assert order_objects(boxes, "area", np.random.default_rng(0)).tolist() == [1, 2, 0]


def test_objects_by_distance_begin_in_the_upper_left():
    boxes = np.array([[0.9, 0, 1, 0.1], [0.1, 0.7, 0.9, 0.9], [0.3, 0.3, 0.4, 0.4]])
    assert order_objects(boxes, "distance", np.random.default_rng(0)).tolist() == [2, 1, 0]


def test_objects_in_random_order_come_in_every_order():
    boxes, rng = np.zeros((3, 4)), np.random.default_rng(0)
    assert len({tuple(order_objects(boxes, "random", rng)) for _ in range(60)}) == 6


def test_of_too_many_objects_the_first_in_order_are_kept():
    _, target, _ = detect(two_objects(), object_order="area")
    cfg = config.replace(CFG(), max_objects=1, object_order="area")
    geometry, tokenizer = Geometry.letterbox(200, 100, SIZE), DetectionTokenizer(3000, [3, 7], 1, 0.1, 1.0)
    _, first, _ = objects_of(detection_sequence(two_objects(), geometry, tokenizer, cfg, np.random.default_rng(0)))
    assert np.array_equal(first, target[:1]) and first[0, CLASS] == 7 + CLASS_SHIFT


@pytest.mark.parametrize("most, has_end", [(1, False), (2, True), (3, True)])
def test_a_sequence_that_is_cut_at_the_most_objects_has_no_end(most: int, has_end: bool):
    cfg, tokenizer = config.replace(CFG(), max_objects=most), DetectionTokenizer(3000, [3, 7], most, 0.1, 1.0)
    geometry, rng = Geometry.letterbox(200, 100, SIZE), np.random.default_rng(0)
    target = detection_sequence(two_objects(), geometry, tokenizer, cfg, rng).target
    assert len(target) == 5 * min(most, 2) + has_end
    assert target.tolist().count(END) == has_end


# Polygons


polygons_around_the_canvas = st.lists(st.tuples(st.floats(-1, 2), st.floats(-1, 2)), min_size=3, max_size=9).map(
    np.array
)


@given(polygons_around_the_canvas)
def test_clipped_polygons_are_on_the_canvas(polygon: np.ndarray):
    clipped = clip_polygon(polygon)
    assert np.all((clipped >= -1e-9) & (clipped <= 1 + 1e-9))
    assert len(clipped) == 0 or len(clipped) >= 3


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3).map(np.array))
def test_polygons_on_the_canvas_are_not_clipped(polygon: np.ndarray):
    assert np.array_equal(clip_polygon(polygon), polygon)


def test_a_clipped_polygon_keeps_the_slope_of_its_sides():
    clipped = clip_polygon(np.array([[0.2, 0.5], [0.8, 0.5], [0.5, 1.5]]))
    assert {tuple(point) for point in clipped.round(6)} == {(0.2, 0.5), (0.8, 0.5), (0.65, 1.0), (0.35, 1.0)}


def test_polygons_start_where_they_are_annotated_unless_shuffled():
    outline = np.array([[10.0, 60], [30, 60], [30, 90], [10, 90]])
    example, geometry = two_objects([[outline], []]), Geometry.letterbox(200, 100, SIZE)
    tokenizer = SegmentationTokenizer(3000, 24)

    def start(shuffle: bool, seed: int) -> tuple:
        rng = np.random.default_rng(seed)
        sequence = segmentation_sequence(example, 0, UNIT, geometry, tokenizer, rng, shuffle)
        return tuple(sequence.target[5:7])

    fixed, shuffled = ({start(shuffle, seed) for seed in range(30)} for shuffle in (False, True))
    assert fixed == {tuple(np.rint(geometry.to_fractions(outline[0]) * 999).astype(int) + 1000)}
    assert len(shuffled) == 4


@pytest.mark.parametrize("separators", [1, 2])
@given(polygons=st.lists(polygons_around_the_canvas, min_size=1, max_size=12), max_points=st.integers(3, 25))
def test_no_mask_makes_a_sequence_longer_than_the_longest(polygons: list[np.ndarray], max_points: int, separators: int):
    geometry, tokenizer = Geometry.letterbox(200, 100, SIZE), SegmentationTokenizer(3000, max_points, separators)
    example = two_objects([[geometry.from_fractions(polygon) for polygon in polygons], []])
    if shown_polygons(example, 0, geometry):
        sequence = segmentation_sequence(example, 0, UNIT, geometry, tokenizer, np.random.default_rng(0))
        assert len(sequence.input) <= max_length(tokenizer)
        assert tokenizer.grammar().accepts(sequence.response(tokenizer.prompt_length))


def test_polygons_off_the_canvas_are_not_trained_on():
    outside, inside = np.array([[110.0, 60], [130, 60], [130, 90]]), np.array([[10.0, 60], [30, 60], [30, 90]])
    geometry = Geometry.crop(np.array([0.0, 0, 100, 100]), 0.0, SIZE)
    found = shown_polygons(two_objects([[outside, inside], [outside]]), 0, geometry)
    assert len(found) == 1 and np.array_equal(found[0], geometry.to_fractions(inside))
    assert shown_polygons(two_objects([[], [outside]]), 1, geometry) == []


# Everything on


@pytest.fixture
def everything(tiny_cfg: CFG) -> SampleDataset:
    """The papers' augmentation of all tasks."""
    return samples_for(paper_cfg(tiny_cfg))


def all_sequences(dataset: SampleDataset) -> list[tuple[str, object]]:
    samples = [dataset[(0, index, SIZE)] for index in range(len(dataset))]
    return [(task, pair[1]) for sample in samples for task, pairs in sample.sequences.items() for pair in pairs]


@pytest.mark.parametrize("segment_whole", [False, True])
def test_prompts_are_never_trained(tiny_cfg: CFG, segment_whole: bool):
    found = set()
    for task, sequence in all_sequences(samples_for(paper_cfg(tiny_cfg, segment_whole=segment_whole))):
        prompt_length = 1 if task in ("detection", "captioning") else 6
        assert not sequence.weight[: prompt_length - 1].any()
        assert sequence.weight[prompt_length - 1 :].any()
        if task != "captioning":  # a hidden caption may hide its prompt as well
            assert sequence.input[0] == PROMPTS[task]
        found.add(task)
    assert found == set(TASKS)


def test_only_inputs_of_the_responses_are_hidden(everything: SampleDataset):
    hidden = {"keypoint": 0, "captioning": 0}
    shares = []
    for task, sequence in all_sequences(everything):
        if task == "keypoint":
            changed = sequence.input[1:] != sequence.target[:-1]
            assert not changed[:5].any() and np.all(sequence.input[1:][changed] == INVISIBLE)
            hidden[task] += changed.sum()
        if task == "captioning":
            changed = sequence.input[1:] != sequence.target[:-1]
            assert np.all(sequence.input[1:][changed] == FAKE)
            hidden[task] += changed.sum()
            shares.append(changed.mean())
    assert all(hidden.values())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.12)


def test_evaluation_hides_no_input(tiny_cfg: CFG):
    for task, sequence in all_sequences(samples_for(paper_cfg(tiny_cfg), augment=False)):
        if task != "detection":
            assert np.array_equal(sequence.input[1:], sequence.target[:-1])


def test_the_sequences_fit_the_decoder_and_hold_every_object_once(everything: SampleDataset):
    model, longest = everything.cfg.model, {}
    for task, sequence in all_sequences(everything):
        assert len(sequence.input) <= max_length(everything.tokenizers[task]) <= model.max_tokens
        longest[task] = max(longest.get(task, 0), len(sequence.input))
        if task == "detection":
            _, target, _ = objects_of(sequence)
            assert len(target) == model.max_objects
            real = target[:, CLASS] != FAKE
            assert np.array_equal(real, np.sort(real)[::-1])
    for task in ("detection", "keypoint"):
        assert longest[task] == max_length(everything.tokenizers[task])


def test_any_number_of_workers_gives_the_same_augmented_batches(everything: SampleDataset):
    batches = []
    for workers in (0, 1, 2):
        sampler = EpochSampler(len(everything), 4, seed=0)
        sampler.set_epoch(1, SIZE, limit=2)
        batches.append(list(build_loader(everything, sampler, workers)))
    for alone, *others in zip(*batches, strict=True):
        for shared in others:
            assert torch.equal(alone.images, shared.images)
            for task in alone.tasks:
                assert all(map(torch.equal, vars(alone.tasks[task]).values(), vars(shared.tasks[task]).values()))


def test_whole_images_are_prompted_for_several_instances(tiny_cfg: CFG):
    cfg = paper_cfg(tiny_cfg, task="segmentation", segment_whole=True, copies_per_image=1, prompts_per_image=3)
    dataset = samples_for(cfg)
    counts = []
    for index in range(len(dataset)):
        sample = dataset[(0, index, SIZE)]
        assert len(sample.canvases) == 1
        counts.append(len(sample.sequences["segmentation"]))
    assert max(counts) == 3


def test_copies_share_a_batch_but_not_their_canvas(everything: SampleDataset):
    sampler = EpochSampler(len(everything), 2, seed=0)
    sampler.set_epoch(0, SIZE, limit=1)
    (batch,) = build_loader(everything, sampler, 0)
    detection = batch.tasks["detection"]
    assert len(detection.tokens) == 4  # two images, two copies, one order each
    assert len(set(detection.image_index.tolist())) == 4


def test_a_full_list_of_objects_has_no_end_that_exceeds_the_longest_sequence():
    cfg = config.replace(CFG(), max_objects=2, full_detection=True, noise_objects=False)
    tokenizer = DetectionTokenizer(3000, [3, 7], 2, cfg.train.end_weight, cfg.train.noise_weight, full=True)
    geometry = Geometry.letterbox(200, 100, SIZE)
    sequence = detection_sequence(two_objects(), geometry, tokenizer, cfg, np.random.default_rng(0))
    assert len(sequence.input) == max_length(tokenizer) == 10
