"""Mosaics: boxes, polygons and keypoints lie where the pixels of their objects lie."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq import config
from pix2seq.config import CFG, DataCFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.masks import rasterize
from pix2seq.dataset.mosaic import CENTER, IMAGES, mosaic
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.dataset.sources import open_split
from pix2seq.tasks import choose_tasks
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace

SIZE, GRAY, PAD = 192, 128, 0.5
SIDES = Skeleton(names=("left", "right", "top"), flip=(1, 0, 2))


def color_of(class_id: int) -> np.ndarray:
    """A corner of the color cube: no mixture with another one or with gray is near a third."""
    return np.array([class_id & 1, class_id >> 1 & 1, class_id >> 2 & 1]) * 255


def painted(width: int, height: int, first_class: int, rng: np.random.Generator) -> Example:
    """An image of two rectangles, each in the color of its class, with keypoints in their left, right and middle."""
    image = np.full((height, width, 3), GRAY, np.uint8)
    boxes, keypoints = [], []
    for number in range(2):
        x = (np.array([0, width // 3]) + rng.integers(width // 6)) + number * (width // 2)
        y = np.array([0, height // 2]) + rng.integers(height // 2)
        image[y[0] : y[1], x[0] : x[1]] = color_of(first_class + number)
        boxes.append([x[0], y[0], x[1], y[1]])
        inset = np.diff(x)[0] * 0.2
        keypoints.append([[x[0] + inset, y.mean(), 2], [x[1] - inset, y.mean(), 2], [x.mean(), y.mean(), 1]])
    polygons = [[np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=float)] for x1, y1, x2, y2 in boxes]
    classes = np.array([first_class, first_class + 1])
    captions = ["a drawing"]
    return Example(
        image, first_class, np.array(boxes, float), classes, polygons, np.array(keypoints), captions, skeleton=SIDES
    )


@st.composite
def mosaics(draw: st.DrawFn, **data: float) -> tuple[list[Example], Example, DataCFG]:
    """Four examples and their mosaic."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sides = [(draw(st.integers(100, 500)), draw(st.integers(100, 500))) for _ in range(IMAGES)]
    parts = [painted(*side, 2 * number, rng) for number, side in enumerate(sides)]
    least = draw(st.floats(1, 2))
    settings = dict(min_scale=least, max_scale=least + draw(st.floats(0, 1)), flip=draw(st.sampled_from([0.0, 0.5, 1])))
    cfg = DataCFG(**settings | data)
    return parts, mosaic(parts, SIZE, cfg, PAD, rng), cfg


def own_pixels(example: Example, class_id: int) -> np.ndarray:
    """Where the image (H, W) has the color of a class."""
    return (np.abs(example.image.astype(int) - color_of(class_id)) < 64).all(axis=2)


def bounds(mask: np.ndarray) -> list[int]:
    """The box x1 y1 x2 y2 of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@given(mosaics())
def test_boxes_are_the_bounds_of_the_painted_colors(made: tuple):
    _, whole, _ = made
    assert whole.image.shape == (SIZE, SIZE, 3) and whole.captions == []
    for box, class_id in zip(whole.boxes, whole.classes, strict=True):
        assert box.min() >= 0 and box.max() <= SIZE
        if (box[2:] - box[:2]).min() > 4:
            np.testing.assert_allclose(bounds(own_pixels(whole, class_id)), box, atol=1)


@given(mosaics(min_visible=0.0))
def test_every_color_that_is_seen_has_its_object(made: tuple):
    _, whole, _ = made
    for class_id in range(2 * IMAGES):
        assert (own_pixels(whole, class_id).sum() == 0) or class_id in whole.classes


@given(mosaics())
def test_polygons_cover_their_color(made: tuple):
    _, whole, _ = made
    for polygons, class_id in zip(whole.polygons, whole.classes, strict=True):
        own = own_pixels(whole, class_id)
        if own.sum() > 100:
            mask = rasterize(polygons, SIZE, SIZE).astype(bool)
            edge = 2 * np.ptp(np.reshape(bounds(own), (2, 2)), axis=0).sum()
            assert (mask ^ own).sum() <= edge


@given(mosaics(min_visible=0.0))
def test_keypoints_lie_on_their_object_or_are_unlabeled(made: tuple):
    _, whole, _ = made
    for box, points, class_id in zip(whole.boxes, whole.keypoints, whole.classes, strict=True):
        labeled = points[points[:, 2] > 0, :2]
        assert np.all((labeled >= box[:2] - 1e-6) & (labeled <= box[2:] + 1e-6))
        if (box[2:] - box[:2]).min() > 6:
            for x, y in labeled:
                near = own_pixels(whole, class_id)[int(y - 1) : int(y) + 2, int(x - 1) : int(x) + 2]
                assert near.any()
        if points[:2, 2].all():
            assert points[0, 0] <= points[1, 0]  # left stays left in a mirrored image: the names are swapped


@given(mosaics(min_visible=0.5, flip=0.0))
def test_objects_that_show_too_little_of_their_box_are_left_out(made: tuple):
    parts, whole, cfg = made
    for box, class_id in zip(whole.boxes, whole.classes, strict=True):
        part = next(part for part in parts if class_id in part.classes)
        sides = np.ptp(np.reshape(part.boxes[part.classes == class_id][0], (2, 2)), axis=0)
        scale = cfg.max_scale * SIZE / max(part.image.shape)
        assert np.prod(box[2:] - box[:2]) <= np.prod(sides * scale) * 1.1
    assert len(set(whole.classes)) == len(whole.classes) <= 2 * IMAGES


@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=8, max_size=8), st.integers(0, 99))
def test_tiny_images_and_canvases(size: int, sides: list[int], seed: int):
    rng = np.random.default_rng(seed)
    parts = [
        dataclasses.replace(painted(9, 9, 2 * number, rng), image=np.zeros((height, width, 3), np.uint8))
        for number, (width, height) in enumerate(zip(sides[::2], sides[1::2], strict=True))
    ]
    whole = mosaic(parts, size, DataCFG(), PAD, rng)
    assert whole.image.shape == (size, size, 3)
    assert np.all((whole.boxes >= 0) & (whole.boxes <= size)) and np.all(whole.boxes[:, :2] < whole.boxes[:, 2:])


def test_the_images_meet_at_a_random_center():
    colors = [np.full((300, 300, 3), 10 * (number + 1), np.uint8) for number in range(IMAGES)]
    empty = painted(30, 30, 0, np.random.default_rng(0)).without(np.ones(2, bool))
    data, found = DataCFG(min_scale=4.0, max_scale=4.0), []
    for seed in range(20):
        parts = [dataclasses.replace(empty, image=image) for image in colors]
        image = mosaic(parts, SIZE, data, PAD, np.random.default_rng(seed)).image[..., 0]
        assert [image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]] == [10, 20, 30, 40]
        found.append(((image[0] == 10).sum() / SIZE, (image[:, 0] == 10).sum() / SIZE))
    assert np.min(found) >= CENTER[0] - 0.01 and np.max(found) <= CENTER[1] + 0.01
    assert np.ptp(found) > 0.3


# In training samples


@pytest.fixture
def samples(tiny_cfg: CFG) -> Callable[..., SampleDataset]:
    def make(**settings: object) -> SampleDataset:
        cfg = config.replace(tiny_cfg, **settings)
        tasks = choose_tasks(cfg.tasks)
        split = open_split(cfg, cfg.data.train_split, tasks)
        labels = LabelSpace(sorted(split.class_names), 17, WordVocabulary.build(split.all_captions(), 1))
        return SampleDataset(split, tasks, Tokenizers.build(tasks, cfg, labels), cfg, augment=True)

    return make


def test_a_mosaic_is_the_same_each_time_it_is_loaded(samples):
    first, second = (samples(task="detection", mosaic=1.0, image_size=SIZE) for _ in range(2))
    for index in range(3):
        one, other = first[0, index, SIZE], second[0, index, SIZE]
        assert np.array_equal(one.canvases[0], other.canvases[0])
        assert len(one.canvases) == len(other.canvases) == 1
        assert not np.array_equal(one.canvases[0], first[1, index, SIZE].canvases[0])


def test_a_mosaic_reads_three_more_images_and_has_no_captions(samples, monkeypatch: pytest.MonkeyPatch):
    dataset, read = samples(mosaic=1.0), []
    load = dataset.examples.load
    monkeypatch.setattr(dataset.examples, "load", lambda *args: read.append(args) or load(*args))
    sample = dataset[0, 0, SIZE]
    assert len(read) == IMAGES
    assert "captioning" not in sample.sequences and "detection" in sample.sequences


def test_crops_do_not_change_with_mosaics(samples):
    """A crop of a mosaic would be coarse: prompted instances are those of the image itself."""
    sample = samples(mosaic=1.0, color_jitter=0.0)[0, 0, SIZE]
    for task in ("segmentation", "keypoint"):
        assert all(number > 0 for number, _ in sample.sequences.get(task, []))


def test_without_detection_there_is_no_mosaic(samples, capsys: pytest.CaptureFixture):
    plain, composed = (samples(task="captioning,segmentation", mosaic=share) for share in (0.0, 1.0))
    assert np.array_equal(plain[0, 0, SIZE].canvases[0], composed[0, 0, SIZE].canvases[0])
    notices = config.notices(config.replace(composed.cfg, mosaic=0.5))
    assert [line for line in notices if "--mosaic" in line]


def test_an_image_without_known_objects_shares_no_canvas(samples):
    dataset = samples(task="detection,captioning", mosaic=1.0)
    dataset.in_mosaics[dataset.indices[0]] = False
    assert "captioning" in dataset[0, 0, SIZE].sequences


def test_real_photographs_make_mosaics(tiny_model_cfg: CFG, coco_people: Path):
    cfg = config.replace(tiny_model_cfg, data_root=str(coco_people), mosaic=1.0, task="detection")
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, "val2017", tasks)
    labels = LabelSpace(sorted(split.class_names), 17, WordVocabulary([]))
    dataset = SampleDataset(split, tasks, Tokenizers.build(tasks, cfg, labels), cfg, augment=True)
    counts = [len(dataset[0, index, SIZE].objects[0].classes) for index in range(8)]
    assert sum(counts) > 40
