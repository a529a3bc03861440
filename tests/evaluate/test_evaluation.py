"""The evaluator proves itself: the truth, said in tokens and read back, has a perfect score."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import CocoDataset, ImageDataset
from pix2seq.errors import UserError
from pix2seq.evaluate import evaluation, upper_bound
from pix2seq.evaluate.evaluation import Evaluation, ask, evaluate
from pix2seq.evaluate.ground_truth import Oracle
from pix2seq.evaluate.predictions import Answers, results_of
from pix2seq.infer.predictor import Answer, Predictor
from pix2seq.infer.results import Instances, Result
from pix2seq.models.weights import Weights
from tests.exact_model import ExactModel

TASKS = ("detection", "segmentation", "keypoint", "captioning")


@pytest.fixture
def split(scenes_root: Path) -> CocoDataset:
    return CocoDataset(scenes_root, "val2017", TASKS)


@pytest.fixture
def oracle_cfg(tiny_cfg: CFG) -> CFG:
    """Hidden joints lie far outside the box of what is visible."""
    return config.replace(tiny_cfg, crop_padding=1.0, num_samples=1, eval_batch_size=4, max_points=48)


@pytest.fixture
def predictor(tiny_model, tiny_cfg: CFG, split: CocoDataset) -> Predictor:
    """A random model, which would chatter for long."""
    words = ["<unk>", *sorted({word for caption in split.all_captions() for word in caption.split()})]
    short = config.replace(tiny_cfg, max_objects=3, max_points=6, max_words=6)
    weights = Weights(tiny_model, short, split.class_names, {"words": words})
    return Predictor(weights, config.replace(tiny_cfg, num_samples=2, eval_batch_size=4), torch.device("cpu"))


@pytest.fixture
def exact_predictor(predictor: Predictor) -> Predictor:
    """One whose answers are the same in any batch and on any processor."""
    predictor.model = ExactModel(predictor.cfg.model.vocab_size)
    predictor.cfg = config.replace(predictor.cfg, coord_window=0)  # a mean would be rounded
    return predictor


def test_the_truth_scores_perfectly(oracle_cfg: CFG, split: CocoDataset):
    metrics = evaluate(Oracle(split, oracle_cfg), split, TASKS, tokens=False).metrics
    assert metrics["detection"]["AP"] >= 0.99
    assert metrics["detection"]["VOC AP50"] == pytest.approx(1)
    assert metrics["keypoint"]["AP, true boxes"] >= 0.99
    assert metrics["keypoint"]["AP, detected boxes"] >= 0.99
    assert metrics["segmentation"]["mean IoU, true boxes"] >= 0.95
    assert metrics["segmentation"]["AP, true boxes"] >= 0.95
    assert metrics["segmentation"]["AP, detected boxes"] >= 0.95
    assert metrics["captioning"]["BLEU-4"] == pytest.approx(1)


def test_fewer_points_cost_some_of_the_mask(oracle_cfg: CFG, split: CocoDataset):
    rough, fine = (
        evaluate(Oracle(split, config.replace(oracle_cfg, max_points=points)), split, ("segmentation",), tokens=False)
        for points in (6, 48)
    )
    ious = [evaluation.metrics["segmentation"]["mean IoU, true boxes"] for evaluation in (rough, fine)]
    assert 0.3 < ious[0] < ious[1] - 0.05


def test_without_detection_only_true_boxes_are_scored(oracle_cfg: CFG, split: CocoDataset):
    oracle = Oracle(split, config.replace(oracle_cfg, task="keypoint"))
    metrics = evaluate(oracle, split, ("keypoint",), tokens=False).metrics["keypoint"]
    assert "AP, true boxes" in metrics
    assert not [name for name in metrics if "detected" in name]


def test_results_are_in_coco_s_format(oracle_cfg: CFG, split: CocoDataset):
    scores = evaluate(Oracle(split, oracle_cfg), split, TASKS, tokens=False).scores
    expected = {
        "detection": {"image_id", "category_id", "bbox", "score"},
        "segmentation": {"image_id", "category_id", "score", "segmentation"},
        "keypoint": {"image_id", "category_id", "score", "keypoints"},
        "captioning": {"image_id", "caption"},
    }
    for task, keys in expected.items():
        assert scores[task].results and all(entry.keys() == keys for entry in scores[task].results), task


def changed(scenes_root: Path, change: Callable[[dict], None]) -> ImageDataset:
    """The validation split with the content of each of its files changed in place."""

    def read(name: str) -> dict:
        content = json.loads((scenes_root / "annotations" / f"{name}_val2017.json").read_text(encoding="utf-8"))
        change(content)
        return content

    names = ("instances", "person_keypoints", "captions")
    return ImageDataset(scenes_root / "val2017", {name: lambda name=name: read(name) for name in names})


def scores_of_truth(split: ImageDataset, cfg: CFG) -> dict[str, dict[str, float]]:
    return evaluate(Oracle(split, cfg), split, ("segmentation", "keypoint"), tokens=False).metrics


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "floats"])
def test_sizes_of_images_may_be_unknown_or_floats(oracle_cfg: CFG, split: CocoDataset, scenes_root: Path, known):
    def change(content: dict) -> None:
        for image in content["images"]:
            sides = image.pop("width"), image.pop("height")
            image |= dict(zip(("width", "height"), map(float, sides), strict=True)) if known else {}

    other = changed(scenes_root, change)
    assert all(("width" in image) == known for image in other.images)
    assert scores_of_truth(other, oracle_cfg) == scores_of_truth(split, oracle_cfg)
    assert [(image["width"], image["height"]) for image in other.images] == [
        (image["width"], image["height"]) for image in split.images
    ]


def test_unknown_sizes_are_those_of_the_upright_image(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "1.jpg", exif=exif)
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}
    split = ImageDataset(tmp_path, {"instances": lambda: content})
    split.read_unknown_sizes()
    assert (split.images[0]["height"], split.images[0]["width"]) == split[0].image.shape[:2] == (40, 20)


def test_images_may_have_names_as_ids(oracle_cfg: CFG, split: CocoDataset, scenes_root: Path):
    def change(content: dict) -> None:
        for image in content["images"]:
            image["id"] = f"im{image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"im{annotation['image_id']}"

    named = changed(scenes_root, change)
    found, expected = (evaluate(Oracle(part, oracle_cfg), part, TASKS, tokens=False) for part in (named, split))
    assert found.metrics == expected.metrics
    for task, scores in found.scores.items():
        others = expected.scores[task]
        assert [entry["image_id"] for entry in scores.results] == [f"im{entry['image_id']}" for entry in others.results]
        assert scores.quality == {f"im{image_id}": value for image_id, value in others.quality.items()}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_that_cannot_be_read_are_left_out(
    exact_predictor: Predictor, split: CocoDataset, damaged_root: Path, batch_size: int
):
    predictor = exact_predictor
    predictor.cfg = config.replace(predictor.cfg, eval_batch_size=batch_size)
    damaged = CocoDataset(damaged_root, "val2017", TASKS)
    found = evaluate(predictor, damaged, TASKS)
    assert len(found.answers) == len(split) - 2
    assert any("is not there, left out" in line for line in damaged.problems.lines())
    assert any("cannot be read whole, left out" in line for line in damaged.problems.lines())
    left = {answer.image_id for answer in found.answers}
    split.images = [image for image in split.images if image["id"] in left]
    assert found.metrics == evaluate(predictor, split, TASKS, tokens=False).metrics
    assert set(found.tokens) == set(TASKS)


def test_the_ceiling_leaves_them_out_too(oracle_cfg: CFG, damaged_root: Path, capsys):
    upper_bound.main(config.replace(oracle_cfg, data_root=str(damaged_root), task="detection"))
    printed = capsys.readouterr().out
    assert "AP" in printed and "cannot be read whole, left out" in printed and "is not there, left out" in printed


def test_no_readable_image_is_one_line(predictor: Predictor, damaged_root: Path):
    damaged = CocoDataset(damaged_root, "val2017", TASKS)
    damaged.images = damaged.images[1:2]
    with pytest.raises(UserError, match="no image that can be read"):
        evaluate(predictor, damaged, TASKS)


def test_what_cannot_be_counted_is_told_before_asking(predictor: Predictor, split: CocoDataset, monkeypatch):
    split.objects, split.captions = {}, {}
    monkeypatch.setattr(evaluation, "ask", lambda *_: pytest.fail("the model was asked first"))
    with pytest.raises(UserError, match="no image with annotations"):
        evaluate(predictor, split, TASKS)


def test_tokens_are_counted_as_the_model_was_taught(tiny_model, tiny_cfg: CFG, split: CocoDataset):
    noisy = config.replace(tiny_cfg, max_objects=8, full_detection=True, noise_objects=True, task="detection")
    weights = Weights(tiny_model, noisy, split.class_names, {"words": ["<unk>"]})
    cfg = config.replace(tiny_cfg, task="detection", eval_batch_size=4)
    tokens = evaluate(Predictor(weights, cfg, torch.device("cpu")), split, ("detection",)).tokens
    assert "fake" in tokens["detection"]["accuracy"] and "end" not in tokens["detection"]["accuracy"]


def test_results_have_the_dataset_s_own_category_ids():
    found = Result(Instances(np.array([[0, 0, 4, 4.0]] * 3), np.array([1, 2, 3]), np.array([0.9, 0.8, 0.7])))
    results = results_of([(7, found)], {1: 13, 3: 90})
    assert [(entry["category_id"], entry["score"]) for entry in results] == [(13, 0.9), (90, 0.7)]


def test_a_silent_model_scores_zero(predictor: Predictor, split: CocoDataset, monkeypatch: pytest.MonkeyPatch):
    silent = Answer(np.zeros(1, np.int64), np.ones(1))

    def say_nothing(self, task, encoded, prompts, sampling=None, num_samples=1) -> list[Answer]:
        return [silent] * (len(prompts) * num_samples)

    monkeypatch.setattr(Predictor, "_answers", say_nothing)
    metrics = evaluate(predictor, split, TASKS, tokens=False).metrics
    assert metrics["detection"]["AP"] == metrics["segmentation"]["AP, true boxes"] == 0
    assert metrics["captioning"]["BLEU-1"] == 0


def same(one: Result | None, other: Result | None) -> bool:
    if one is None or other is None:
        return one is other
    boxes = np.array_equal(one.instances.boxes, other.instances.boxes)
    return boxes and [mask.rle for mask in one.masks or ()] == [mask.rle for mask in other.masks or ()]


def by_image(evaluation: Evaluation) -> dict[int, Answers]:
    return {answer.image_id: answer for answer in evaluation.answers}


def test_answers_do_not_depend_on_the_batch(exact_predictor: Predictor, split: CocoDataset):
    predictor = exact_predictor
    together = evaluate(predictor, split, TASKS, tokens=False)
    predictor.cfg = config.replace(predictor.cfg, eval_batch_size=3)
    apart = evaluate(predictor, split, TASKS, tokens=False)
    for image_id, answer in by_image(together).items():
        other = by_image(apart)[image_id]
        assert answer.caption == other.caption
        assert same(answer.detected, other.detected) and same(answer.segmented, other.segmented)
    assert together.metrics == apart.metrics


def test_sampled_masks_depend_on_the_seed(predictor: Predictor, split: CocoDataset):
    examples = [split[0], split[1]]
    first = ask(predictor, ("segmentation",), [0, 1], examples)
    predictor.cfg = config.replace(predictor.cfg, seed=1)
    second = ask(predictor, ("segmentation",), [0, 1], examples)
    assert not all(same(one.segmented, other.segmented) for one, other in zip(first, second, strict=True))


def test_the_first_images_alone(predictor: Predictor, split: CocoDataset):
    predictor.cfg = config.replace(predictor.cfg, max_images=2)
    evaluation = evaluate(predictor, split, ("detection",), tokens=False)
    assert [answer.image_id for answer in evaluation.answers] == [image["id"] for image in split.images[:2]]


def test_single_tokens_are_scored_too(predictor: Predictor, split: CocoDataset):
    tokens = evaluate(predictor, split, TASKS).tokens
    assert set(tokens) == set(TASKS)
    for told in tokens.values():
        assert all(0 <= value <= 1 for value in told["accuracy"].values())
        assert told["perplexity"] > 1
        assert 0 <= told["valid without grammar"] <= 1
        assert told["accuracy by position"]
    assert set(tokens["detection"]["accuracy"]) == {"y", "x", "class", "end"}
    assert tokens["keypoint"]["valid without grammar"] == 0  # a random model obeys no rules unless held to them
