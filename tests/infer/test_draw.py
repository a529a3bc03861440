"""Drawings keep the image's size and show the predictions, on images of any shape."""

import numpy as np
import pytest

from pix2seq.dataset.masks import encode_mask
from pix2seq.infer.draw import Drawing
from pix2seq.infer.masks import Mask
from pix2seq.infer.overlay import class_color
from pix2seq.infer.results import Instances, Pose, Result
from pix2seq.tasks import TASKS

DRAWING = Drawing({1: "person", 3: "car"})
DRAWN = [name for name, task in TASKS.items() if task.inference.IMAGE_FILE]


def draw(task: str, image: np.ndarray, result: Result) -> np.ndarray:
    return TASKS[task].inference.draw(image, result.instances, result.predictions[task], DRAWING)


def result_on(height: int, width: int) -> Result:
    """A person on the whole image and a car in its corner."""
    boxes = np.array([[0, 0, width, height], [width / 2, height / 2, width, height]], dtype=float)
    mask = np.zeros((height, width), bool)
    mask[height // 2 :] = True
    points = np.random.default_rng(0).random((17, 2)) * [width, height]
    pose = Pose(np.column_stack([points, np.full(17, 2)]), 1.0)
    empty = Mask(encode_mask(np.zeros_like(mask)), 0.0)
    instances = Instances(boxes, np.array([1, 3]), np.array([0.9, 0.5]))
    masks = [Mask(encode_mask(mask), 1.0), empty]
    return Result(instances, {"detection": instances, "segmentation": masks, "keypoint": [pose, None]})


def test_every_task_but_captioning_is_drawn():
    assert DRAWN == ["detection", "segmentation", "keypoint"]


@pytest.mark.parametrize("task", DRAWN)
@pytest.mark.parametrize("shape", [(240, 320), (1, 1), (200, 1), (1, 200), (7, 9), (1500, 1000)])
def test_a_drawing_has_the_image_s_size(task: str, shape: tuple[int, int]):
    image = np.full((*shape, 3), 128, np.uint8)
    drawing = draw(task, image, result_on(*shape))
    assert (drawing.shape, drawing.dtype) == (image.shape, np.uint8)
    assert (image == 128).all()


@pytest.mark.parametrize("task", DRAWN)
def test_without_predictions_the_image_is_unchanged(task: str):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    nothing = Result(Instances.none(), {"detection": Instances.none(), "segmentation": [], "keypoint": []})
    assert (draw(task, image, nothing) == image).all()


def test_a_box_and_its_label_have_the_color_of_the_class():
    drawing = draw("detection", np.zeros((240, 320, 3), np.uint8), result_on(240, 320))
    for class_id in DRAWING.class_names:
        assert (drawing == class_color(class_id)).all(axis=2).sum() > 200


def test_a_mask_tints_its_own_pixels_only():
    image = np.full((240, 320, 3), 128, np.uint8)
    result = result_on(240, 320)
    alone = Result(result.instances[[0]], {"segmentation": result.predictions["segmentation"][:1]})
    changed = (draw("segmentation", image, alone) != image).any(axis=2)
    assert changed[130:].all()
    assert not changed[40:110, 120:].any()  # below the tag, above the mask


def test_invisible_keypoints_are_not_drawn():
    result = result_on(240, 320)
    result.predictions["keypoint"][0].keypoints[:, 2] = 0
    assert (draw("keypoint", np.zeros((240, 320, 3), np.uint8), result) == 0).all()


def test_successive_classes_have_different_colors():
    colors = np.array([class_color(class_id) for class_id in range(1, 21)], dtype=float)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=2)
    assert distance[~np.eye(len(colors), dtype=bool)].min() > 40
