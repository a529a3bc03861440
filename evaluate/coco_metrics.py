"""COCO's average precision and recall, computed by faster-coco-eval, which gives pycocotools' numbers in C++."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import numpy as np

from pix2seq.dataset.annotation_files import read_annotations
from pix2seq.dataset.annotations import ObjectReader, Problems
from pix2seq.dataset.coco import CocoDataset, ImageDataset, annotation_path
from pix2seq.evaluate.predictions import Boxes, Scores

Kind = Literal["bbox", "segm", "keypoints"]
SHAPES = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # the key of results of each kind
# In the order of the evaluator's `stats`; s, m, l are objects of areas below 32², below 96² and above, in pixels.
BOX_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = {
    "bbox": BOX_METRICS,
    "segm": BOX_METRICS,
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
HIT = 0.5  # share of a detection inside an ignored region from which on the detection is ignored


class CocoScore:
    """Scores of `results` against `ground_truth`, both in COCO's format, on the images `image_ids`.

    `sigmas` are the tolerances of the keypoints in OKS; empty: COCO's own for its 17 points.
    """

    def __init__(
        self,
        ground_truth: dict,
        results: list[dict],
        kind: Kind,
        image_ids: list[int | str],
        sigmas: tuple[float, ...] = (),
    ) -> None:
        from faster_coco_eval import COCO, COCOeval_faster  # slow to import

        self.kind, self.image_ids = kind, {n: image["id"] for n, image in enumerate(ground_truth["images"], 1)}
        numbers = {image_id: n for n, image_id in self.image_ids.items()}  # the evaluator accepts no other ids
        images = [image | {"id": numbers[image["id"]]} for image in ground_truth["images"]]
        objects, predicted = (
            [entry | {"image_id": numbers[entry["image_id"]]} for entry in entries if entry["image_id"] in numbers]
            for entries in (ground_truth["annotations"], of_kind(results, kind))
        )
        self.ground_truth = COCO(ground_truth | {"images": images, "annotations": objects})
        self.results = self.ground_truth.loadRes(predicted)
        self.evaluation = COCOeval_faster(self.ground_truth, self.results, kind, kpt_oks_sigmas=sigmas or None)
        self.evaluation.params.imgIds = [numbers[image_id] for image_id in image_ids]
        self.evaluation.run()

    def metrics(self) -> dict[str, float]:
        """AP over IoU (or OKS) 0.50 … 0.95, at 0.50 and 0.75, by size, and recall, each 0 to 1.

        A metric that is not defined for these images (APs without small objects) is left out.
        """
        stats = zip(METRICS[self.kind], self.evaluation.stats, strict=False)
        return {name: float(value) for name, value in stats if value >= 0}

    def per_class(self) -> dict[str, dict[str, float]]:
        """For each category that occurs, by name: the number of its objects, AP, AP50 and recall AR."""
        precision = self.evaluation.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, categories)
        recall = self.evaluation.eval["recall"][:, :, 0, -1]  # (thresholds, categories)
        table = {}
        for column, category in enumerate(self.evaluation.params.catIds):
            if (precision[:, :, column] >= 0).all():
                table[self.ground_truth.cats[category]["name"]] = {
                    "objects": sum(not entry["ignore"] for entry in self._objects_of(category)),
                    "AP": float(precision[:, :, column].mean()),
                    "AP50": float(precision[0, :, column].mean()),
                    "AR": float(recall[:, column].mean()),
                }
        return table

    def _objects_of(self, category: int) -> list[dict]:
        images = set(self.evaluation.params.imgIds)
        return [a for a in self.ground_truth.anns.values() if a["category_id"] == category and a["image_id"] in images]

    def quality(self, threshold: float = 0.0) -> dict[int | str, float]:
        """The quality of each image's results, 0 to 1, counting results with a score of at least `threshold`.

        Each result is paired with the best object that no result of a higher score is paired with. The sum of the
        pairs' IoU (or OKS) is divided by the number of objects plus the number of results without a pair.
        """
        explained, expected = defaultdict(float), defaultdict(int)
        for (number, category), ious in self.evaluation.ious.items():
            objects = [a for a in self.ground_truth.imgToAnns[number] if a["category_id"] == category]
            results = [r for r in self.results.imgToAnns[number] if r["category_id"] == category]
            count = min(sum(r["score"] >= threshold for r in results), self.evaluation.params.maxDets[-1])
            counted = np.array([not a["ignore"] for a in objects], dtype=bool)
            overlap = np.reshape(ious, (-1, len(objects)))[:count] if len(ious) else np.zeros((count, len(objects)))
            pairs = _pair(overlap[:, counted])
            in_crowd = (overlap[:, ~counted] >= HIT).any(axis=1) if count else np.zeros(0, dtype=bool)
            unpaired = sum(pair is None and not ignored for pair, ignored in zip(pairs, in_crowd, strict=True))
            explained[number] += sum(pair for pair in pairs if pair is not None)
            expected[number] += int(counted.sum()) + unpaired
        return {self.image_ids[number]: explained[number] / total for number, total in expected.items() if total}


def of_kind(results: list[dict], kind: Kind) -> list[dict]:
    """The `results` with only the keys of their kind: given a `bbox` too, the evaluator would use its area."""
    return [{name: entry[name] for name in ("image_id", "category_id", SHAPES[kind], "score")} for entry in results]


def score_prompted(
    split: ImageDataset, kind: Kind, image_ids: list[int | str], results: Mapping[Boxes, list[dict]]
) -> Scores:
    """Scores of COCO `results` that were prompted with ground truth boxes and, if there are any, with detected boxes.

    `quality` is that of ground truth boxes; of `results`, the last entry is kept.
    """
    metrics, per_class, scores = {}, {}, {}
    ground_truth = open_ground_truth(split, kind)
    for boxes, entries in results.items():
        scores[boxes] = CocoScore(ground_truth, entries, kind, image_ids, split.skeleton.sigmas)
        metrics |= {f"{name}, {boxes}": value for name, value in scores[boxes].metrics().items()}
        for name, figures in scores[boxes].per_class().items():
            row = per_class.setdefault(name, {"objects": figures.pop("objects")})
            row |= {f"{title}, {boxes}": value for title, value in figures.items()}
    return Scores(metrics, entries, scores["true boxes"].quality(), per_class)


def _pair(overlap: np.ndarray) -> list[float | None]:
    """For each result (row, by falling score) its overlap with the best object (column) that is still free, if any."""
    free, pairs = np.ones(overlap.shape[1], dtype=bool), []
    for row in overlap:
        best = int(np.where(free, row, -1).argmax()) if free.any() else -1
        if best < 0 or row[best] <= 0:
            pairs.append(None)
        else:
            free[best] = False
            pairs.append(float(row[best]))
    return pairs


def open_ground_truth(split: ImageDataset, kind: Kind) -> dict:
    """The annotated boxes, masks or keypoints of `split` in COCO's format, with crowds and other ignored objects.

    For masks, objects whose mask is not known are ignored, with predictions inside their boxes. For keypoints, people
    without a labeled keypoint are ignored: COCO lists them all, and those that a keypoint file lacks are read from the
    file of instances.
    """
    posed = kind == "keypoints"
    content = split.ground_truth("person_keypoints" if posed else "instances", posed)
    if kind == "segm":
        objects = content["annotations"]
        content["annotations"] = [entry if entry["segmentation"] else _unknown(entry) for entry in objects]
    if posed:
        content["annotations"] = content["annotations"] + _people_without_points(split, content)
    return content


def _unknown(entry: dict) -> dict:
    x, y, width, height = entry["bbox"]
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return entry | {"segmentation": [corners], "iscrowd": 1}


def _people_without_points(split: ImageDataset, content: dict) -> list[dict]:
    """Valid objects of the categories with keypoints that only the file of instances lists."""
    if not isinstance(split, CocoDataset):
        return []
    instances, posed = (annotation_path(split.root, name, split.split) for name in ("instances", "person_keypoints"))
    if not (instances.is_file() and posed.is_file()):
        return []
    listed = {entry.get("id") for entry in read_annotations(posed)["annotations"]}
    others = [entry for entry in read_annotations(instances)["annotations"] if entry.get("id") not in listed]
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    class_ids = {number: class_id for class_id, number in split.category_ids.items()}
    reader = ObjectReader(images, names, class_ids, len(split.skeleton), Problems())
    people = filter(None, map(reader.read, others))
    unlabeled = {"num_keypoints": 0, "keypoints": [0] * 3 * len(split.skeleton)}
    first = len(content["annotations"]) + 1
    return [entry | unlabeled | {"id": first + number} for number, entry in enumerate(people)]
