"""Examples on a canvas: the content of their sequences, and their lengths."""

import dataclasses

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.views import View, object_boxes, prompted_object
from pix2seq.task import Task
from pix2seq.tasks import DETECTION, TASKS
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace, Tokenizer, instance_prompt, max_length

CAPTIONS = ["a dog", "two dogs by a red tree", "a cat"]
LABELS = LabelSpace([1, 2], 17, WordVocabulary.build(CAPTIONS, 1))
LETTERBOX = Geometry.letterbox(100, 80, 64)


def example() -> Example:
    """Three objects in an image of 100 × 80 pixels: a mask of three parts, a mask and keypoints, neither."""
    triangle, square = np.array([[10, 10], [40, 10], [25, 40.0]]), np.array([[50, 50], [70, 50], [70, 70], [50, 70.0]])
    keypoints = np.zeros((3, 17, 3))
    keypoints[1, :5] = [60, 60, 2]
    boxes = np.array([[10, 10, 70, 70], [50, 50, 70, 70], [10, 10, 70, 70.0]])
    polygons = [[triangle, square, triangle + 20], [square], []]
    return Example(np.zeros((80, 100, 3), np.uint8), 1, boxes, np.array([1, 1, 2]), polygons, keypoints, CAPTIONS)


def responses(task: Task, tokenizer: Tokenizer, cfg: CFG) -> list[np.ndarray]:
    """The lengths of all sequences of the example."""
    view = View(example(), LETTERBOX)
    views = [view]
    if task.is_prompted:
        views = [dataclasses.replace(view, instance=k) for k in np.flatnonzero(task.samples.labeled(view.example))]
    rng = np.random.default_rng(0)
    sequences = [sequence for view in views for sequence in task.samples.sequences(view, tokenizer, cfg, rng)]
    assert all(len(sequence.input) <= max_length(tokenizer) for sequence in sequences)
    return [sequence.response(tokenizer.prompt_length) for sequence in sequences]


@pytest.fixture
def cfg(tiny_model_cfg: CFG) -> CFG:
    """One sequence of the objects, one of each caption."""
    return config.replace(tiny_model_cfg, orders_per_image=1, captions_per_image=3)


@pytest.mark.parametrize("separators", [1, 2])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_lengths_are_those_of_the_sequences_within_limits(cfg: CFG, task: Task, separators: int):
    cfg = config.replace(cfg, max_objects=50, max_points=500, max_words=50, separators=separators)
    tokenizer = task.tokenizer(cfg, LABELS)
    found = task.samples.lengths(example(), tokenizer)
    assert found and not any(cut for _, cut in found)
    assert sorted(tokens for tokens, _ in found) == sorted(map(len, responses(task, tokenizer, cfg)))


@pytest.mark.parametrize(
    "name, limit, expected",
    [
        ("detection", {"max_objects": 2}, [(16, True)]),
        ("detection", {"max_objects": 3}, [(16, False)]),
        ("segmentation", {"max_points": 9}, [(23, True), (9, False)]),
        ("segmentation", {"max_points": 10}, [(23, False), (9, False)]),
        ("segmentation", {"max_points": 10, "separators": 2}, [(25, False), (9, False)]),
        ("keypoint", {}, [(34, False)]),
        ("captioning", {"max_words": 5}, [(3, False), (7, True), (3, False)]),
        ("captioning", {"max_words": 6}, [(3, False), (7, False), (3, False)]),
    ],
)
def test_sequences_are_cut_where_their_lengths_exceed_the_limit(cfg: CFG, name: str, limit: dict, expected: list):
    cfg, task = config.replace(cfg, **limit), TASKS[name]
    tokenizer = task.tokenizer(cfg, LABELS)
    assert task.samples.lengths(example(), tokenizer) == expected
    whole = sorted(tokens for tokens, _ in expected)
    is_cut = sorted(map(len, responses(task, tokenizer, cfg))) != whole
    assert is_cut == any(cut for _, cut in expected)


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.is_prompted], ids=lambda task: task.name)
def test_a_prompt_belongs_to_its_object(cfg: CFG, task: Task):
    view, labeled = View(example(), LETTERBOX), task.samples.labeled(example())
    for instance in np.flatnonzero(labeled):
        view = dataclasses.replace(view, instance=instance)
        box = view.prompt_box(cfg.data, np.random.default_rng(0))
        prompt = task.tokenizer(cfg, LABELS).prompt(box, int(view.example.classes[instance]))
        assert prompted_object(view.example, LETTERBOX, prompt, labeled) == instance


def test_of_two_objects_with_one_box_the_prompt_s_class_decides_then_the_label():
    box = object_boxes(example(), LETTERBOX)[0]
    nothing = np.zeros(3, dtype=bool)
    assert [prompted_object(example(), LETTERBOX, instance_prompt(11, box, k), nothing) for k in (1, 2)] == [0, 2]
    twins = dataclasses.replace(example(), classes=np.array([1, 1, 1]))
    prompt = instance_prompt(11, box, 1)
    for labeled in (0, 2):
        assert prompted_object(twins, LETTERBOX, prompt, np.arange(3) == labeled) == labeled


def test_only_training_moves_the_prompted_box(cfg: CFG):
    cfg = config.replace(cfg, box_jitter=0.1)
    still, moved = (
        View(example(), LETTERBOX, augment=augment, instance=1).prompt_box(cfg.data, np.random.default_rng(0))
        for augment in (False, True)
    )
    assert np.array_equal(still, object_boxes(example(), LETTERBOX)[1])
    assert not np.array_equal(still, moved) and np.all((moved >= 0) & (moved <= 1))


def test_background_is_for_detection_alone():
    assert [task.samples.trains_on([], [], True) for task in TASKS.values()] == [True, False, False, False]
    assert not DETECTION.samples.trains_on([], ["a caption"], False)
