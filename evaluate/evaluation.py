"""Ask a model about all pictures of a split and score its answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from dataset.coco import FILES, CocoDataset, Example, annotation_path
from evaluate.captioning import CaptionScore
from evaluate.coco_metrics import open_truth
from evaluate.detection import DetectionScore
from evaluate.keypoint import KeypointScore
from evaluate.segmentation import SegmentationScore
from infer.predictor import Predictor
from infer.results import Instances


class Evaluation:
    """The scores of `tasks`, collected from chunks of pictures."""

    def __init__(self, predictor: Predictor, tasks: Sequence[str]) -> None:
        self.predictor, self.tasks = predictor, tasks
        self.detects = "detection" in predictor.trained_tasks and set(tasks) != {"captioning"}
        scores = {
            "detection": DetectionScore(),
            "segmentation": SegmentationScore(self.detects),
            "keypoint": KeypointScore(self.detects),
            "captioning": CaptionScore(),
        }
        self.scores = {task: scores[task] for task in tasks}
        self.instance_scores = [self.scores[task] for task in ("segmentation", "keypoint") if task in tasks]

    def add(self, examples: Sequence[Example]) -> None:
        """Ask about some pictures; each is encoded once, and so is each true and each detected instance."""
        images = [example.image for example in examples]
        if self.detects or "captioning" in self.tasks:
            whole = self.predictor.encode_pictures(images)
        if "captioning" in self.tasks:
            for example, caption in zip(examples, self.predictor.caption(images, whole), strict=True):
                self.scores["captioning"].add(example, caption)
        if self.instance_scores:
            self._add_true_boxes(examples, images)
        if self.detects:
            self._add_detected(examples, images, self.predictor.detect(images, whole))

    def _add_true_boxes(self, examples: Sequence[Example], images: list[np.ndarray]) -> None:
        true = [Instances(example.boxes, example.classes, np.ones(len(example.classes))) for example in examples]
        results = self.predictor.describe_instances(images, self.tasks, true)
        for example, result in zip(examples, results, strict=True):
            for score in self.instance_scores:
                score.add_true_boxes(example, result)

    def _add_detected(self, examples: Sequence[Example], images: list[np.ndarray], detected: list[Instances]) -> None:
        results = self.predictor.describe_instances(images, self.tasks, detected)
        for example, result in zip(examples, results, strict=True):
            if "detection" in self.tasks:
                self.scores["detection"].add(example, result.instances)
            for score in self.instance_scores:
                score.add_detected_boxes(example, result)


def evaluate(predictor: Predictor, split: CocoDataset, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metrics of each task, 0 to 1, on all pictures of `split`."""
    evaluation = Evaluation(predictor, tasks)
    size = predictor.cfg.infer.eval_batch_size
    with tqdm(total=len(split), desc="evaluating", unit=" pictures") as bar:
        for start in range(0, len(split), size):
            examples = [split[index] for index in range(start, min(start + size, len(split)))]
            evaluation.add(examples)
            bar.update(len(examples))
    root, name = split.folder.parent, split.folder.name
    image_ids = [image["id"] for image in split.images]
    metrics = {}
    for task, score in evaluation.scores.items():
        if task == "captioning":
            metrics[task] = score.metrics()
        else:
            metrics[task] = score.metrics(open_truth(annotation_path(root, FILES[task], name)), image_ids)
    return metrics
