"""Copy-paste: labels of what is pasted and of what it covers are those of the pixels."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pix2seq import config
from pix2seq.config import CFG, DataCFG
from pix2seq.dataset.annotations import outline_parts
from pix2seq.dataset.coco import Example
from pix2seq.dataset.combining import combine
from pix2seq.dataset.copy_paste import LARGEST, SMALLEST, copy_paste, visible_objects
from pix2seq.dataset.labels import Unlabeled
from pix2seq.dataset.masks import rasterize
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.dataset.sources import open_split
from pix2seq.errors import UserError
from pix2seq.tasks import choose_tasks
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace
from tests.dataset.test_voc import thing, write_voc

SIZE = 64
SIDES = Skeleton(names=("left", "right", "top"), flip=(1, 0, 2))
GRAY = 120


def blob(x: float, y: float, radius: np.ndarray) -> np.ndarray:
    """A star-shaped polygon (K, 2) around a point."""
    angles = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def scene(width: int, height: int, count: int, first_class: int, seed: int, masked: float = 1.0) -> Example:
    """Overlapping blobs, each in gray levels of its class, that have polygons with probability `masked`."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), GRAY, np.uint8)
    polygons, boxes, keypoints = [], [], []
    for number in range(count):
        center = rng.uniform(0.1, 0.9, 2) * [width, height]
        own = blob(*center, rng.uniform(0.8, 1, 11) * rng.uniform(0.1, 0.5) * min(width, height)).clip(
            0, [width, height]
        )
        image[rasterize([own], height, width) > 0] = 10 * (first_class + number)
        boxes.append(np.concatenate([own.min(axis=0), own.max(axis=0)]))
        polygons.append([own] if rng.random() < masked else [])
        keypoints.append(np.column_stack([own[[0, 3, 6]], [2, 2, 1]]))
    return Example(
        image=image,
        image_id=first_class,
        boxes=np.array(boxes).reshape(-1, 4),
        classes=np.arange(first_class, first_class + count),
        polygons=polygons,
        keypoints=np.array(keypoints).reshape(-1, 3, 3),
        captions=["blobs"],
        skeleton=SIDES,
    )


sides = st.integers(20, 160)
seeds = st.integers(0, 2**32 - 1)
scenes = st.builds(scene, sides, sides, st.integers(0, 4), st.just(1), seeds)
unmasked = st.builds(scene, sides, sides, st.integers(0, 4), st.just(1), seeds, st.just(0.0))
donors = st.builds(scene, sides, sides, st.integers(1, 4), st.just(13), seeds)
covers = st.builds(lambda seed, count: (seed, count), seeds, st.integers(1, 3))


def masks_of(example: Example) -> list[np.ndarray]:
    """The mask (H, W) bool of each object."""
    return [rasterize(polygons, *example.image.shape[:2]).astype(bool) for polygons in example.polygons]


def bounds(mask: np.ndarray) -> np.ndarray:
    """The box x1 y1 x2 y2 of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def uncovered(example: Example, seed: int, count: int) -> np.ndarray:
    """The pixels (H, W) bool of an example's image that some blobs leave uncovered."""
    height, width = example.image.shape[:2]
    return (scene(width, height, count, 1, seed).image == GRAY).all(axis=2)


# Holes


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)))
def test_outlines_with_holes_fill_exactly_the_mask(mask: np.ndarray):
    assert np.array_equal(rasterize(outline_parts(mask), *mask.shape), mask)


# What is covered


@given(scenes, covers)
def test_masks_lose_exactly_what_is_covered(example: Example, cover: tuple[int, int]):
    shown = uncovered(example, *cover)
    left = visible_objects(example, shown, 0.0)
    found = dict(zip(left.classes.tolist(), masks_of(left), strict=True))
    for class_id, mask in zip(example.classes.tolist(), masks_of(example), strict=True):
        visible = mask & shown
        assert (class_id in found) == bool(visible.any())
        assert class_id not in found or np.array_equal(found[class_id], visible)


@given(scenes, covers)
def test_boxes_are_the_bounds_of_what_is_seen(example: Example, cover: tuple[int, int]):
    left = visible_objects(example, uncovered(example, *cover), 0.0)
    for box, mask in zip(left.boxes, masks_of(left), strict=True):
        np.testing.assert_allclose(box, bounds(mask), atol=1.5)


@given(scenes, covers, st.floats(0, 1))
def test_objects_below_the_visible_share_are_left_out(example: Example, cover: tuple[int, int], least: float):
    shown = uncovered(example, *cover)
    left = visible_objects(example, shown, least)
    shares = [(mask & shown).sum() / mask.sum() for mask in masks_of(example)]
    expected = [c for c, share in zip(example.classes, shares, strict=True) if share > 0 and share >= least]
    assert left.classes.tolist() == expected


@given(unmasked, covers)
def test_boxes_without_masks_lose_covered_edges_alone(example: Example, cover: tuple[int, int]):
    shown = uncovered(example, *cover)
    left = visible_objects(example, shown, 0.0)
    for box, class_id in zip(left.boxes, left.classes, strict=True):
        before = example.boxes[class_id - 1]
        (x1, y1), (x2, y2) = np.floor(before[:2]).astype(int), np.ceil(before[2:]).astype(int)
        expected = bounds(shown[y1:y2, x1:x2]) + np.array([x1, y1, x1, y1])
        np.testing.assert_allclose(box, expected, atol=1)
        assert np.all(box[:2] >= before[:2] - 1e-9) and np.all(box[2:] <= before[2:] + 1e-9)


@given(scenes, covers)
def test_covered_keypoints_are_labeled_but_not_visible(example: Example, cover: tuple[int, int]):
    shown = uncovered(example, *cover)
    left = visible_objects(example, shown, 0.0)
    for points, class_id in zip(left.keypoints, left.classes, strict=True):
        before = example.keypoints[class_id - 1]
        assert np.array_equal(points[:, :2], before[:, :2])
        for (x, y, v), now in zip(before, points[:, 2], strict=True):
            pixel = min(int(y), len(shown) - 1), min(int(x), shown.shape[1] - 1)
            assert now == (v if shown[pixel] else min(v, 1))


def test_what_nothing_covers_stays_as_it_is():
    example = scene(90, 70, 4, 1, seed=5)
    same = visible_objects(example, np.ones((70, 90), bool), 1.0)
    for name in ("boxes", "classes", "keypoints"):
        assert np.array_equal(getattr(same, name), getattr(example, name))
    assert same.polygons == example.polygons


# What is pasted


@given(scenes | unmasked, donors, st.integers(1, 4), seeds)
def test_pasted_objects_lie_where_their_pixels_are(target: Example, source: Example, most: int, seed: int):
    data = DataCFG(copy_paste_objects=most, min_visible=0.0)
    whole = copy_paste(target, source, data, np.random.default_rng(seed))
    height, width = whole.image.shape[:2]
    assert whole.image.shape == target.image.shape
    assert whole is target or whole.captions == []  # nothing of a source whose objects are all too small
    pasted = np.flatnonzero(whole.classes >= 13)
    assert len(pasted) <= most
    changed = (whole.image != target.image).any(axis=2)
    masks = masks_of(whole)
    for index in pasted:
        box = whole.boxes[index]
        assert box.min() >= 0 and np.all(box <= [width, height, width, height])
        assert np.all(box[2:] - box[:2] <= np.maximum(np.multiply(LARGEST, [width, height]) + 1, 1))
        if masks[index].sum() > 30:
            np.testing.assert_allclose(box, bounds(masks[index]), atol=1.5)
            inner = cv2.erode(masks[index].astype(np.uint8), np.ones((5, 5))) > 0
            assert changed[inner].all()
    everything = np.any([masks[index] for index in pasted], axis=0) if len(pasted) else np.zeros(changed.shape, bool)
    around = cv2.dilate(everything.astype(np.uint8), np.ones((3, 3))) > 0
    assert not changed[~around].any()  # but for the soft edge all else is as it was


@given(donors, seeds)
def test_pasted_masks_do_not_overlap(source: Example, seed: int):
    """What is pasted later covers what was pasted earlier."""
    target = scene(120, 100, 3, 1, seed=1)
    whole = copy_paste(target, source, DataCFG(copy_paste_objects=4), np.random.default_rng(seed))
    masks = masks_of(whole)
    pasted = [mask for mask, class_id in zip(masks, whole.classes, strict=True) if class_id >= 13]
    cover = np.sum(pasted, axis=0)
    assert np.max(cover, initial=0) <= 1
    for mask, class_id in zip(masks, whole.classes, strict=True):
        assert class_id >= 13 or not (mask & (cover > 0)).any()


@given(st.integers(0, 300))
def test_keypoints_move_with_the_pixels(seed: int):
    """Dots of three colors, at the joints of a square in a fourth one, are found where the keypoints are."""
    source = np.full((100, 140, 3), GRAY, np.uint8)
    source[20:80, 30:110] = (250, 250, 250)
    places = {(45, 50): (250, 0, 0), (95, 50): (0, 250, 0), (70, 30): (0, 0, 250)}
    for (x, y), color in places.items():
        source[y - 8 : y + 8, x - 8 : x + 8] = color
    corners = np.array([[30, 20], [110, 20], [110, 80], [30, 80]], float)
    square = dataclasses.replace(
        scene(140, 100, 1, 13, 0),
        image=source,
        boxes=np.array([[30.0, 20, 110, 80]]),
        polygons=[[corners]],
        keypoints=np.array([[[x, y, 2] for x, y in places]], float),
    )
    whole = copy_paste(scene(200, 150, 0, 1, 0), square, DataCFG(), np.random.default_rng(seed))
    assert whole.classes.tolist() == [13]
    points = whole.keypoints[0]
    assert points[:, 2].tolist() == [2, 2, 2]
    seen = whole.image[points[:, 1].astype(int), points[:, 0].astype(int)].argmax(axis=1).tolist()
    mirrored = seen == [1, 0, 2]  # the right point is now on the left, and has the left one's name
    assert mirrored or seen == [0, 1, 2]
    assert points[0, 0] < points[1, 0]


@given(st.integers(1, 6), st.integers(1, 6), donors | scenes, seeds)
def test_tiny_images(width: int, height: int, source: Example, seed: int):
    target = dataclasses.replace(scene(20, 20, 0, 1, 0), image=np.zeros((height, width, 3), np.uint8))
    whole = copy_paste(target, source, DataCFG(min_visible=0.0), np.random.default_rng(seed))
    assert whole.image.shape == (height, width, 3)
    back = copy_paste(source, whole, DataCFG(), np.random.default_rng(seed))
    assert back.image.shape == source.image.shape
    assert np.all(back.boxes[:, :2] < back.boxes[:, 2:])


def test_without_anything_to_paste_the_image_keeps_its_captions():
    target = scene(60, 50, 2, 1, 0)
    assert copy_paste(target, scene(60, 50, 3, 13, 0, masked=0.0), DataCFG(), np.random.default_rng(0)) is target
    speck = dataclasses.replace(scene(500, 500, 1, 13, 0), polygons=[[blob(250, 250, np.full(9, 200 * SMALLEST))]])
    assert copy_paste(target, speck, DataCFG(), np.random.default_rng(0)) is target


# In training samples


@pytest.fixture
def samples(tiny_cfg: CFG) -> Callable[..., SampleDataset]:
    def make(augment: bool = True, **settings: object) -> SampleDataset:
        cfg = config.replace(tiny_cfg, **settings)
        tasks = choose_tasks(cfg.tasks)
        split = open_split(cfg, cfg.data.train_split, tasks)
        labels = LabelSpace(sorted(split.class_names), 17, WordVocabulary.build(split.all_captions(), 1))
        return SampleDataset(split, tasks, Tokenizers.build(tasks, cfg, labels), cfg, augment)

    return make


def test_the_same_index_gets_the_same_objects(samples):
    first, second = (samples(copy_paste=1.0, mosaic=0.5) for _ in range(2))
    for index in range(4):
        one, other = first[0, index, SIZE], second[0, index, SIZE]
        assert all(map(np.array_equal, one.canvases, other.canvases))


def test_one_more_image_is_read_and_captions_are_left_out(samples, monkeypatch: pytest.MonkeyPatch):
    dataset, read = samples(copy_paste=1.0), []
    load = dataset.examples.load
    monkeypatch.setattr(dataset.examples, "load", lambda *args: read.append(args) or load(*args))
    sample = dataset[0, 0, SIZE]
    assert len(read) == 2
    assert "captioning" not in sample.sequences and "detection" in sample.sequences


def test_crops_need_every_pixel_where_a_small_object_may_be_pasted(samples):
    assert set(samples(copy_paste=0.5, task="segmentation").shrinks) == {1}
    assert set(samples(copy_paste=0.5, task="detection").shrinks) == {4}


def test_evaluation_pastes_nothing(samples):
    plain, pasted = (samples(augment=False, copy_paste=share, mosaic=share)[0, 0, SIZE] for share in (0.0, 1.0))
    assert all(map(np.array_equal, plain.canvases, pasted.canvases))


def test_a_dataset_without_masks_has_nothing_to_paste(tiny_cfg: CFG, tmp_path: Path):
    folder = write_voc(tmp_path / "own", {"1": thing()}, {"train": ["1"]})
    cfg = config.replace(tiny_cfg, data_root=str(folder), train_split="train", task="detection", copy_paste=0.5)
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, "train", tasks)
    tokenizers = Tokenizers.build(tasks, cfg, LabelSpace(sorted(split.class_names), 17, WordVocabulary([])))
    with pytest.raises(UserError, match=r"--copy-paste 0\.5 needs objects with masks, but .*own.* has none"):
        SampleDataset(split, tasks, tokenizers, cfg, augment=True)


def test_scenes_that_are_not_drawn_yet_get_objects_pasted(tiny_model_cfg: CFG, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path))
    cfg = config.replace(tiny_model_cfg, scenes_train=3, copy_paste=1.0, mosaic=1.0, task="detection,segmentation")
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, cfg.data.train_split, tasks, complete=False)
    tokenizers = Tokenizers.build(tasks, cfg, LabelSpace(sorted(split.class_names), 17, WordVocabulary([])))
    sample = SampleDataset(split, tasks, tokenizers, cfg, augment=True)[0, 0, SIZE]
    assert len(sample.objects[0].classes) > 0


def test_what_parts_leave_open_is_open_in_the_whole():
    """A pasted object brings its unlabeled keypoints, but nothing of its image's background."""
    target, source = (
        dataclasses.replace(scene(90, 70, 2, first, seed=first), unlabeled=Unlabeled(files, classes, points))
        for first, files, classes, points in ((1, frozenset(["captions"]), (5,), (0,)), (13, frozenset(), (6,), (1,)))
    )
    whole = copy_paste(target, source, DataCFG(), np.random.default_rng(0))
    assert whole is not target
    assert whole.unlabeled == Unlabeled(frozenset(["captions"]), (5,), (0, 1))
    assert combine(target.image, [target, source]).unlabeled == Unlabeled(frozenset(["captions"]), (5, 6), (0, 1))
