"""Canvases and the annotations mapped onto them equal those of the official evaluation pipeline.

Our canvases are squares. Where the official one is not, the image lies in its corner as on the smallest square that
holds the image, and the square is what is compared.
"""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from pix2seq.config import ModelCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.skeleton import COCO_PERSON
from pix2seq.dataset.views import keypoints_on_canvas
from tests.conftest import reference_cases

PAD = 0.3
EXACT = 1e-5
OFFICIAL = replace(ModelCFG(), crop_inside=True, crop_padding=0.5)
CASES = reference_cases("tasks/preprocess_eval.npz", r"(\d+)_image_uint8")


def to_pixels(fractions: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Boxes x1 y1 x2 y2 in pixels of the official fractions y1 x1 y2 x2 of an image (H, W, 3)."""
    return fractions[:, [1, 0, 3, 2]] * np.tile(image.shape[1::-1], 2)


def test_resized_sizes_are_rounded_alike(reference_json):
    rows = reference_json("tasks/resize_sizes.json")["rows"]
    assert any(target_height == target_width for _, _, target_height, target_width, _, _ in rows)
    for height, width, target_height, target_width, *expected in rows:
        side = target_height if target_height == target_width else max(expected)
        far_x, far_y = Geometry.letterbox(width, height, side).apply([width, height])
        assert [far_y, far_x] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("width", "height", "side", "expected"),
    [
        *((146, 73, 1333, 667), (162, 81, 1333, 667), (164, 82, 1333, 666), (258, 99, 1333, 511), (310, 55, 1333, 237)),
        *((646, 323, 1333, 666), (128, 5, 64, 2), (640, 417, 160, 104), (3, 1000, 640, 640)),
    ],
)
def test_halves_are_rounded_alike(width: int, height: int, side: int, expected: int):
    """The heights are those of TensorFlow 2.21's `tf.image.resize(image, (side, side), preserve_aspect_ratio=True)`."""
    far_x, far_y = Geometry.letterbox(width, height, side).apply([width, height])
    assert far_y == pytest.approx(expected) and max(far_x, far_y) == pytest.approx(side)


@pytest.mark.parametrize("case", CASES)
def test_images_are_resized_alike(reference, case: str):
    """Both filters are triangles as wide as a canvas pixel; with uint8, gray levels are rounded in between."""
    data = reference("preprocess_eval.npz")
    image, expected = data[f"{case}_image_uint8"], data[f"{case}_image_out"]
    height, width = data[f"{case}_unpadded_image_size"]
    geometry = Geometry.letterbox(image.shape[1], image.shape[0], int(max(height, width)))
    for pixels, most, mean in (("uint8", 1 / 255, 0.35 / 255), ("float32", EXACT, EXACT)):
        canvas = geometry.warp(image, PAD, pixels) / 255
        assert canvas.dtype == np.float32 or pixels == "uint8"
        shared = canvas[: expected.shape[0], : expected.shape[1]]
        difference = np.abs(shared - expected[: len(canvas), : len(canvas)])
        assert difference.max() <= most
        assert difference[:height, :width].mean() <= mean
        if pixels == "float32":
            assert (shared[height:] == np.float32(PAD)).all() and (shared[:, width:] == np.float32(PAD)).all()


@pytest.mark.parametrize(
    ("height", "width", "size"), [(375, 500, 640), (146, 73, 1333), (1080, 1920, 1024), (9, 640, 96)]
)
def test_images_of_any_size_are_resized_as_by_tensorflow(tensorflow: ModuleType, height: int, width: int, size: int):
    """Noise, in which a sample that is taken a little beside its place shows most."""
    image = np.random.default_rng(size).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = tensorflow.image.convert_image_dtype(image, tensorflow.float32)
    options = {"antialias": True, "preserve_aspect_ratio": True}
    expected = tensorflow.image.resize(pixels, (size, size), **options).numpy()
    canvas = Geometry.letterbox(width, height, size).warp(image, PAD, "float32") / 255
    np.testing.assert_allclose(canvas[: expected.shape[0], : expected.shape[1]], expected, rtol=0, atol=EXACT / 10)


@pytest.mark.parametrize("case", CASES)
def test_boxes_are_mapped_alike(reference, case: str):
    data = reference("preprocess_eval.npz")
    image, target, given = (data[f"{case}_{name}"] for name in ("image_uint8", "target_size", "bbox_in"))
    size = int(data[f"{case}_unpadded_image_size"].max())
    geometry = Geometry.letterbox(image.shape[1], image.shape[0], size)
    boxes = geometry.box_fractions(to_pixels(given, image)) * size / np.tile(target, 2)
    np.testing.assert_allclose(boxes, data[f"{case}_bbox_out"][: len(given)], rtol=0, atol=1e-6)


@pytest.fixture
def crops(reference) -> list[tuple[np.ndarray, dict, Geometry]]:
    """For each instance of the keypoint pipeline, by falling score: its row, the official outputs, and our crop."""
    data = reference("keypoint_eval_pipeline.npz")
    image, boxes = data["image_uint8"], to_pixels(data["in_bbox"], data["image_uint8"])
    found = []
    for number, row in enumerate(np.argsort(-data["in_scores"], kind="stable")):
        prefix = f"out{number}_"
        out = {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
        size = int(out["unpadded_image_size"].max())
        found.append((row, out, Geometry.for_instance(boxes[row], image, OFFICIAL, size)))
    return found


def test_crops_begin_and_end_alike(crops):
    for _, out, geometry in crops:
        x1, y1, x2, y2 = geometry.region
        assert [y1, x1] == out["crop_offset"].tolist()
        assert [y2 - y1, x2 - x1] == out["orig_image_size"].tolist()
        far_x, far_y = geometry.apply([x2, y2])
        assert [far_y, far_x] == pytest.approx(out["unpadded_image_size"])


def test_crops_have_the_same_pixels(reference, crops):
    image = reference("keypoint_eval_pipeline.npz")["image_uint8"]
    for _, out, geometry in crops:
        expected = out["image"]
        for pixels, most in (("uint8", 1 / 255), ("float32", EXACT)):
            canvas = geometry.warp(image, PAD, pixels) / 255
            shared = canvas[: expected.shape[0], : expected.shape[1]]
            assert np.abs(shared - expected[: len(canvas), : len(canvas)]).max() <= most
        height, width = out["unpadded_image_size"]
        outside = np.ones(expected.shape[:2], bool)
        outside[:height, :width] = False
        np.testing.assert_allclose(expected[outside], PAD, atol=1e-6)  # so nothing of the crop lies beyond our square


def test_boxes_and_keypoints_of_crops_are_mapped_alike(reference, crops):
    data = reference("keypoint_eval_pipeline.npz")
    image, sides = data["image_uint8"], data["target_size"]
    visible_points = 0
    for row, out, geometry in crops:
        boxes = geometry.box_fractions(to_pixels(data["in_bbox"], image)) * geometry.size / np.tile(sides, 2)
        np.testing.assert_allclose(boxes[row], out["bbox"][0], rtol=0, atol=1e-6)
        points = data["in_keypoints"][row].reshape(17, 2)
        pixels = points[:, ::-1] * image.shape[1::-1]
        keypoints = np.column_stack([pixels, np.where(points[:, 0] > 0, 2, 0)])
        found, visible = keypoints_on_canvas(keypoints, geometry, False, COCO_PERSON)
        found, expected = found * geometry.size / sides, out["keypoints"].reshape(17, 2)
        np.testing.assert_allclose(found[visible], expected[visible], rtol=0, atol=1e-6)
        assert np.all(expected[~visible] < 0)  # reserved numbers: invisible, or left out by the crop
        visible_points += visible.sum()
    assert visible_points


def test_a_part_of_an_image_is_mapped_alike(reference):
    """Boxes and polygons are clipped to the part by the official code; ours clips them when they become tokens."""
    data = reference("geometry.npz")
    y, x, height, width = data["region_y_x_h_w"].tolist()
    assert [y, x] == data["crop_offset"].tolist()
    np.testing.assert_array_equal(data["image"][y : y + height, x : x + width], data["crop_image"])
    image_height, image_width = data["image"].shape[:2]
    geometry = Geometry(np.array([[1.0, 0, -x], [0, 1, -y]]), 1, (x, y, x + width, y + height))
    sides = np.array([height, width])
    for name in ("bbox", "polygon"):
        points = data[name].reshape(len(data[name]), -1, 2)
        placed = geometry.apply(points[..., ::-1] * [image_width, image_height])[..., ::-1] / sides
        expected = data[f"crop_{name}"].reshape(points.shape)
        np.testing.assert_allclose(np.clip(placed, 0, 1), expected, rtol=0, atol=1e-5)


def test_images_are_mirrored_alike(reference):
    data = reference("geometry.npz")
    geometry = Geometry(np.eye(2, 3), 1).flip()
    boxes = geometry.box_fractions(data["bbox"][:, [1, 0, 3, 2]])
    np.testing.assert_allclose(boxes, data["flip_bbox"], rtol=0, atol=1e-6)
    points = data["polygon"].reshape(len(data["polygon"]), -1, 2)
    np.testing.assert_allclose(
        geometry.to_fractions(points[..., ::-1]), data["flip_polygon"].reshape(points.shape), rtol=0, atol=1e-6
    )
    size = min(data["image"].shape[:2])
    image = (data["image"][:size, :size] * 255).round().astype(np.uint8)
    mirrored = Geometry.letterbox(size, size, size).flip().warp(image, PAD)
    assert np.array_equal(mirrored, image[:, ::-1])


def test_points_are_scaled_alike(reference):
    data = reference("geometry.npz")
    points = data["scale_points_in"].reshape(-1, 2)[:, ::-1]
    points_only = (points >= 0).all(axis=1)  # not the numbers that are reserved for separators and the like
    height, width = data["scale"]
    geometry = Geometry(np.array([[1 / width, 0, 0], [0, 1 / height, 0]]), 1)
    expected = data["scale_points_out"].reshape(-1, 2)[:, ::-1]
    np.testing.assert_allclose(geometry.invert(points[points_only]), expected[points_only], rtol=0, atol=1e-4)
