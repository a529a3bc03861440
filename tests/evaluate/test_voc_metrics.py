"""Pascal VOC's AP in cases that are computed by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pix2seq.config import InferCFG
from pix2seq.dataset.voc import VocDataset
from pix2seq.evaluate.detection import score
from pix2seq.evaluate.predictions import ImagePredictions
from pix2seq.evaluate.voc_metrics import ImageBoxes, average_precision, voc_precision
from pix2seq.infer.results import Instances
from pix2seq.tasks import choose_tasks

HERE, THERE, AWAY = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]


def true(*boxes: list[float], difficult: tuple[int, ...] = ()) -> ImageBoxes:
    flags = np.array([index in difficult for index in range(len(boxes))], dtype=bool)
    return ImageBoxes(np.array(boxes, dtype=float).reshape(-1, 4), difficult=flags)


def predicted(*boxes: list[float], scores: tuple[float, ...] = ()) -> ImageBoxes:
    return ImageBoxes(np.array(boxes, dtype=float).reshape(-1, 4), scores=np.array(scores, dtype=float))


def both(ground_truth: list[ImageBoxes], predictions: list[ImageBoxes]) -> tuple[float, float]:
    return tuple(average_precision(ground_truth, predictions, eleven_points=points) for points in (False, True))


def test_ap_is_one_if_all_objects_are_found():
    assert both([true(HERE, THERE)], [predicted(THERE, HERE, scores=(0.4, 0.9))]) == (1, 1)


def test_a_wrong_prediction_between_two_correct_ones():
    # precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: the area is ½ · 1 + ½ · 2/3; of 11 recalls six see 1, five 2/3
    predictions = [predicted(HERE, AWAY, THERE, scores=(0.9, 0.8, 0.7))]
    area, eleven = both([true(HERE, THERE)], predictions)
    assert area == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert eleven == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_missed_object_ends_the_curve():
    # recall stops at 1/2, where precision is 1: recalls 0, 0.1 … 0.5 are reached
    assert both([true(HERE, THERE)], [predicted(HERE, scores=(0.9,))]) == (pytest.approx(0.5), pytest.approx(6 / 11))


def test_a_second_prediction_of_an_object_is_wrong():
    # sorted: right, wrong (the same object), right: the same curve as with a stray box
    predictions = [predicted(HERE, [0, 0, 10, 9.5], THERE, scores=(0.9, 0.8, 0.7))]
    assert both([true(HERE, THERE)], predictions)[0] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_prediction_belongs_to_the_object_that_it_overlaps_most():
    # the second prediction overlaps HERE most, which is taken, though it overlaps the neighbour by half too
    near = [0, 4, 10, 14]
    predictions = [predicted(HERE, [0, 1, 10, 11], scores=(0.9, 0.8))]
    assert both([true(HERE, near)], predictions)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("width, right", [(5.0, True), (4.99, False)])
def test_an_iou_of_one_half_is_enough(width: float, right: bool):
    assert both([true(HERE)], [predicted([0, 0, width, 10], scores=(0.9,))]) == ((1, 1) if right else (0, 0))


def test_difficult_objects_are_ignored():
    objects = [true(HERE, THERE, difficult=(1,))]
    assert both(objects, [predicted(HERE, scores=(0.9,))]) == (1, 1)  # the difficult one is not missed
    assert both(objects, [predicted(THERE, THERE, HERE, scores=(0.9, 0.8, 0.7))]) == (1, 1)  # nor is finding it wrong


def test_ap_is_undefined_if_all_objects_are_difficult():
    assert (
        average_precision([true(HERE, difficult=(0,))], [predicted(HERE, scores=(0.9,))], eleven_points=False) is None
    )


def test_predictions_are_ranked_over_all_images():
    # the prediction in the empty image has a higher score than the right one
    predictions = [predicted(HERE, scores=(0.5,)), predicted(HERE, scores=(0.9,))]
    assert both([true(HERE), true()], predictions)[0] == pytest.approx(0.5)


def test_no_predictions_are_zero():
    assert both([true(HERE)], [predicted()]) == (0, 0)


def test_a_category_of_coco_entries():
    annotations = [
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "iscrowd": 0},
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 10, 10], "iscrowd": 1},
        {"image_id": 1, "category_id": 8, "bbox": [20, 20, 10, 10], "iscrowd": 0},
    ]
    results = [
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "score": 0.8},
        {"image_id": 1, "category_id": 8, "bbox": [0, 0, 10, 10], "score": 0.7},
    ]
    assert voc_precision(annotations, results, [1, 2], 7) == {"VOC AP50": 1, "VOC AP50, 11 points": 1}
    assert voc_precision(annotations, results, [1, 2], 8) == {"VOC AP50": 0, "VOC AP50, 11 points": 0}
    assert voc_precision(annotations, results, [2], 7) == {}


def voc_image(root: Path) -> VocDataset:
    """One image with an ordinary dog and a difficult one."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / "JPEGImages" / "000001.jpg"), np.full((100, 120, 3), 90, np.uint8))
    (root / "ImageSets" / "Main" / "test.txt").write_text("000001\n", encoding="utf-8")
    objects = "".join(
        f"<object><name>dog</name><difficult>{difficult}</difficult><bndbox><xmin>{x + 1}</xmin><ymin>11</ymin>"
        f"<xmax>{x + 30}</xmax><ymax>40</ymax></bndbox></object>"
        for x, difficult in ((10, 0), (60, 1))
    )
    size = "<size><width>120</width><height>100</height><depth>3</depth></size>"
    text = f"<annotation><filename>000001.jpg</filename>{size}{objects}</annotation>"
    (root / "Annotations" / "000001.xml").write_text(text, encoding="utf-8")
    return VocDataset(root, "test", choose_tasks(["detection"]))


def test_a_voc_folder_is_scored_by_its_own_protocol(tmp_path: Path):
    split = voc_image(tmp_path)
    dog = next(number for number, name in split.class_names.items() if name == "dog")
    boxes = np.array([[60, 10, 90, 40], [10, 10, 40, 40], [60, 60, 90, 90.0]])  # difficult, ordinary, nothing
    found = Instances(boxes, np.full(3, dog), np.array([0.9, 0.8, 0.7]))
    predictions = [ImagePredictions(0, split.images[0]["id"], found=found)]
    scores = score(predictions, split, InferCFG(score_threshold=0.75))
    assert scores.metrics["VOC AP50"] == scores.metrics["VOC AP50, 11 points"] == pytest.approx(1)
    assert scores.per_class["dog"]["objects"] == 1
    assert scores.quality == {split.images[0]["id"]: pytest.approx(1)}
    assert scores.results[0]["bbox"] == [60, 10, 30, 30]
