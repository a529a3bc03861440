"""Drawings keep the image's size and show what was found, on images of any shape."""

import numpy as np
import pytest

from pix2seq.infer.draw import class_color, draw_detections, draw_keypoints, draw_masks
from pix2seq.infer.masks import Mask, encode_mask
from pix2seq.infer.results import Instances, Pose, Result

NAMES = {1: "person", 3: "car"}
PAINTERS = [draw_detections, draw_masks, draw_keypoints]


def result_on(height: int, width: int) -> Result:
    """A person on the whole image and a car in its corner."""
    boxes = np.array([[0, 0, width, height], [width / 2, height / 2, width, height]], dtype=float)
    mask = np.zeros((height, width), bool)
    mask[height // 2 :] = True
    points = np.random.default_rng(0).random((17, 2)) * [width, height]
    pose = Pose(np.column_stack([points, np.full(17, 2)]), 1.0)
    empty = Mask(encode_mask(np.zeros_like(mask)), 0.0)
    instances = Instances(boxes, np.array([1, 3]), np.array([0.9, 0.5]))
    return Result(instances, [Mask(encode_mask(mask), 1.0), empty], [pose, None])


@pytest.mark.parametrize("draw", PAINTERS)
@pytest.mark.parametrize("shape", [(240, 320), (1, 1), (200, 1), (1, 200), (7, 9), (1500, 1000)])
def test_a_drawing_has_the_image_s_size(draw, shape):
    image = np.full((*shape, 3), 128, np.uint8)
    drawing = draw(image, result_on(*shape), NAMES)
    assert (drawing.shape, drawing.dtype) == (image.shape, np.uint8)
    assert (image == 128).all()


@pytest.mark.parametrize("draw", PAINTERS)
def test_nothing_found_leaves_the_image_as_it_is(draw):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert (draw(image, Result(Instances.none(), [], []), NAMES) == image).all()


def test_a_box_and_its_tag_have_the_color_of_the_class():
    drawing = draw_detections(np.zeros((240, 320, 3), np.uint8), result_on(240, 320), NAMES)
    for class_id in NAMES:
        assert (drawing == class_color(class_id)).all(axis=2).sum() > 200


def test_a_mask_tints_its_own_pixels_only():
    image = np.full((240, 320, 3), 128, np.uint8)
    result = result_on(240, 320)
    alone = Result(result.instances[[0]], result.masks[:1])
    changed = (draw_masks(image, alone, NAMES) != image).any(axis=2)
    assert changed[130:].all()
    assert not changed[40:110, 120:].any()  # below the tag, above the mask


def test_invisible_keypoints_are_not_drawn():
    result = result_on(240, 320)
    result.poses[0].keypoints[:, 2] = 0
    assert (draw_keypoints(np.zeros((240, 320, 3), np.uint8), result, NAMES) == 0).all()


def test_classes_that_follow_each_other_look_different():
    colors = np.array([class_color(class_id) for class_id in range(1, 21)], dtype=float)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=2)
    assert distance[~np.eye(len(colors), dtype=bool)].min() > 40
