"""Annotations of any origin: valid parts are kept, others are counted, run lengths become polygons."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pix2seq.dataset.annotations import ObjectReader, Problems, number_classes, outline, polygons_of, run_lengths
from pix2seq.errors import UserError

NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400
TOO_LONG = coco_mask.encode(np.ones((90, 100), np.uint8, order="F"))["counts"].decode()
IMAGES = {1: {"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}, 2: {"id": 2, "file_name": "2.jpg"}}


def read(num_points: int = 2, **values) -> tuple[dict | None, list[str]]:
    """A single annotation after reading, and the kinds of its problems."""
    problems = Problems()
    names = {0: "cat", 5: "dog", 8: "elk", 9: "cow"}
    reader = ObjectReader(IMAGES, names, {0: 1, 5: 2}, num_points, problems, strange={8})
    annotation = {"id": 4, "image_id": 1, "category_id": 5, "bbox": [10, 20, 30, 40]} | values
    return reader.read(annotation), list(problems.counts)


def blob(seed: int) -> np.ndarray:
    """A mask (60, 70) of smooth parts without holes."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((60, 70)), (0, 0), 3)
    mask = (noise > np.quantile(noise, 0.8)).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asfortranarray(cv2.drawContours(np.zeros_like(mask), contours, -1, 1, -1))


def filled(polygons: list[np.ndarray]) -> np.ndarray:
    parts = coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], 60, 70)
    return coco_mask.decode(coco_mask.merge(parts))


# Boxes and classes


def test_a_valid_object_is_completed():
    entry, problems = read()
    assert (entry["bbox"], entry["iscrowd"], entry["area"], entry["difficult"]) == ([10, 20, 30, 40], 0, 1200, False)
    assert not problems


@pytest.mark.parametrize("value, expected", [(1, 1), (True, 1), ("1", 1), (0, 0), ("0", 0), (None, 0), ("", 0)])
def test_flags_may_be_strings(value, expected: int):
    entry, _ = read(iscrowd=value, difficult=value)
    assert (entry["iscrowd"], entry["difficult"]) == (expected, expected)


@pytest.mark.parametrize(
    "values, problem",
    [
        ({"bbox": [1, 2, 0, 4]}, "empty box"),
        ({"bbox": [1, 2, 3, 0]}, "empty box"),
        ({"bbox": [1, NAN, 3, 4]}, "four finite numbers"),
        ({"bbox": [1, 2, INFINITE, 4]}, "four finite numbers"),
        ({"bbox": [1, 2, HUGE, 4]}, "four finite numbers"),
        ({"bbox": [1, 2, 3]}, "four finite numbers"),
        ({"bbox": ["1", "2", "3", "x"]}, "four finite numbers"),
        ({"bbox": None}, "four finite numbers"),
        ({"bbox": [100, 2, 3, 4]}, "outside the image"),
        ({"bbox": [-9, 2, 9, 4]}, "outside the image"),
        ({"category_id": 7}, "unknown category"),
        ({"category_id": None}, "without a class"),
        ({"category_id": 8}, "class that the model does not have"),
        ({"image_id": 3}, "not listed"),
    ],
)
def test_an_object_that_cannot_be_used_is_left_out_and_counted(values: dict, problem: str):
    entry, problems = read(**values)
    assert entry is None
    assert len(problems) == 1 and problem in problems[0]


def test_a_class_that_is_not_requested_is_left_out_without_a_report():
    assert read(category_id=9) == (None, [])


@pytest.mark.parametrize("area", [None, "9", NAN, HUGE])
def test_a_missing_area_is_computed_from_the_mask_else_from_the_box(area):
    triangle, rle = [[10, 20, 30, 20, 10, 60]], coco_mask.encode(np.eye(80, 100, dtype=np.uint8, order="F"))
    assert read(area=area)[0]["area"] == 1200
    assert read(area=area, segmentation=triangle)[0]["area"] == 400
    assert read(area=area, segmentation=rle)[0]["area"] == 80
    assert read(area=5.5, segmentation=triangle)[0]["area"] == 5.5


def test_category_0_is_a_category():
    assert read(category_id=0)[0]["category_id"] == 0


def test_a_box_is_clipped_to_its_image_and_reported_if_it_reaches_far_beyond():
    entry, problems = read(bbox=[-5, 70, 20, 20])
    assert entry["bbox"] == [0, 70, 15, 10] and "clipped" in problems[0]
    assert read(bbox=[90, 70, 10.4, 10.4]) == read(bbox=[90, 70, 10, 10])


def test_an_image_of_unknown_size_clips_at_its_origin_only():
    assert read(image_id=2, bbox=[-5, 5, 9000, 9])[0]["bbox"] == [0, 5, 8995, 9]


def test_problems_are_reported_with_their_count_and_the_first_one():
    problems = Problems()
    for number in (7, 8):
        problems.add("empty box", f"annotation {number}")
    assert problems.lines() == ["2 × empty box (first: annotation 7)"]


@pytest.mark.parametrize("ids", [(1, 2, 90), (899, 1)])
def test_ids_that_have_tokens_are_kept(ids: tuple[int, ...]):
    assert number_classes({number: str(number) for number in ids}) == {number: number for number in ids}


def test_ids_without_tokens_are_numbered_in_their_order():
    assert number_classes({4000: "a", 0: "b", 7: "c"}) == {0: 1, 7: 2, 4000: 3}


def test_there_are_tokens_for_899_classes_but_not_for_900():
    assert number_classes({number: str(number) for number in range(899)})[898] == 899
    with pytest.raises(UserError, match="899"):
        number_classes({number: str(number) for number in range(900)})


@pytest.mark.parametrize("names", [{1: "cat", 2: "cat"}, {"1": "cat"}, {1.5: "cat"}])
def test_names_must_be_unique_and_ids_whole_numbers(names: dict):
    with pytest.raises(UserError):
        number_classes(names)


# Shapes


def test_polygons_without_area_are_left_out():
    good, line, short, odd = [0, 0, 4, 0, 4, 4], [0, 0, 4, 0, 8, 0], [0, 0, 4, 4], [0, 0, 4, 0, 4, 4, 1]
    entry, problems = read(segmentation=[good, line, short, odd, [0, NAN, 4, 0, 4, 4]])
    assert entry["segmentation"] == [good] and len(problems) == 1


@pytest.mark.parametrize("shift", [(90, 0), (-70, 0), (0, 60), (0, -70)])
def test_a_polygon_outside_the_image_is_left_out(shift: tuple[int, int]):
    outside = (np.array([[10, 20], [70, 20], [70, 70]]) + shift).ravel().tolist()
    entry, problems = read(segmentation=[outside])
    assert "segmentation" not in entry and "in the image" in problems[0]
    assert ("segmentation" in read(segmentation=[outside], image_id=2)[0]) == (min(shift) >= 0)


def test_an_object_without_a_valid_polygon_keeps_its_box():
    assert "segmentation" not in read(segmentation=[[0, 0, 4, 4]])[0]
    assert "segmentation" not in read(segmentation=None)[0]
    assert "segmentation" not in read(segmentation="none")[0]


@pytest.mark.parametrize("counts", [[8000], [7, 2], TOO_LONG, "zzz", "0", "P1", "", "é", None, {"a": 1}])
def test_empty_or_invalid_run_lengths_are_left_out(counts):
    assert "segmentation" not in read(segmentation={"size": [80, 100], "counts": counts})[0]


def test_run_lengths_of_another_size_are_left_out():
    rle = coco_mask.encode(blob(0))
    assert "segmentation" not in read(segmentation=rle)[0]
    assert "segmentation" in read(segmentation=rle, image_id=2)[0]


@pytest.mark.parametrize("seed", range(8))
def test_polygons_of_run_lengths_fill_the_same_pixels(seed: int):
    mask = blob(seed)
    compressed = coco_mask.encode(mask)
    changes = np.flatnonzero(np.diff(mask.ravel(order="F").astype(int), prepend=0)).tolist()
    runs = np.diff([0, *changes, mask.size]).tolist()
    text = compressed | {"counts": compressed["counts"].decode()}
    for segmentation in (compressed, text, {"size": [60, 70], "counts": runs}):
        assert run_lengths(segmentation["counts"]) == runs
        assert np.array_equal(filled(polygons_of(segmentation)), mask)


def test_a_single_pixel_is_a_unit_square():
    mask = np.zeros((5, 6), np.uint8)
    mask[2, 3] = 1
    ((polygon),) = outline(mask)
    assert sorted(map(tuple, polygon.tolist())) == [(3, 2), (3, 3), (4, 2), (4, 3)]


# Keypoints


def test_labeled_keypoints_are_counted():
    entry, _ = read(keypoints=[1, 2, 2, 0, 0, 0])
    assert (entry["keypoints"], entry["num_keypoints"]) == ([1, 2, 2, 0, 0, 0], 1)


@pytest.mark.parametrize("keypoints", [[0] * 6, [1, 2, 0, 3, 4, 0], [], None])
def test_a_person_without_labeled_keypoints_has_none(keypoints: list | None):
    entry, problems = read(keypoints=keypoints)
    assert "keypoints" not in entry and not problems


@pytest.mark.parametrize("keypoints", [[1, 2], [1, 2, 2], [1, 2, 2] * 3, [NAN, 2, 2, 1, 1, 2], 5, "a", {"x": 1}])
def test_keypoints_of_another_number_or_with_invalid_values_are_left_out(keypoints: list):
    entry, problems = read(keypoints=keypoints)
    assert "keypoints" not in entry and "keypoints" in problems[0]
