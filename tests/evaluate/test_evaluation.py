"""The evaluator proves itself: the truth, said in tokens and read back, has a perfect score."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import config
from config import CFG, command_line
from dataset.coco import CocoDataset, Example
from dataset.detection import detection_sequence
from dataset.keypoint import keypoint_sequence
from dataset.segmentation import segmentation_sequence
from evaluate import evaluate_multi_task
from evaluate.captioning import bleu
from evaluate.evaluation import evaluate
from infer.predictor import Answer, Encoded, Predictor
from infer.results import Prompt
from models.pix2seq import Pix2Seq
from models.weights import Weights, save_weights
from tokenizers.vocabulary import TokenSequence

TASKS = ("detection", "segmentation", "keypoint", "captioning")


class Oracle(Predictor):
    """Answers with the truth, in tokens; it knows a picture by its pixels."""

    def __init__(self, weights: Weights, cfg: CFG, examples: Sequence[Example]) -> None:
        super().__init__(weights, cfg, torch.device("cpu"))
        self.rng = np.random.default_rng(0)
        self.known = {example.image.tobytes(): example for example in examples}
        self.canvases = []  # (geometry, example, index of the object) of every canvas

    def encode_pictures(self, images: Sequence[np.ndarray]) -> Encoded:
        encoded = super().encode_pictures(images)
        examples = [self.known[image.tobytes()] for image in images]
        self.canvases += zip(encoded.geometries, examples, [0] * len(images), strict=True)
        return encoded

    def encode_crops(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> Encoded:
        encoded = super().encode_crops(images, prompts)
        examples = [self.known[images[prompt.image_number].tobytes()] for prompt in prompts]
        self.canvases += zip(encoded.geometries, examples, map(nearest, examples, prompts), strict=True)
        return encoded

    def _answers(self, task, encoded, prompts, sampling=None, num_samples=1) -> list[Answer]:
        objects = {id(geometry): (example, index) for geometry, example, index in self.canvases}
        asked = [objects[id(geometry)] for geometry in encoded.geometries]
        pairs = zip(asked, encoded.geometries, prompts, strict=True)
        sequences = [self._truth(task, *pair, geometry, prompt) for pair, geometry, prompt in pairs]
        answers = [Answer(sequence.target[-length:], np.ones(length)) for sequence, length in map(response, sequences)]
        return [answer for answer in answers for _ in range(num_samples)]

    def _truth(self, task, example, index, geometry, prompt) -> TokenSequence:
        tokenizer, model = self.tokenizers[task], self.cfg.model
        box = (prompt[1:5] - 1000) / 999
        if task == "detection":
            return detection_sequence(example, geometry, tokenizer, model.max_objects, self.rng)
        if task == "segmentation":
            return segmentation_sequence(example, index, box, geometry, tokenizer, model.max_points, self.rng)
        if task == "keypoint":
            return keypoint_sequence(example, index, box, geometry, False, tokenizer)
        return tokenizer.encode(example.captions[0])


def nearest(example: Example, prompt: Prompt) -> int:
    """The object that a prompt means."""
    distance = np.abs(example.boxes - prompt.box).sum(axis=1) + 1e3 * (example.classes != prompt.class_id)
    return int(distance.argmin())


def response(sequence: TokenSequence) -> tuple[TokenSequence, int]:
    """A sequence and the length of its response."""
    return sequence, int((sequence.weight > 0).sum())


@pytest.fixture
def weights(tiny_model: Pix2Seq, tiny_cfg: CFG, scenes_root: Path) -> Weights:
    split = CocoDataset(scenes_root, "val2017", TASKS)
    words = ["<unk>", *sorted({word for caption in split.all_captions() for word in caption.split()})]
    cfg = config.replace(tiny_cfg, crop_padding=1.0)  # hidden joints lie far outside the box of what is visible
    return Weights(tiny_model, cfg, split.class_names, words)


@pytest.fixture
def split(scenes_root: Path) -> CocoDataset:
    return CocoDataset(scenes_root, "val2017", TASKS)


def test_the_truth_scores_perfectly(weights: Weights, tiny_cfg: CFG, split: CocoDataset):
    cfg = config.replace(tiny_cfg, num_samples=1, eval_batch_size=4)
    metrics = evaluate(Oracle(weights, cfg, [split[index] for index in range(len(split))]), split, TASKS)
    assert metrics["detection"]["AP"] >= 0.99
    assert metrics["keypoint"]["AP, true boxes"] >= 0.99
    assert metrics["keypoint"]["AP, detected boxes"] >= 0.99
    assert metrics["segmentation"]["mean IoU, true boxes"] >= 0.95
    assert metrics["segmentation"]["AP, true boxes"] >= 0.95
    assert metrics["segmentation"]["AP, detected boxes"] >= 0.95
    assert metrics["captioning"]["BLEU-4"] == pytest.approx(1)


def test_fewer_points_cost_some_of_the_mask(weights: Weights, tiny_cfg: CFG, split: CocoDataset):
    examples = [split[index] for index in range(len(split))]
    ious = []
    for max_points in (6, 48):
        spoken = dataclasses.replace(weights, cfg=config.replace(weights.cfg, max_points=max_points))
        oracle = Oracle(spoken, config.replace(tiny_cfg, num_samples=1), examples)
        metrics = evaluate(oracle, split, ("segmentation",))
        ious.append(metrics["segmentation"]["mean IoU, true boxes"])
    assert 0.3 < ious[0] < ious[1] - 0.05


def test_without_detection_only_true_boxes_are_scored(weights: Weights, tiny_cfg: CFG, split: CocoDataset):
    one_task = Weights(weights.model, config.replace(weights.cfg, task="keypoint"), weights.class_names, weights.words)
    oracle = Oracle(one_task, tiny_cfg, [split[index] for index in range(len(split))])
    metrics = evaluate(oracle, split, ("keypoint",))
    assert set(metrics["keypoint"]) == {"AP, true boxes", "AP50, true boxes", "AP75, true boxes"}


def test_a_silent_model_scores_zero(weights: Weights, tiny_cfg: CFG, split: CocoDataset, monkeypatch):
    silent = Answer(np.zeros(1, np.int64), np.ones(1))
    monkeypatch.setattr(
        Predictor,
        "_answers",
        lambda self, task, encoded, prompts, sampling=None, num_samples=1: [
            silent for _ in range(len(prompts) * num_samples)
        ],
    )
    metrics = evaluate(Predictor(weights, tiny_cfg, torch.device("cpu")), split, TASKS)
    assert metrics["detection"]["AP"] == metrics["segmentation"]["AP, true boxes"] == 0
    assert metrics["captioning"]["BLEU-1"] == 0


def test_the_script_writes_metrics(weights: Weights, scenes_root: Path, tmp_path: Path, monkeypatch, capsys):
    save_weights(tmp_path / "tiny.safetensors", weights)
    flags = ["--weights", tmp_path / "tiny.safetensors", "--data-root", scenes_root, "--output-dir", tmp_path / "out"]
    flags += ["--device", "cpu", "--num-samples", "1", "--max-objects", "3"]
    monkeypatch.setattr(sys, "argv", ["evaluate_multi_task.py", *map(str, flags)])
    command_line(evaluate_multi_task.main, evaluate_multi_task.__doc__, output_dir="results")
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (report["pictures"], set(report["metrics"])) == (6, set(TASKS))
    assert "BLEU-4" in capsys.readouterr().out


def test_bleu_counts_n_grams_of_all_references():
    references = [[["a", "red", "car"], ["the", "car"]]]
    assert bleu(references, [["a", "red", "car"]], 2) == pytest.approx(1)
    assert bleu(references, [["a", "car", "red"]], 1) == pytest.approx(1)
    assert bleu(references, [["a", "blue", "car"]], 1) == pytest.approx(2 / 3)
    assert bleu([], [], 4) == 0
