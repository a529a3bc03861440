"""Datasets whose entries are valid one by one, and mean something else as a whole."""

from pathlib import Path

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.plausibility import (
    doubt_about_mirroring,
    doubt_about_words,
    doubts_about_boxes,
    only_unusable,
    require_learnable,
    require_plausible,
)
from pix2seq.errors import UserError
from pix2seq.tasks import choose_tasks
from pix2seq.tokenizers.captioning import WordVocabulary

DETECTION = choose_tasks(["detection"])
POSES = choose_tasks(["detection", "keypoint"])


def dataset(boxes: list, category: dict | None = None, **values) -> ImageDataset:
    """One image with an object for each of `boxes`."""
    objects = [{"id": k, "image_id": 1, "category_id": 1, "bbox": box} | values for k, box in enumerate(boxes)]
    images = [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}]
    categories = [{"id": 1, "name": "cup"} | (category or {})]
    content = {"images": images, "annotations": objects, "categories": categories}
    return ImageDataset(Path("folder"), {"a": lambda: content})


def test_boxes_in_fractions_are_refused():
    with pytest.raises(UserError, match=r"all 2 boxes .* fractions"):
        require_plausible(dataset([[0.5, 0.5, 0.2, 0.1], [0.1, 0.9, 1, 1]]), DETECTION)
    require_plausible(dataset([[0.5, 0.5, 0.2, 0.1], [0.5, 0.5, 9, 9]]), DETECTION)
    require_plausible(dataset([[0.5, 0.5, 0.2, 0.1]]), choose_tasks(["captioning"]))


def test_boxes_of_corners_are_refused():
    first = np.random.default_rng(0).uniform(30, 60, (12, 2))
    corners = np.concatenate([first, first + 15], axis=1)
    with pytest.raises(UserError, match="x1, y1, x2, y2"):
        require_plausible(dataset(corners.tolist()), DETECTION)
    require_plausible(dataset([[x, y, 15, 15] for x, y in first.tolist()]), DETECTION)


def test_boxes_beyond_their_images_are_doubtful():
    boxes = [[60, 40 + k, 50, 60] for k in range(5)] + [[10, 60, 5, 40]]
    assert "5 of 6 boxes reach beyond" in doubts_about_boxes(dataset([*boxes[:5], [9, 9, 5, 5]]), DETECTION)[0]
    assert not doubts_about_boxes(dataset(boxes[:2] * 3), DETECTION)  # two different ones may do so by chance
    assert not doubts_about_boxes(dataset(boxes), choose_tasks(["captioning"]))


@pytest.mark.parametrize(
    "task, values",
    [
        ("segmentation", {"segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 0.7]]}),
        ("keypoint", {"keypoints": [0.1, 0.2, 2, 0.4, 0.9, 1]}),
    ],
)
def test_shapes_in_fractions_are_refused_where_they_are_used(task: str, values: dict):
    split = dataset([[1, 2, 30, 40]] * 2, {"keypoints": ["tip", "end"]}, **values)
    with pytest.raises(UserError, match=r"all 2 (polygons|keypoints) have no number above 1"):
        require_plausible(split, choose_tasks([task]))
    require_plausible(split, DETECTION)


def test_a_task_with_nothing_to_learn_is_refused():
    split = dataset([[1, 2, 30, 40]])
    require_learnable(split, DETECTION)
    with pytest.raises(UserError, match="nothing to learn for segmentation"):
        require_learnable(split, choose_tasks(["detection", "segmentation"]))


def test_crowds_alone_are_named():
    assert "all 2 objects are crowds" in only_unusable(dataset([[1, 2, 30, 40]] * 2, iscrowd=1))
    assert only_unusable(dataset([[1, 2, 30, 40]])) == ""


@pytest.mark.parametrize(
    "category, flip, is_doubtful",
    [
        ({"keypoints": ["a", "b"]}, 0.5, True),
        ({"keypoints": ["a", "b"]}, 0, False),
        ({"keypoints": ["a", "b"], "flip_pairs": []}, 0.5, False),
        ({"keypoints": ["left_a", "right_a"]}, 0.5, False),
        ({"keypoints": ["tip"]}, 0.5, False),
    ],
)
def test_keypoints_that_never_change_sides_are_doubtful(category: dict, flip: float, is_doubtful: bool):
    cfg = config.replace(CFG(), flip=flip, crop_flip=flip)
    split = dataset([[1, 2, 30, 40]], category)
    assert ("--flip 0" in doubt_about_mirroring(split, POSES, cfg)) == is_doubtful
    assert doubt_about_mirroring(split, DETECTION, cfg) == ""


def test_unknown_words_are_doubtful_and_nothing_else_is_refused():
    captions = ["a dog runs", "a cat sleeps"]
    assert doubt_about_words(WordVocabulary.build(captions, 1), captions) == ""
    assert "67 %" in doubt_about_words(WordVocabulary.build(captions, 2), captions)
    with pytest.raises(UserError, match="--text-model"):
        doubt_about_words(WordVocabulary.build(captions, 3), captions)
