"""The evaluator proves itself: the ground truth, put into tokens and read back, has a perfect score."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import CocoDataset, ImageDataset
from pix2seq.dataset.geometry import Geometry
from pix2seq.errors import UserError
from pix2seq.evaluate import evaluation, upper_bound
from pix2seq.evaluate.evaluation import Evaluation, Sizes, ask, evaluate
from pix2seq.evaluate.ground_truth import ground_truth_predictor
from pix2seq.evaluate.predictions import ImagePredictions, results_of
from pix2seq.evaluate.report import tables
from pix2seq.infer.encoded import Encoded
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Instances, Result, xywh
from pix2seq.models.sampling import Sampling
from pix2seq.models.weights import Weights
from pix2seq.tasks import TASKS, choose_tasks
from tests.exact_model import with_exact_model

SIZES = Sizes(chunk=4)  # no tokens are counted
WITH_TOKENS = replace(SIZES, token_images=4)


@pytest.fixture
def upper_cfg(tiny_cfg: CFG) -> CFG:
    """Settings with larger crops: hidden joints may lie far outside the box of the visible parts."""
    return config.replace(tiny_cfg, crop_padding=1.0, num_samples=1, eval_batch_size=4, max_points=48)


@pytest.fixture
def predictor(make_predictor: Callable[..., Predictor]) -> Predictor:
    return make_predictor()


def evaluate_ground_truth(split: ImageDataset, cfg: CFG, names: Sequence[str] = tuple(TASKS)) -> Evaluation:
    return evaluate(ground_truth_predictor(split, TASKS, cfg), split, names, SIZES)


def test_the_ground_truth_scores_perfectly(upper_cfg: CFG, split: CocoDataset):
    metrics = evaluate_ground_truth(split, upper_cfg).metrics
    assert metrics["detection"]["AP"] >= 0.99
    assert metrics["detection"]["VOC AP50"] == pytest.approx(1)
    assert metrics["keypoint"]["AP, true boxes"] >= 0.99
    assert metrics["keypoint"]["AP, detected boxes"] >= 0.99
    assert metrics["segmentation"]["mean IoU, true boxes"] >= 0.95
    assert metrics["segmentation"]["AP, true boxes"] >= 0.95
    assert metrics["segmentation"]["AP, detected boxes"] >= 0.95
    assert metrics["captioning"]["BLEU-4"] == pytest.approx(1)


def test_only_surer_boxes_are_prompts(make_predictor: Callable[..., Predictor], split: CocoDataset):
    predictor = with_exact_model(make_predictor(prompt_threshold=0.0))
    examples = {index: split[index] for index in range(3)}
    scores = np.concatenate([each.found.scores for each in ask(predictor, ["detection"], examples)])
    middle = float(np.median(scores))
    evaluation = Evaluation(ask(predictor.with_settings(prompt_threshold=middle), list(TASKS), examples), {})
    for each in evaluation.predictions:
        sure = each.found[each.found.scores >= middle]
        assert np.array_equal(each.detected.instances.boxes, sure.boxes)
        assert len(each.detected.predictions["segmentation"]) == len(sure)
    count = int((scores >= middle).sum())
    assert 0 < count < len(scores)
    assert f"prompts: {count} of {len(scores)} detected boxes" in tables(evaluation, split.problems)


def test_fewer_polygon_points_lower_the_mask_scores(upper_cfg: CFG, split: CocoDataset):
    rough, fine = (
        evaluate_ground_truth(split, config.replace(upper_cfg, max_points=points), ["segmentation"])
        for points in (6, 48)
    )
    ious = [evaluation.metrics["segmentation"]["mean IoU, true boxes"] for evaluation in (rough, fine)]
    assert 0.3 < ious[0] < ious[1] - 0.05


def test_without_detection_only_ground_truth_boxes_are_scored(upper_cfg: CFG, split: CocoDataset):
    predictor = ground_truth_predictor(split, choose_tasks(["keypoint"]), upper_cfg)
    metrics = evaluate(predictor, split, ["keypoint"], SIZES).metrics["keypoint"]
    assert "AP, true boxes" in metrics
    assert not [name for name in metrics if "detected" in name]


def test_results_are_in_coco_s_format(upper_cfg: CFG, split: CocoDataset):
    scores = evaluate_ground_truth(split, upper_cfg).scores
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


def upper_bound_of(split: ImageDataset, cfg: CFG) -> dict[str, dict[str, float]]:
    return evaluate_ground_truth(split, cfg, ["segmentation", "keypoint"]).metrics


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "floats"])
def test_sizes_of_images_may_be_unknown_or_floats(upper_cfg: CFG, split: CocoDataset, scenes_root: Path, known):
    def change(content: dict) -> None:
        for image in content["images"]:
            sides = image.pop("width"), image.pop("height")
            image |= dict(zip(("width", "height"), map(float, sides), strict=True)) if known else {}

    other = changed(scenes_root, change)
    assert all(("width" in image) == known for image in other.images)
    assert upper_bound_of(other, upper_cfg) == upper_bound_of(split, upper_cfg)
    assert [(image["width"], image["height"]) for image in other.images] == [
        (image["width"], image["height"]) for image in split.images
    ]


def test_unknown_sizes_are_those_of_the_upright_image(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "1.jpg", exif=exif)
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}
    split = ImageDataset(tmp_path, {"instances": lambda: content})
    split.leave_out_unreadable()
    assert (split.images[0]["height"], split.images[0]["width"]) == split[0].image.shape[:2] == (40, 20)


def test_images_may_have_names_as_ids(upper_cfg: CFG, split: CocoDataset, scenes_root: Path):
    def change(content: dict) -> None:
        for image in content["images"]:
            image["id"] = f"im{image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"im{annotation['image_id']}"

    named = changed(scenes_root, change)
    found, expected = (evaluate_ground_truth(part, upper_cfg) for part in (named, split))
    assert found.metrics == expected.metrics
    for task, scores in found.scores.items():
        others = expected.scores[task]
        assert [entry["image_id"] for entry in scores.results] == [f"im{entry['image_id']}" for entry in others.results]
        assert scores.quality == {f"im{image_id}": value for image_id, value in others.quality.items()}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_that_cannot_be_read_are_left_out(
    make_predictor: Callable[..., Predictor], split: CocoDataset, damaged_root: Path, batch_size: int
):
    predictor = with_exact_model(make_predictor(eval_batch_size=batch_size))
    sizes = replace(SIZES, chunk=batch_size)
    damaged = CocoDataset(damaged_root, "val2017", TASKS)
    found = evaluate(predictor, damaged, list(TASKS), replace(sizes, token_images=4))
    assert len(found.predictions) == len(split) - 2
    assert any("is not there, left out" in line for line in damaged.problems.lines())
    assert any("cannot be read completely, left out" in line for line in damaged.problems.lines())
    left = {each.image_id for each in found.predictions}
    split.images = [image for image in split.images if image["id"] in left]
    assert found.metrics == evaluate(predictor, split, list(TASKS), sizes).metrics
    assert set(found.tokens) == set(TASKS)


def test_the_upper_bound_leaves_out_unreadable_images_too(upper_cfg: CFG, damaged_root: Path, capsys):
    upper_bound.main(config.replace(upper_cfg, data_root=str(damaged_root), task="detection"))
    printed = capsys.readouterr().out
    assert "AP" in printed and "cannot be read completely, left out" in printed and "is not there, left out" in printed


def test_without_a_readable_image_there_is_one_error(predictor: Predictor, damaged_root: Path):
    damaged = CocoDataset(damaged_root, "val2017", TASKS)
    damaged.images = damaged.images[1:2]
    with pytest.raises(UserError, match="no image that can be read"):
        evaluate(predictor, damaged, list(TASKS), WITH_TOKENS)


def test_unusable_annotations_are_reported_before_predicting(predictor: Predictor, split: CocoDataset, monkeypatch):
    split.objects, split.captions = {}, {}
    monkeypatch.setattr(evaluation, "ask", lambda *_: pytest.fail("the model was asked first"))
    with pytest.raises(UserError, match="no image with annotations"):
        evaluate(predictor, split, list(TASKS), WITH_TOKENS)


def test_tokens_are_counted_as_the_model_was_trained(tiny_model, tiny_cfg: CFG, split: CocoDataset):
    noisy = config.replace(tiny_cfg, max_objects=8, full_detection=True, noise_objects=True, task="detection")
    weights = Weights(tiny_model, noisy, split.class_names, {"words": ["<unk>"]})
    predictor = Predictor.from_weights(weights, TASKS, tiny_cfg.infer, torch.device("cpu"))
    tokens = evaluate(predictor, split, ["detection"], WITH_TOKENS).tokens
    assert "fake" in tokens["detection"]["accuracy"] and "end" not in tokens["detection"]["accuracy"]


def test_results_have_the_dataset_s_own_category_ids():
    found = Instances(np.array([[0, 0, 4, 4.0]] * 3), np.array([1, 2, 3]), np.array([0.9, 0.8, 0.7]))
    results = results_of([(7, found, [{"bbox": xywh(box)} for box in found.boxes])], {1: 13, 3: 90})
    assert [(entry["category_id"], entry["score"]) for entry in results] == [(13, 0.9), (90, 0.7)]
    assert all(entry["image_id"] == 7 and entry["bbox"] == [0, 0, 4, 4] for entry in results)


class EmptyGenerator:
    """A generator that ends every response at once."""

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        return Encoded(torch.zeros(len(geometries), 1, 1), geometries, np.arange(len(geometries)))

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        return [Response.certain(np.zeros(1, np.int64))] * (len(prompts) * num_samples)


def test_a_model_that_predicts_nothing_scores_zero(predictor: Predictor, split: CocoDataset):
    metrics = evaluate(predictor.with_generator(EmptyGenerator()), split, list(TASKS), SIZES).metrics
    assert metrics["detection"]["AP"] == metrics["segmentation"]["AP, true boxes"] == 0
    assert metrics["captioning"]["BLEU-1"] == 0


def same(one: Result | None, other: Result | None) -> bool:
    if one is None or other is None:
        return one is other
    boxes = np.array_equal(one.instances.boxes, other.instances.boxes)
    masks = ([mask.rle for mask in result.predictions.get("segmentation", ())] for result in (one, other))
    return boxes and next(masks) == next(masks)


def by_image(evaluation: Evaluation) -> dict[int | str, ImagePredictions]:
    return {each.image_id: each for each in evaluation.predictions}


def test_predictions_do_not_depend_on_the_batch(make_predictor: Callable[..., Predictor], split: CocoDataset):
    together, apart = (
        evaluate(with_exact_model(make_predictor(eval_batch_size=size)), split, list(TASKS), Sizes(chunk=size))
        for size in (4, 3)
    )
    for image_id, each in by_image(together).items():
        other = by_image(apart)[image_id]
        assert each.whole == other.whole and each.whole.keys() == {"captioning"}
        assert np.array_equal(each.found.boxes, other.found.boxes)
        assert same(each.detected, other.detected)
        assert same(each.prompted["segmentation"], other.prompted["segmentation"])
    assert together.metrics == apart.metrics


def test_sampled_masks_depend_on_the_seed(make_predictor: Callable[..., Predictor], split: CocoDataset):
    examples = {0: split[0], 1: split[1]}
    first, second = (
        [each.prompted["segmentation"] for each in ask(make_predictor(seed=seed), ["segmentation"], examples)]
        for seed in (0, 1)
    )
    assert not all(same(one, other) for one, other in zip(first, second, strict=True))


def test_the_first_images_alone(predictor: Predictor, split: CocoDataset):
    evaluation = evaluate(predictor, split, ["detection"], replace(SIZES, images=2))
    assert [each.image_id for each in evaluation.predictions] == [image["id"] for image in split.images[:2]]


def test_single_tokens_are_scored_too(predictor: Predictor, split: CocoDataset):
    tokens = evaluate(predictor, split, list(TASKS), WITH_TOKENS).tokens
    assert set(tokens) == set(TASKS)
    for figures in tokens.values():
        assert all(0 <= value <= 1 for value in figures["accuracy"].values())
        assert figures["perplexity"] > 1
        assert 0 <= figures["valid without grammar"] <= 1
        assert figures["accuracy by position"]
    assert set(tokens["detection"]["accuracy"]) == {"y", "x", "class", "end"}
    assert tokens["keypoint"]["valid without grammar"] == 0  # a random model obeys no rules unless held to them
