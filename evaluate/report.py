"""What an evaluation leaves behind: metrics.json, COCO results, grids of images, TensorBoard events, tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pix2seq.dataset.annotations import Problems
from pix2seq.dataset.coco import ImageDataset
from pix2seq.evaluate.evaluation import Evaluation
from pix2seq.evaluate.predictions import ImagePredictions
from pix2seq.evaluate.reliability import Reliability
from pix2seq.infer.predictor import Predictor
from pix2seq.runtime.files import writing
from pix2seq.runtime.tensorboard import add_picture, open_events

TOKEN_SCALARS = ("perplexity", "valid without grammar")


def draw_grids(evaluation: Evaluation, split: ImageDataset, predictor: Predictor) -> dict[str, np.ndarray]:
    """A grid of the best, median and worst predictions, (H, W, 3) uint8, of each task that has something to show."""
    from pix2seq.evaluate.prediction_grid import draw_predictions

    options = predictor.class_names, predictor.settings.score_threshold
    drawn = {task: draw_predictions(predictor.tasks[task], evaluation, split, *options) for task in evaluation.scores}
    return {task: grid for task, grid in drawn.items() if grid is not None}


def write_report(target: Path, evaluation: Evaluation, grids: Mapping[str, np.ndarray], name: str) -> None:
    """Write all files of the evaluation of weights `name` into the folder `target`."""
    from pix2seq.infer.overlay import save_png

    content = {
        "weights": name,
        "images": len(evaluation.predictions),
        "metrics": evaluation.metrics,
        "per_class": {task: scores.per_class for task, scores in evaluation.scores.items() if scores.per_class},
        "reliability": {task: dataclasses.asdict(table) for task, table in _reliability(evaluation).items()},
        "tokens": evaluation.tokens,
    }
    (target / "metrics.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    for task, scores in evaluation.scores.items():
        (target / f"{task}_results.json").write_text(json.dumps(scores.results), encoding="utf-8")
    for task, grid in grids.items():
        save_png(target / f"{task}_grid.png", grid)


@dataclass(frozen=True)
class Shown:
    """What curves show of an evaluation at training `step`: numbers, and images (H, W, 3) uint8 RGB, by name."""

    step: int
    numbers: dict[str, float]
    pictures: dict[str, np.ndarray]


def shown_of(evaluation: Evaluation, grids: Mapping[str, np.ndarray], step: int) -> Shown:
    """Every metric and grid of an evaluation."""
    numbers = {
        f"{task}/{name}": value for task, figures in evaluation.metrics.items() for name, value in figures.items()
    }
    for task, counted in evaluation.tokens.items():
        numbers |= {f"{task}/{name}": counted[name] for name in TOKEN_SCALARS}
        numbers |= {f"{task}/accuracy {role}": value for role, value in counted["accuracy"].items()}
    named = {f"eval/{name}": value for name, value in numbers.items()}
    return Shown(step, named, {f"eval/{task}": grid for task, grid in grids.items()})


def log_events(folder: Path, shown: Shown) -> None:
    """Append what an evaluation shows to the TensorBoard events in `folder`."""
    with writing(folder), open_events(folder) as events:
        for name, picture in shown.pictures.items():
            add_picture(events, name, picture, shown.step)
        for name, value in shown.numbers.items():
            events.add_scalar(name, value, shown.step)


def tables(evaluation: Evaluation, problems: Problems) -> str:
    """All metrics, one line each, then each task's metrics by class, and the annotations' `problems`."""
    parts = [_figures(evaluation)]
    for task, scores in evaluation.scores.items():
        if scores.per_class:
            parts.append(_by_class(task, scores.per_class))
    parts += _prompts(evaluation.predictions)
    parts += [f"{task}: {table.text()}" for task, table in _reliability(evaluation).items()]
    if problems.counts:
        parts.append("\n".join(problems.report()))
    return "\n\n".join(parts)


def _prompts(predictions: Sequence[ImagePredictions]) -> list[str]:
    """How many of the boxes that were found served as prompts, in a line; none where no task asks about them."""
    found = sum(len(each.found) for each in predictions if each.detected)
    asked = sum(len(each.detected.instances) for each in predictions if each.detected)
    return [f"prompts: {asked} of {found} detected boxes, those of --prompt-threshold"] if found else []


def _reliability(evaluation: Evaluation) -> dict[str, Reliability]:
    """The tables of the tasks that have one with anything in it."""
    return {task: scores.reliability for task, scores in evaluation.scores.items() if scores.reliability}


def _figures(evaluation: Evaluation) -> str:
    rows = [(task, *figure) for task, figures in evaluation.metrics.items() for figure in figures.items()]
    for task, counted in evaluation.tokens.items():
        rows += [(task, f"token accuracy, {role}", value) for role, value in counted["accuracy"].items()]
        rows += [(task, name, counted[name]) for name in TOKEN_SCALARS]
    width = max((len(name) for _, name, _ in rows), default=0)
    return "\n".join(f"{task:<12}  {name:<{width}}  {value:.3f}" for task, name, value in rows)


def _by_class(task: str, per_class: Mapping[str, Mapping[str, float]]) -> str:
    titles = list(dict.fromkeys(title for figures in per_class.values() for title in figures))
    width = max(len(task), *map(len, per_class))
    lines = [f"{task:<{width}}  " + "  ".join(titles)]
    for name, figures in per_class.items():
        cells = (_cell(figures.get(title), len(title)) for title in titles)
        lines.append(f"{name:<{width}}  " + "  ".join(cells))
    return "\n".join(lines)


def _cell(value: float | None, width: int) -> str:
    if value is None:
        return f"{'–':>{width}}"
    return f"{value:>{width}}" if isinstance(value, int) else f"{value:>{width}.3f}"
