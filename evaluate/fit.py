"""Fit the settings of detection's decoding to labeled images, and its scores to how often they are right."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from pix2seq.config import CALIBRATION, CFG, DECODING, value_of
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.errors import Unreadable, UserError
from pix2seq.evaluate.detection import score, scores_and_outcomes
from pix2seq.evaluate.evaluation import DAMAGED, Sizes, chunks_of, read_chunks
from pix2seq.evaluate.predictions import ImagePredictions, Scores
from pix2seq.evaluate.reliability import Reliability, fit_calibration
from pix2seq.infer.calibration import calibrate
from pix2seq.infer.predictor import Predictor

END_THRESHOLDS = (0.0, 0.1, 0.3, 0.6, 0.9)
NUCLEI = (0.5, 0.7, 0.9)
VOTES = 8  # that are tried if no other number is given
MIN_IMAGES = 20


@dataclass
class Trial:
    """One set of `settings`, and what it predicts about each image."""

    settings: Mapping[str, Any]
    predictions: list[ImagePredictions] = field(default_factory=list)
    seconds: float = 0.0

    def text(self) -> str:
        """The settings."""
        return ", ".join(f"{name} {value:g}" for name, value in self.settings.items())


def candidates(cfg: CFG, ends: bool) -> list[dict[str, Any]]:
    """The settings to try: one greedy list with each end threshold, if the model `ends` its lists, and votes with each
    nucleus. A number of votes that is given is the only one; what else is given holds in all of them."""
    votes = cfg.infer.detection_votes if "detection_votes" in cfg.given else VOTES
    greedy = [
        {"detection_votes": 1, "detection_top_p": 0.0, "end_threshold": threshold}
        for threshold in (END_THRESHOLDS if ends else END_THRESHOLDS[:1])
    ]
    sampled = [{"detection_votes": votes, "detection_top_p": top_p} for top_p in NUCLEI]
    tried = greedy if votes == 1 else sampled if "detection_votes" in cfg.given else greedy + sampled
    return [one for one in tried if all(value_of(cfg, name) == one[name] for name in cfg.given & one.keys())] or [
        {name: value_of(cfg, name) for name in tried[0]}
    ]


def predict_all(
    predictor: Predictor, split: ImageDataset, tried: Sequence[Mapping[str, Any]], sizes: Sizes
) -> list[Trial]:
    """Each set of settings on the same images, each of which is encoded once; scores are as the model gives them."""
    trials, task = [Trial(settings) for settings in tried], predictor.finder.name
    raw = predictor.with_settings(calibration_slope=1.0, calibration_offset=0.0)
    widest = max((raw.with_settings(**trial.settings) for trial in trials), key=lambda asked: asked.views_of([task]))
    split.leave_out_unreadable()
    chunks = chunks_of(sizes.count(split), sizes.chunk)
    for found in tqdm(read_chunks(split, chunks, sizes.workers), desc="fitting", unit=" batches", total=len(chunks)):
        for error in found.values():
            if isinstance(error, Unreadable):
                split.problems.add(DAMAGED, str(error))
        examples = {number: example for number, example in found.items() if isinstance(example, Example)}
        images = [example.image for example in examples.values()]
        encoded = widest.encode_images(images, [task])
        for trial in trials:
            started = time.perf_counter()
            predicted = raw.with_settings(**trial.settings).predict(task, images, encoded=encoded)
            trial.seconds += time.perf_counter() - started
            trial.predictions += [
                ImagePredictions(index, example.image_id, instances)
                for (index, example), instances in zip(examples.items(), predicted, strict=True)
            ]
    if len(trials[0].predictions) < MIN_IMAGES:
        raise UserError(
            f"{split.folder} gives {len(trials[0].predictions)} images to fit to, at least {MIN_IMAGES} are needed; "
            "name another split or raise --max-images"
        )
    return trials


def fit(predictor: Predictor, split: ImageDataset, cfg: CFG) -> tuple[dict[str, Any], str]:
    """The settings that are best on every other image, and a report with figures of both halves of the images."""
    tried = candidates(cfg, ends=not predictor.trained.model.full_detection)
    trials = predict_all(predictor, split, tried, Sizes.of(cfg))
    halves = slice(0, None, 2), slice(1, None, 2)
    figures = [[ap50(score(trial.predictions[half], split, predictor.settings)) for half in halves] for trial in trials]
    best = int(np.argmax([on_first for on_first, _ in figures]))
    images = len(trials[0].predictions)
    lines = ["AP50 where fitted  on the others  ms per image  settings"]
    lines += [
        f"{first:>17.3f}  {second:>13.3f}  {1000 * trial.seconds / images:>12.1f}  {trial.text()}"
        for trial, (first, second) in zip(trials, figures, strict=True)
    ]
    outcomes = [scores_and_outcomes(trials[best].predictions[half], split) for half in halves]
    calibration = fit_calibration(*outcomes[0]) if outcomes[0][1].any() else (1.0, 0.0)
    lines += ["", f"best: {trials[best].text()}"]
    lines += ["calibration: slope {:.3f}, offset {:.3f}".format(*calibration)]
    for half, (scores, right) in zip(("images of the fit", "other images"), outcomes, strict=True):
        for when, values in (("before", scores), ("after", calibrate(scores, *calibration))):
            lines += ["", f"{half}, {when} calibration: {Reliability.of(values, right).text()}"]
    given = {name: value_of(cfg, name) for name in DECODING if name in cfg.given}
    return given | dict(trials[best].settings) | dict(zip(CALIBRATION, calibration, strict=True)), "\n".join(lines)


def ap50(scores: Scores) -> float:
    """The mean AP50 over objects, that is of classes by their number of objects: rare ones decide nothing."""
    table = list(scores.per_class.values())
    count = sum(row["objects"] for row in table)
    return sum(row["AP50"] * row["objects"] for row in table) / max(count, 1)
