"""On real photographs the ground truth is preserved by tokens and Geometry."""

from pathlib import Path

import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import CocoDataset, ImageDataset
from pix2seq.evaluate.evaluation import Sizes, evaluate
from pix2seq.evaluate.ground_truth import ground_truth_predictor
from pix2seq.tasks import choose_tasks

TASKS = choose_tasks(("detection", "segmentation", "keypoint"))
PUBLISHED = dict(image_size=640, max_points=128, max_objects=100, max_tokens=512, crop_padding=0.5, num_samples=1)


@pytest.fixture(scope="module")
def photographs(coco_people: Path) -> ImageDataset:
    """The first images of the validation split."""
    split = CocoDataset(coco_people, "val2017", TASKS)
    split.images = split.images[:30]
    return split


def test_the_ground_truth_of_photographs_scores_as_high_as_tokens_allow(photographs: ImageDataset):
    cfg = config.replace(CFG(), **PUBLISHED, workers=0, device="cpu")
    predictor = ground_truth_predictor(photographs, TASKS, cfg)
    metrics = evaluate(predictor, photographs, list(TASKS), Sizes(cfg.infer.eval_batch_size)).metrics
    assert metrics["detection"]["AP"] >= 0.985  # of the whole split 0.992; objects of a few pixels are coarse in bins
    assert metrics["detection"]["AP50"] == metrics["detection"]["VOC AP50"] == pytest.approx(1)
    assert metrics["keypoint"]["AP, true boxes"] >= 0.99
    assert metrics["keypoint"]["AP, detected boxes"] >= 0.99
    assert metrics["segmentation"]["AP, true boxes"] >= 0.99
    assert metrics["segmentation"]["mean IoU, true boxes"] >= 0.99
