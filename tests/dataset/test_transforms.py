"""Random augmentation: annotations move with their image, and color operations move nothing."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG, DataCFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.samples import Sample, SampleDataset
from pix2seq.dataset.skeleton import COCO_PERSON
from pix2seq.dataset.sources import open_split
from pix2seq.dataset.transforms import Jitter, jitter_colors, rand_augment
from pix2seq.dataset.views import is_shown, keypoints_on_canvas, object_boxes
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace

SIZE = 192
WIDTH, HEIGHT = 480, 360
GRAY = 128
STRONG = DataCFG(
    min_scale=0.3,
    max_scale=2.0,
    min_visible=0.0,
    crop_min_scale=0.5,
    crop_max_scale=1.3,
    crop_rotation=40.0,
    color_jitter=0.0,
    box_jitter=0.0,
    orders_per_image=1,
)
LABELS = LabelSpace([1, 2, 3], 17, WordVocabulary(["<unk>", "cat"]))


@st.composite
def placements(draw: st.DrawFn) -> tuple[Geometry, Geometry, bool]:
    """A letterbox or crop, the same after random changes, and whether it is mirrored."""
    width, height = draw(st.integers(8, 2000)), draw(st.integers(8, 2000))
    geometry = Geometry.letterbox(width, height, SIZE)
    extent = geometry.apply([width, height])
    if draw(st.booleans()):
        x, y, w, h = (draw(st.floats(1, 500)) for _ in range(4))
        geometry, extent = Geometry.crop(np.array([x, y, x + w, y + h]), draw(st.floats(0, 1)), SIZE), (SIZE, SIZE)
    low, rotation = draw(st.floats(0.2, 1.5)), draw(st.sampled_from([0.0, 45.0, 180.0]))
    jitter = Jitter(low, low + draw(st.floats(0, 1)), 0.5, rotation, draw(st.booleans()))
    changed, flipped = jitter.place(geometry, extent, np.random.default_rng(draw(st.integers(0, 2**16))))
    return geometry, changed, flipped


points_of = st.lists(st.tuples(st.floats(-50, 2500), st.floats(-50, 2500)), min_size=1).map(np.array)


# Placement


@given(placements(), points_of)
def test_points_are_recovered_from_any_placement(placed: tuple, points: np.ndarray):
    _, geometry, _ = placed
    np.testing.assert_allclose(geometry.from_fractions(geometry.to_fractions(points)), points, atol=1e-6)


@given(placements(), points_of, points_of)
def test_boxes_are_recovered_from_any_placement_without_rotation(placed: tuple, corners: np.ndarray, sides: np.ndarray):
    _, geometry, _ = placed
    count = min(len(corners), len(sides))
    boxes = np.concatenate([corners[:count], corners[:count] + np.abs(sides[:count])], axis=1)
    back = geometry.boxes_from_fractions(geometry.box_fractions(boxes))
    if not geometry.is_turned:
        np.testing.assert_allclose(back, boxes, atol=1e-6)


@given(placements())
def test_a_placement_is_mirrored_if_it_is_reported_so(placed: tuple):
    before, after, flipped = placed
    signs = [np.sign(np.linalg.det(geometry.matrix[:, :2])) for geometry in (before, after)]
    assert signs == [1, -1 if flipped else 1]


@given(placements(), st.integers(0, 2**16))
def test_left_and_right_joints_swap_exactly_in_mirrored_placements(placed: tuple, seed: int):
    _, geometry, flipped = placed
    keypoints = np.column_stack([np.random.default_rng(seed).uniform(0, 500, (17, 2)), np.full(17, 2)])
    points, _ = keypoints_on_canvas(keypoints, geometry, flipped, COCO_PERSON)
    order = list(COCO_PERSON.flip) if flipped else list(range(17))
    np.testing.assert_allclose(geometry.from_fractions(points), keypoints[order, :2], atol=1e-6)


@given(st.integers(8, 2000), st.integers(8, 2000), st.floats(0.3, 2.0), st.integers(0, 2**16))
def test_the_longer_side_becomes_the_canvas_side_times_the_scale(width: int, height: int, scale: float, seed: int):
    geometry = Geometry.letterbox(width, height, SIZE)
    for corner in (False, True):
        jitter = Jitter(scale, scale, 0.5, 0.0, corner)
        placed, _ = jitter.place(geometry, geometry.apply([width, height]), np.random.default_rng(seed))
        (box,) = placed.apply_boxes(np.array([[0, 0, width, height]]))
        assert max(box[2:] - box[:2]) == pytest.approx(SIZE * scale)


@given(st.integers(8, 2000), st.integers(8, 2000), st.floats(0.3, 2.0), st.integers(0, 2**16))
def test_in_the_corner_images_are_padded_right_and_below_or_cropped(width: int, height: int, scale: float, seed: int):
    geometry = Geometry.letterbox(width, height, SIZE)
    jitter = Jitter(scale, scale, 0.5, 0.0, corner=True)
    placed, _ = jitter.place(geometry, geometry.apply([width, height]), np.random.default_rng(seed))
    (box,) = placed.apply_boxes(np.array([[0, 0, width, height]]))
    for first, last in (box[[0, 2]], box[[1, 3]]):
        if last - first <= SIZE:
            assert first == pytest.approx(0, abs=1e-6)
        else:
            assert first <= 1e-6 and last >= SIZE - 1e-6
            assert first == pytest.approx(round(first), abs=1e-6)


def test_in_the_corner_one_random_number_places_both_axes():
    geometry = Geometry.letterbox(300, 200, SIZE)
    for seed in range(20):
        placed, _ = Jitter(2, 2, 0, 0, True).place(geometry, (SIZE, SIZE * 2 / 3), np.random.default_rng(seed))
        x, y = -placed.apply([0, 0])
        assert x / SIZE == pytest.approx(y / (SIZE / 3), abs=1 / 32)


def test_anywhere_means_anywhere():
    geometry, rng = Geometry.letterbox(300, 300, SIZE), np.random.default_rng(0)
    places = [Jitter(0.5, 0.5, 0, 0, False).place(geometry, (SIZE, SIZE), rng)[0].apply([0, 0]) for _ in range(200)]
    assert np.all(np.min(places, axis=0) < 0.05 * SIZE) and np.all(np.max(places, axis=0) > 0.45 * SIZE)
    assert abs(np.corrcoef(np.transpose(places))[0, 1]) < 0.2


def test_without_jitter_a_placement_is_unchanged():
    geometry = Geometry.letterbox(300, 200, SIZE)
    for corner in (False, True):
        placed, flipped = Jitter(1, 1, 0, 0, corner).place(geometry, (SIZE, SIZE * 2 / 3), np.random.default_rng(0))
        np.testing.assert_allclose(placed.matrix, geometry.matrix, atol=1e-9)
        assert not flipped


def test_crops_and_flips_are_those_of_the_official_code(reference):
    numbers = reference("geometry.npz")
    height, width = numbers["image"].shape[:2]
    pixels = numbers["bbox"].astype(float)[:, [1, 0, 3, 2]] * [width, height, width, height]
    top, left, crop_height, crop_width = numbers["region_y_x_h_w"]
    identity = Geometry(np.eye(2, 3), width)
    cropped = identity.shift(-left, -top).apply_boxes(pixels)
    cropped = np.clip(cropped / [crop_width, crop_height, crop_width, crop_height], 0, 1)
    np.testing.assert_allclose(cropped[:, [1, 0, 3, 2]], numbers["crop_bbox"], atol=1e-6)
    mirrored = identity.flip().apply_boxes(pixels) / [width, height, width, height]
    np.testing.assert_allclose(mirrored[:, [1, 0, 3, 2]], numbers["flip_bbox"], atol=1e-6)


def test_points_beside_a_crop_that_ends_inside_the_image_are_invisible():
    geometry = Geometry.crop_inside(np.array([40.0, 40, 60, 80]), 0.0, 100, 100, SIZE)
    keypoints = np.tile([50.0, 60, 2], (17, 1))
    keypoints[3, 0] = 75  # on the canvas, but in its padding
    points, visible = keypoints_on_canvas(keypoints, geometry, False, COCO_PERSON)
    assert np.all((points >= 0) & (points <= 1))
    assert np.flatnonzero(~visible).tolist() == [3]


# Turned boxes


def turned_example(polygons: list[list[np.ndarray]]) -> Example:
    box = np.array([[100.0, 50, 180, 90]])
    image = np.zeros((200, 300, 3), dtype=np.uint8)
    return Example(image, 1, box, np.array([1]), polygons, np.zeros((1, 17, 3)), [])


@given(st.floats(-180, 180))
def test_a_rotated_box_lies_within_its_rotated_corners_and_keeps_its_center(angle: float):
    geometry = Geometry.letterbox(300, 200, SIZE).rotate(angle, (40.0, 70.0))
    x1, y1, x2, y2 = box = np.array([100.0, 50, 180, 90])
    corners = geometry.apply(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))
    (turned,) = geometry.apply_boxes(box[None])
    assert np.all(turned[:2] >= corners.min(axis=0) - 1e-6) and np.all(turned[2:] <= corners.max(axis=0) + 1e-6)
    np.testing.assert_allclose((turned[:2] + turned[2:]) / 2, corners.mean(axis=0))


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_box_rotated_by_a_right_angle_is_exact(angle: int):
    geometry = Geometry.letterbox(300, 200, SIZE).rotate(angle, (96.0, 96.0))
    box = np.array([100.0, 50, 180, 90])
    corners = geometry.apply(box.reshape(2, 2))
    np.testing.assert_allclose(
        geometry.apply_boxes(box[None])[0], np.concatenate([corners.min(0), corners.max(0)]), atol=1e-9
    )


def test_a_rotated_object_with_polygons_has_their_box():
    diamond = np.array([[140.0, 50], [180, 70], [140, 90], [100, 70]])
    geometry = Geometry.letterbox(300, 200, SIZE).rotate(30, (96.0, 96.0))
    points = geometry.to_fractions(diamond)
    (box,) = object_boxes(turned_example([[diamond[:2], diamond[2:]]]), geometry)
    np.testing.assert_allclose(box, [*points.min(axis=0), *points.max(axis=0)])


def test_a_box_without_rotation_is_the_annotated_one():
    geometry = Geometry.letterbox(300, 200, SIZE)
    small = np.array([[110.0, 60], [120, 60], [120, 70]])
    example = turned_example([[small]])
    np.testing.assert_allclose(object_boxes(example, geometry), geometry.box_fractions(example.boxes))


# Objects that are cut


BOXES = np.array([[0.2, 0.2, 0.4, 0.4], [-0.5, 0, 0.5, 1], [-0.9, 0, 0.1, 1], [1.0, 0, 1.5, 1], [0.3, 0.3, 0.3, 0.6]])


@pytest.mark.parametrize(
    ("min_visible", "shown"), [(0.0, [True, True, True]), (0.3, [True, True, False]), (1.0, [True, False, False])]
)
def test_objects_that_are_visible_enough_are_trained_on_but_no_empty_ones(min_visible: float, shown: list[bool]):
    assert is_shown(BOXES, min_visible).tolist() == [*shown, False, False]


# Whole samples: what is decoded from the sequences is where it is painted


def joint_colors() -> np.ndarray:
    steps = np.arange(17)
    return np.stack([steps * 15, 255 - steps * 15, (steps % 2) * 255], axis=1)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three triangles, each in the color of its class, of a person of colored joints, of rectangles."""
    root = tmp_path_factory.mktemp("painted")
    triangles = {
        1: [[20, 30], [220, 40], [60, 170]],
        2: [[460, 20], [450, 330], [260, 120]],
        3: [[30, 340], [120, 200], [230, 350]],
    }
    image = np.full((HEIGHT, WIDTH, 3), GRAY, dtype=np.uint8)
    annotations = []
    for class_id, corners in triangles.items():
        color = [0, 0, 0]
        color[class_id - 1] = 255
        cv2.fillPoly(image, [np.array(corners)], color)
        (x1, y1), (x2, y2) = np.min(corners, axis=0), np.max(corners, axis=0) + 1
        box = [int(value) for value in (x1, y1, x2 - x1, y2 - y1)]
        polygon = (np.ravel(corners) + 0.5).tolist()  # OpenCV paints from pixel center to pixel center
        annotations.append({"id": class_id, "image_id": 1, "category_id": class_id, "bbox": box, "iscrowd": 0})
        annotations[-1] |= {"area": box[2] * box[3], "segmentation": [polygon]}
    people = np.full((HEIGHT, WIDTH, 3), GRAY, dtype=np.uint8)
    joints = [(60 + 70 * (joint % 6), 70 + 100 * (joint // 6)) for joint in range(17)]
    for (x, y), color in zip(joints, joint_colors(), strict=True):
        people[y - 20 : y + 20, x - 20 : x + 20] = color
    keypoints = [value for joint in joints for value in (*joint, 2)]
    person = {"id": 9, "image_id": 2, "category_id": 1, "bbox": [30, 30, 420, 300], "iscrowd": 0, "area": 126000}
    person |= {"keypoints": keypoints, "num_keypoints": 17, "segmentation": []}
    planks = np.full((HEIGHT, WIDTH, 3), GRAY, dtype=np.uint8)
    for class_id, (x, y, w, h) in {1: (20, 30, 150, 90), 2: (200, 10, 60, 300), 3: (300, 200, 170, 150)}.items():
        planks[y : y + h, x : x + w] = np.eye(3)[class_id - 1] * 255
        annotations.append({"id": 10 + class_id, "image_id": 3, "category_id": class_id, "bbox": [x, y, w, h]})
        annotations[-1] |= {"area": w * h, "segmentation": [], "iscrowd": 0}
    names = list(COCO_PERSON.names)
    categories = [{"id": number, "name": name} for number, name in ((1, "person"), (2, "cat"), (3, "dog"))]
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)]
    (root / "train2017").mkdir()
    (root / "annotations").mkdir()
    for number, pixels in ((1, image), (2, people), (3, planks)):
        Image.fromarray(pixels).save(root / "train2017" / f"{number}.png")
    for name, entries, kinds in (
        ("instances", annotations, categories),
        ("person_keypoints", [person], [categories[0] | {"keypoints": names, "skeleton": []}]),
    ):
        content = {"images": images, "annotations": entries, "categories": kinds}
        (root / "annotations" / f"{name}_train2017.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def samples_of(painted: Path, cfg: CFG, data: DataCFG, task: str, count: int = 25, **model) -> Iterator[Sample]:
    """Augmented samples of the last image that `task` is trained on, in several epochs."""
    cfg = config.replace(dataclasses.replace(cfg, data=data, task=task), data_root=str(painted), **model)
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, "train2017", tasks)
    dataset = SampleDataset(split, tasks, Tokenizers.build(tasks, cfg, LABELS), cfg, augment=True)
    return (dataset[(epoch, len(dataset) - 1, SIZE)] for epoch in range(count))


def decoded(sample: Sample, task: str, tokenizers: Tokenizers) -> Iterator[tuple[np.ndarray, object, int]]:
    """Canvas, decoded response and prompted class of each sequence of a sample."""
    for number, sequence in sample.sequences.get(task, []):
        prompt_length = 1 if task == "detection" else 6
        response = sequence.response(prompt_length)
        probs = () if task == "segmentation" else (np.ones(len(response)),)
        yield sample.canvases[number], tokenizers[task].decode(response, *probs), int(sequence.input[prompt_length - 1])


@pytest.fixture
def tokenizers(tiny_model_cfg: CFG) -> Tokenizers:
    return Tokenizers.build(TASKS, tiny_model_cfg, LABELS)


@pytest.mark.parametrize("placement", ["anywhere", "corner"])
def test_boxes_contain_their_object_after_augmentation(tiny_model_cfg, painted, tokenizers, placement):
    data = dataclasses.replace(STRONG, placement=placement)
    seen = 0
    for sample in samples_of(painted, tiny_model_cfg, data, "detection"):
        for canvas, found, _ in decoded(sample, "detection", tokenizers):
            assert np.all((found.boxes >= 0) & (found.boxes <= 1))
            for (y1, x1, y2, x2), class_id in zip(found.boxes * SIZE, found.classes, strict=True):
                seen += 1
                own = canvas[..., class_id - 1].astype(int) - canvas[..., class_id % 3] > 64
                if min(y2 - y1, x2 - x1) > 2:
                    rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
                    painted_box = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
                    np.testing.assert_allclose([y1, x1, y2, x2], painted_box, atol=1.2)
    assert seen > 40


@pytest.mark.parametrize("whole", [False, True], ids=["crops", "whole images"])
def test_polygons_cover_their_object_after_augmentation(tiny_model_cfg, painted, tokenizers, whole):
    seen = 0
    for sample in samples_of(painted, tiny_model_cfg, STRONG, "segmentation", segment_whole=whole):
        for canvas, polygons, class_token in decoded(sample, "segmentation", tokenizers):
            channel = class_token - 100 - 1
            own = canvas[..., channel].astype(int) - canvas[..., (channel + 1) % 3] > 64
            mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
            cv2.fillPoly(mask, [np.rint(polygon[:, ::-1] * SIZE - 0.5).astype(int) for polygon in polygons], 1)
            if own.sum() > 900:
                seen += 1
                assert (mask & own).sum() / (mask | own).sum() > 0.85
    assert seen >= 20


@pytest.mark.parametrize("inside", [False, True], ids=["square crops", "crops inside the image"])
def test_keypoints_lie_on_their_joint_after_augmentation(tiny_model_cfg, painted, tokenizers, inside):
    mirrored, data = 0, dataclasses.replace(STRONG, placement="corner" if inside else "anywhere")
    for sample in samples_of(painted, tiny_model_cfg, data, "keypoint", crop_inside=inside):
        for canvas, found, _ in decoded(sample, "keypoint", tokenizers):
            y, x = np.clip((found.points[found.visible] * SIZE).astype(int), 0, SIZE - 1).T
            distance = np.abs(canvas[y, x][:, None].astype(int) - joint_colors()).sum(axis=2)
            shown, named = distance.argmin(axis=1), np.flatnonzero(found.visible)
            flipped = not np.array_equal(shown, named)
            mirrored += flipped
            np.testing.assert_array_equal(shown, np.array(COCO_PERSON.flip)[named] if flipped else named)
            assert found.visible.sum() >= 6
    assert 4 <= mirrored <= 21


def test_copies_of_an_image_are_augmented_independently(tiny_model_cfg, painted):
    data = dataclasses.replace(STRONG, copies_per_image=2)
    for sample in samples_of(painted, tiny_model_cfg, data, "detection", count=3):
        assert len(sample.canvases) == 2
        assert not np.array_equal(*sample.canvases)
        assert [number for number, _ in sample.sequences["detection"]] == [0, 1]


# Colors


def test_color_jitter_mixes_with_gray_as_it_should():
    image = np.random.default_rng(0).integers(60, 180, (40, 40, 3), dtype=np.uint8)
    brightness, contrast, saturation = 1 + 0.3 * np.random.default_rng(5).uniform(-1, 1, 3)
    gray = image @ np.array([0.299, 0.587, 0.114])
    expected = saturation * image + (1 - saturation) * gray[..., None]
    expected = brightness * (contrast * expected + (1 - contrast) * gray.mean())
    changed = jitter_colors(image, 0.3, np.random.default_rng(5))
    np.testing.assert_allclose(changed, np.clip(expected, 0, 255), atol=1)


def test_rand_augment_depends_on_nothing_but_its_generator():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    first, again = (rand_augment(image, 3, 12, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, again)
    assert len({rand_augment(image, 2, 12, np.random.default_rng(seed)).tobytes() for seed in range(12)}) > 6


@pytest.mark.parametrize("seed", range(12))
def test_rand_augment_moves_nothing(seed: int):
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[8:12, 20:24] = 120
    image[16:, :] = 60
    changed = rand_augment(image, 1, 10, np.random.default_rng(seed)).astype(int)
    assert changed.shape == image.shape
    flat = changed[9:11, 21:23].reshape(-1, 3)
    assert np.all(flat == flat[0])
    assert len({tuple(changed[y, x]) for y, x in ((4, 4), (10, 22), (24, 24))}) == 3
