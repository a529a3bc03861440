"""COCO's metrics equal those of pycocotools; crowds and unknown masks and poses are ignored."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as ReferenceCOCO
from pycocotools.cocoeval import COCOeval

from pix2seq.dataset.coco import CocoDataset
from pix2seq.evaluate.coco_metrics import METRICS, CocoScore, open_ground_truth
from pix2seq.tasks import choose_tasks

SIDE, IMAGES = 200, 12
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 7, "name": "kite"}]


def polygon(box: np.ndarray, rng: np.random.Generator) -> list[float]:
    """A star-shaped polygon that fills most of a box x y w h."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = 0.5 * rng.uniform(0.7, 1, 12)
    points = np.stack([0.5 + radius * np.cos(angles), 0.5 + radius * np.sin(angles)], axis=1)
    return (box[:2] + points * box[2:]).round(2).ravel().tolist()


def make_ground_truth(rng: np.random.Generator) -> dict:
    annotations = []
    for image_id in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 6)):
            size = rng.uniform(5, 150, 2)
            box = np.concatenate([rng.uniform(0, SIDE - size), size]).round(2)
            points = np.concatenate([box[:2] + rng.random((17, 2)) * size, rng.integers(0, 3, (17, 1))], axis=1)
            crowd = int(rng.random() < 0.15)
            shape = [polygon(box, rng)]
            if crowd:
                shape = coco_mask.merge(coco_mask.frPyObjects(shape, SIDE, SIDE))
                shape = {"size": shape["size"], "counts": shape["counts"].decode()}
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": int(rng.choice([1, 7])),
                "iscrowd": crowd, "bbox": box.tolist(), "area": float(box[2] * box[3]) * 0.7, "segmentation": shape,
                "keypoints": points.round(2).ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
            })  # fmt: skip
    images = [{"id": n, "width": SIDE, "height": SIDE, "file_name": f"{n}.jpg"} for n in range(1, IMAGES + 1)]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def make_results(ground_truth: dict, rng: np.random.Generator) -> list[dict]:
    """Predictions of different quality: some are duplicates, some belong to no object."""
    results = []
    for entry in ground_truth["annotations"] * 2:
        if rng.random() < 0.3:
            continue
        box = np.array(entry["bbox"]) + rng.normal(0, 0.08, 4) * np.tile(entry["bbox"][2:], 2)
        box[2:] = np.maximum(box[2:], 1)
        points = np.reshape(entry["keypoints"], (17, 3)) + np.append(rng.normal(0, 3, 2), 0)
        rle = coco_mask.merge(coco_mask.frPyObjects([polygon(box, rng)], SIDE, SIDE))
        category = entry["category_id"] if rng.random() < 0.9 else 8 - entry["category_id"]
        results.append({
            "image_id": entry["image_id"], "category_id": category, "score": round(rng.random(), 2),
            "bbox": box.tolist(), "keypoints": points.ravel().tolist(),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        })  # fmt: skip
    return results


@pytest.fixture(scope="module")
def made() -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(0)
    ground_truth = make_ground_truth(rng)
    return ground_truth, make_results(ground_truth, rng)


def alone(results: list[dict], kind: str) -> list[dict]:
    """Results with the keys of one kind only, since pycocotools infers the kind from the first key it knows."""
    part = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
    return [{name: r[name] for name in ("image_id", "category_id", "score", part)} for r in results]


def reference(ground_truth: dict, results: list[dict], kind: str, image_ids: list[int]) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = ReferenceCOCO()
        coco.dataset = copy.deepcopy(ground_truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), kind)
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("image_ids", [list(range(1, IMAGES + 1)), [2, 3, 5, 8]], ids=["all", "some"])
@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_metrics_equal_those_of_pycocotools(made, kind: str, image_ids: list[int]):
    ground_truth, results = made  # results with boxes, masks and poses: each kind has the area of its own shape
    ours = CocoScore(ground_truth, results, kind, image_ids).metrics()
    theirs = dict(
        zip(METRICS[kind], reference(ground_truth, alone(results, kind), kind, image_ids).tolist(), strict=True)
    )
    assert ours == pytest.approx({name: value for name, value in theirs.items() if value >= 0}, abs=1e-6)
    assert 0.1 < ours["AP"] < 0.9


def test_metrics_by_class_average_to_the_whole(made):
    ground_truth, results = made
    score = CocoScore(ground_truth, results, "bbox", list(range(1, IMAGES + 1)))
    rows = score.per_class()
    assert rows.keys() == {"person", "kite"}
    for name in ("AP", "AP50"):
        assert np.mean([row[name] for row in rows.values()]) == pytest.approx(score.metrics()[name])
    assert sum(row["objects"] for row in rows.values()) == sum(not a["iscrowd"] for a in ground_truth["annotations"])


def one_image(*annotations: dict) -> dict:
    images = [{"id": 1, "width": SIDE, "height": SIDE, "file_name": "1.jpg"}]
    complete = [
        {"id": n, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400.0} | a
        for n, a in enumerate(annotations, 1)
    ]
    return {"images": images, "annotations": complete, "categories": CATEGORIES}


def box_result(box: list[float], score: float) -> dict:
    return {"image_id": 1, "category_id": 1, "bbox": box, "score": score}


def test_detections_in_a_crowd_are_not_counted_as_wrong():
    crowd = {"bbox": [100, 100, 80, 80], "iscrowd": 1}
    results = [box_result([110, 110, 10, 30], 0.9), box_result([10, 10, 20, 20], 0.8)]
    with_crowd = CocoScore(one_image({"bbox": [10, 10, 20, 20]}, crowd), results, "bbox", [1])
    without = CocoScore(one_image({"bbox": [10, 10, 20, 20]}), results, "bbox", [1])
    assert with_crowd.metrics()["AP"] == pytest.approx(1)
    assert without.metrics()["AP"] == pytest.approx(0.5)
    assert with_crowd.quality()[1] == pytest.approx(1) and without.quality()[1] == pytest.approx(0.5)


def test_no_results_score_zero():
    score = CocoScore(one_image({"bbox": [10, 10, 20, 20]}), [], "bbox", [1])
    assert score.metrics()["AP"] == score.metrics()["AR100"] == score.quality()[1] == 0
    assert "APl" not in score.metrics()  # there is no large object


def test_quality_pairs_each_object_once():
    results = [box_result([10, 10, 20, 20], 0.9), box_result([10, 10, 20, 18], 0.8), box_result([50, 50, 9, 9], 0.2)]
    ground_truth = {"bbox": [10, 10, 20, 20]}, {"bbox": [10, 100, 20, 20]}
    assert CocoScore(one_image(*ground_truth), results, "bbox", [1]).quality(0.5)[1] == pytest.approx(1 / 3)
    assert CocoScore(one_image(*ground_truth), results, "bbox", [1]).quality(0.1)[1] == pytest.approx(1 / 4)


@pytest.fixture
def partial(tmp_path: Path) -> CocoDataset:
    """An image with a person with mask and keypoints, and a person of whom only the box is annotated."""
    box, square = [10, 10, 40, 40], [10, 10, 50, 10, 50, 50, 10, 50]
    known = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": box,
        "area": 1600,
        "iscrowd": 0,
        "segmentation": [square],
    }
    unknown = known | {"id": 2, "bbox": [100, 100, 60, 60], "segmentation": []}
    unknown.pop("area")
    nowhere = unknown | {"id": 3, "bbox": [500, 500, 60, 60]}
    posed = known | {"keypoints": [30, 30, 2] * 17, "num_keypoints": 17}
    images = [{"id": 1, "width": SIDE, "height": SIDE, "file_name": "1.jpg"}]
    names = [f"point {number}" for number in range(17)]
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for name, annotations in (("instances", [known, unknown, nowhere]), ("person_keypoints", [posed])):
        categories = [CATEGORIES[0] | ({"keypoints": names} if name == "person_keypoints" else {})]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "annotations" / f"{name}_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return CocoDataset(tmp_path, "val2017", choose_tasks(("segmentation", "keypoint")))


def filled(x: int, y: int, side: int) -> dict:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + side, x : x + side] = 1
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_objects_whose_mask_is_not_known_do_not_count(partial: CocoDataset):
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": filled(105, 105, 40)},
        {"image_id": 1, "category_id": 1, "score": 0.8, "segmentation": filled(10, 10, 40)},
    ]
    assert CocoScore(open_ground_truth(partial, "segm"), results, "segm", [1]).metrics()["AP"] == pytest.approx(1)


def test_people_whose_keypoints_are_not_known_do_not_count(partial: CocoDataset):
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [130, 130, 2] * 17},
        {"image_id": 1, "category_id": 1, "score": 0.8, "keypoints": [30, 30, 2] * 17},
    ]
    score = CocoScore(open_ground_truth(partial, "keypoints"), results, "keypoints", [1])
    assert score.metrics()["AP"] == pytest.approx(1)
    for images in (None, partial.root):  # whatever other tasks are evaluated, wherever the images are
        alone = CocoDataset(partial.root, "val2017", choose_tasks(("keypoint",)), images=images)
        assert len(open_ground_truth(alone, "keypoints")["annotations"]) == 2
