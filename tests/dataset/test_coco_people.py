"""Real photographs in COCO 2017's layout, as published: all of them are read, with the counts of their README."""

from pathlib import Path

import numpy as np
import pytest

from pix2seq.dataset.coco import CocoDataset
from pix2seq.tasks import KEYPOINT, SEGMENTATION, TASKS


@pytest.fixture(scope="module")
def photographs(coco_people: Path) -> CocoDataset:
    return CocoDataset(coco_people, "val2017", TASKS)


def test_everything_is_read_and_nothing_is_wrong(photographs: CocoDataset):
    targets = [photographs.target(index) for index in range(len(photographs))]
    assert (len(targets), len(photographs.class_names)) == (300, 80)
    assert sum(len(target.classes) for target in targets) == 2640
    assert sum(SEGMENTATION.samples.labeled(target).sum() for target in targets) == 333
    assert sum(KEYPOINT.samples.labeled(target).sum() for target in targets) == 720
    assert sum(len(target.captions) for target in targets) == 1501
    assert not photographs.problems.counts


def test_category_ids_are_coco_s_own(photographs: CocoDataset):
    assert (photographs.class_names[1], photographs.class_names[90]) == ("person", "toothbrush")
    assert all(number == class_id for class_id, number in photographs.category_ids.items())


@pytest.mark.parametrize("index", [0, 99, 299])
def test_a_photograph_and_its_half_agree(photographs: CocoDataset, index: int):
    whole, half = photographs[index], photographs.load(index, shrink=2)
    height, width = whole.image.shape[:2]
    assert half.image.shape == (-(-height // 2), -(-width // 2), 3)
    means = whole.image[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(half.image[: height // 2, : width // 2] - means).mean() < 4
    assert np.array_equal(half.boxes * 2, whole.boxes)
    assert np.all(whole.boxes[:, 2:] <= np.array([width, height]) + 1e-6)
