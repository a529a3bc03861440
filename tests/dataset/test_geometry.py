"""The affine map: it agrees with its inverse, and pixels move as points do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.coco_person import KEYPOINTS
from pix2seq.dataset.geometry import Geometry, resample_polygons, visible_share
from pix2seq.dataset.skeleton import COCO_PERSON

SIZE = 192
sides = st.integers(1, 4000)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """A letterbox or a crop, perhaps zoomed, perhaps mirrored."""
    width, height = draw(sides), draw(sides)
    if draw(st.booleans()):
        geometry = Geometry.letterbox(width, height, SIZE)
    else:
        x, y = draw(st.floats(0, width)), draw(st.floats(0, height))
        w, h = draw(st.floats(0.5, 500)), draw(st.floats(0.5, 500))
        geometry = Geometry.crop(np.array([x, y, x + w, y + h]), draw(st.floats(0, 1)), SIZE)
    if draw(st.booleans()):
        geometry = geometry.zoom(draw(st.floats(0.5, 2)), (draw(st.floats(0, SIZE)), draw(st.floats(0, SIZE))))
    return geometry.flip() if draw(st.booleans()) else geometry


@st.composite
def boxes(draw: st.DrawFn) -> np.ndarray:
    corners = draw(st.lists(st.tuples(*[st.floats(0, 2000)] * 4), max_size=5))
    x, y, w, h = np.array(corners, dtype=np.float64).reshape(-1, 4).T
    return np.stack([x, y, x + w, y + h], axis=1)


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@given(geometries(), st.lists(st.tuples(st.floats(-100, 3000), st.floats(-100, 3000)), min_size=1))
def test_invert_undoes_apply(geometry: Geometry, points: list[tuple[float, float]]):
    np.testing.assert_allclose(geometry.invert(geometry.apply(points)), points, atol=1e-6)


@given(geometries(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_points_are_unchanged_by_the_round_trip_through_the_image(geometry: Geometry, fractions: list):
    np.testing.assert_allclose(geometry.to_fractions(geometry.from_fractions(fractions)), fractions, atol=1e-6)


@given(geometries(), boxes())
def test_boxes_are_unchanged_by_the_round_trip_through_fractions(geometry: Geometry, image_boxes: np.ndarray):
    back = geometry.boxes_from_fractions(geometry.box_fractions(image_boxes))
    np.testing.assert_allclose(back, image_boxes, atol=1e-6)


@given(geometries(), boxes())
def test_boxes_keep_their_corners_in_order(geometry: Geometry, image_boxes: np.ndarray):
    y1, x1, y2, x2 = geometry.box_fractions(image_boxes).T
    assert np.all(y1 <= y2) and np.all(x1 <= x2)


@given(geometries())
def test_flipping_twice_changes_nothing(geometry: Geometry):
    np.testing.assert_allclose(geometry.flip().flip().matrix, geometry.matrix, atol=1e-6)


def test_flipping_mirrors_left_and_right():
    geometry = Geometry.letterbox(100, 100, 100)
    assert geometry.flip().apply([[10, 20]]).tolist() == [[90, 20]]


@given(sides, sides)
def test_letterbox_fills_the_canvas_and_keeps_the_aspect(width: int, height: int):
    far_x, far_y = Geometry.letterbox(width, height, SIZE).apply([width, height])
    assert max(far_x, far_y) == pytest.approx(SIZE)
    scale = SIZE / max(width, height)
    assert abs(far_x - width * scale) <= 1 and abs(far_y - height * scale) <= 1  # whole pixels, at least one


@given(sides, sides)
def test_letterbox_begins_in_the_upper_left_corner(width: int, height: int):
    assert Geometry.letterbox(width, height, SIZE).apply([0, 0]).tolist() == [0, 0]


@given(st.floats(0, 0.8))
def test_a_crop_centers_the_box_with_padding(padding: float):
    geometry = Geometry.crop(np.array([100, 50, 300, 150]), padding, SIZE)
    (x1, y1, x2, y2) = geometry.apply_boxes(np.array([[100, 50, 300, 150]]))[0]
    assert (x1 + x2) / 2 == pytest.approx(SIZE / 2)
    assert (y1 + y2) / 2 == pytest.approx(SIZE / 2)
    assert x1 == pytest.approx(padding * (x2 - x1), abs=1e-6)
    assert (x2 - x1) / (y2 - y1) == pytest.approx(2)


def test_zoom_keeps_its_center():
    geometry = Geometry.letterbox(300, 200, SIZE)
    point = geometry.invert([30.0, 70.0])
    np.testing.assert_allclose(geometry.zoom(1.4, (30.0, 70.0)).apply(point), [30, 70])


@pytest.mark.parametrize("flipped", [False, True], ids=["upright", "mirrored"])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry.letterbox(300, 200, 192),
        Geometry.letterbox(300, 200, 64),
        Geometry.letterbox(300, 200, 450),
        Geometry.crop(np.array([120, 60, 240, 130]), 0.25, 192),
        Geometry.crop(np.array([120, 60, 240, 130]), 0.25, 48),
        Geometry.letterbox(300, 200, 192).zoom(1.15, (20.0, 100.0)),
    ],
    ids=["shrunk", "shrunk below half", "enlarged", "crop", "crop shrunk below half", "zoomed"],
)
def test_pixels_move_as_points_do(geometry: Geometry, flipped: bool):
    geometry = geometry.flip() if flipped else geometry
    image = np.zeros((200, 300, 3), dtype=np.uint8)
    image[80:100, 160:200] = 255
    canvas = geometry.warp(image, 0.0)[..., 0].astype(np.float64)
    y, x = np.indices(canvas.shape) + 0.5
    centroid = [(x * canvas).sum() / canvas.sum(), (y * canvas).sum() / canvas.sum()]
    np.testing.assert_allclose(centroid, geometry.apply([180, 90]), atol=0.15)


def test_warp_at_the_same_size_changes_no_pixel():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(Geometry.letterbox(64, 64, 64).warp(image, 0.0), image)


def test_warp_pads_with_the_given_gray_level():
    canvas = Geometry.letterbox(64, 32, 64).warp(np.full((32, 64, 3), 200, dtype=np.uint8), 0.3)
    assert np.all(canvas[33:] == round(0.3 * 255))
    assert np.all(canvas[:31] == 200)


def test_shrinking_is_antialiased():
    image = np.indices((400, 400)).sum(0) % 2 * np.uint8(255)
    canvas = Geometry.letterbox(400, 400, 40).warp(np.repeat(image[..., None], 3, 2).astype(np.uint8), 0.0)
    assert canvas[1:-1, 1:-1].std() < 2
    assert canvas[1:-1, 1:-1].mean() == pytest.approx(127.5, abs=2)


def test_visible_share_counts_the_part_on_the_canvas():
    boxes = np.array([[0.2, 0.2, 0.4, 0.4], [-0.5, 0, 0.5, 1], [1.1, 0, 1.5, 1], [0.5, 0.5, 0.5, 0.9]])
    np.testing.assert_allclose(visible_share(boxes), [1, 0.5, 0, 0])


@pytest.mark.parametrize("max_points", [24, 48, 128])
def test_resampled_outlines_keep_their_area(max_points: int):
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 40 + 8 * np.sin(3 * angle)
    blob = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    (smaller,) = resample_polygons([blob], max_points)
    assert max_points / 3 <= len(smaller) <= max_points
    assert area(smaller) == pytest.approx(area(blob), rel=0.06)


def test_polygons_with_few_points_keep_their_corners_beside_long_ones():
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([20 * np.cos(angle), 20 * np.sin(angle)], axis=1)
    plank = np.array([[0, 50], [200, 50], [200, 60], [0, 60.0]])
    found = resample_polygons([circle, plank], 48)
    assert area(found[1]) == pytest.approx(area(plank), rel=0.05)


@given(st.lists(st.integers(3, 60), min_size=1, max_size=30), st.integers(3, 64), st.integers(0, 2**16))
def test_resampling_keeps_to_the_point_budget(lengths: list[int], max_points: int, seed: int):
    rng = np.random.default_rng(seed)
    found = resample_polygons([rng.uniform(0, 100, (length, 2)) for length in lengths], max_points)
    assert 3 <= sum(len(polygon) for polygon in found) <= max_points
    assert all(len(polygon) >= 3 for polygon in found)


def test_polygons_within_the_budget_are_unchanged():
    polygons = [np.array([[0, 0], [0, 1], [1, 1.0]])] * 2
    assert resample_polygons(polygons, 6) is polygons


def test_the_keypoint_flip_exchanges_left_and_right():
    names = [KEYPOINTS[index] for index in COCO_PERSON.flip]
    swapped = {"left": "right", "right": "left"}
    assert names == ["_".join(swapped.get(part, part) for part in name.split("_")) for name in KEYPOINTS]


def test_the_keypoint_flip_undoes_itself():
    assert [COCO_PERSON.flip[index] for index in COCO_PERSON.flip] == list(range(17))


# Crops inside the image

PERSON = np.array([30.2, 40.0, 50.7, 90.0])


def test_a_crop_inside_is_the_padded_box_without_what_lies_beyond_the_image():
    geometry = Geometry.crop_inside(PERSON, 0.5, 60, 100, SIZE)
    # 39.6 … 89.1 pixels become 39 … 90; half of that is added above, and one pixel below, where the image ends
    assert geometry.region == (18, 13, 60, 100)
    assert geometry.apply([18, 13]).tolist() == pytest.approx([0, 0])
    assert geometry.apply([60, 100])[1] == pytest.approx(SIZE)


@given(sides, sides, boxes(), st.floats(0, 1))
def test_a_crop_inside_holds_its_box(width: int, height: int, image_boxes: np.ndarray, padding: float):
    for box in np.clip(image_boxes, 0, [width, height, width, height]):
        x1, y1, x2, y2 = (geometry := Geometry.crop_inside(box, padding, width, height, SIZE)).region
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        placed = geometry.apply_boxes(box[None])[0]
        assert np.all((placed >= -SIZE / (x2 - x1)) & (placed <= SIZE * (1 + 1 / min(x2 - x1, y2 - y1))))


def test_margins_of_a_crop_inside_are_those_of_all_its_pixels_rounded_down():
    for padding, margin in ((0.0, 0), (0.25, 3), (0.3, 3), (0.5, 6), (0.6, 7)):
        geometry = Geometry.crop_inside(np.array([40.1, 40.1, 50.1, 50.1]), padding, 100, 100, SIZE)
        # 39.7 … 49.6 become the 12 pixels from 39 to 50
        assert geometry.region == (39 - margin, 39 - margin, 51 + margin, 51 + margin)


@pytest.mark.parametrize("flipped", [False, True], ids=["upright", "mirrored"])
def test_outside_its_region_a_canvas_is_padding(flipped: bool):
    geometry = Geometry.crop_inside(np.array([40.0, 20, 50, 60]), 0.25, 100, 100, 64)
    geometry = geometry.flip() if flipped else geometry
    canvas = geometry.warp(np.full((100, 100, 3), 200, np.uint8), 0.3)
    far = round(64 * (geometry.region[2] - geometry.region[0]) / (geometry.region[3] - geometry.region[1]))
    canvas = canvas[:, ::-1] if flipped else canvas
    assert np.all(canvas[:, :far] == 200)
    assert np.all(canvas[:, far:] == round(0.3 * 255))


def test_pixels_outside_a_region_do_not_affect_the_canvas():
    image = np.zeros((100, 100, 3), np.uint8)
    geometry = Geometry.crop_inside(np.array([40.0, 40, 60, 60]), 0.0, 100, 100, 8)
    x1, y1, x2, y2 = geometry.region
    image[y1:y2, x1:x2] = 200
    assert np.all(geometry.warp(image, 0.0) == 200)


def test_a_small_part_of_a_large_image_is_the_same_as_of_the_part_alone():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    geometry = Geometry.crop(np.array([100.3, 80.9, 290.1, 220.2]), 0.1, 48)
    cut = Geometry(geometry.matrix + geometry.matrix[:, :2] @ [[0, 0, 40], [0, 0, 30]], 48)
    assert np.abs(geometry.warp(image, 0.3).astype(int) - cut.warp(image[30:280, 40:360], 0.3)).max() <= 1


def test_shrinking_is_the_same_for_all_positions_in_the_image():
    """An edge between dark and bright moves linearly across canvas pixels: no position is preferred."""
    step = np.repeat((np.arange(400) >= 200)[None, :, None], 100, 0).repeat(3, 2).astype(np.uint8) * 255
    for shift in (0.0, 0.25, 0.5, 0.75):
        canvas = Geometry(np.array([[0.1, 0, shift], [0, 0.1, 0]]), 50).warp(step, 0.0)
        bright = (canvas[5, :40, 0] / 255).sum()
        assert bright == pytest.approx(40 - 20 - shift, abs=0.02)
