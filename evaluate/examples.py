"""Ground truth beside predictions for a few images that stay the same, so that one sees a model learn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pix2seq.config import CFG, VOTES, replace
from pix2seq.dataset.batches import Readable
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.mixture import Mixture
from pix2seq.evaluate.evaluation import ask
from pix2seq.evaluate.prediction_grid import draw_row
from pix2seq.infer.predictor import Predictor
from pix2seq.models.weights import Weights
from pix2seq.task import Task

PER_ROW = 2
# One greedy answer to each question, however many shall vote in an evaluation: that takes much longer.
QUICK = dict.fromkeys((*VOTES, "views", "num_captions"), 1)


class Examples:
    """For each of `tasks` the first `count` images of `split` that are annotated for it."""

    def __init__(self, split: ImageDataset | Mixture, tasks: Mapping[str, Task], count: int) -> None:
        self.split, self.tasks = split, tasks
        self.chosen = {name: split.indices_for([task])[:count] for name, task in tasks.items()} if count else {}

    def draw(self, weights: Weights, cfg: CFG, device: torch.device) -> dict[str, np.ndarray]:
        """A grid (H, W, 3) uint8 of what the weights predict for each task that has images which can be read.

        Instance tasks are asked about the ground truth's instances.
        """
        if not self.chosen:
            return {}
        settings = replace(cfg, **QUICK).infer
        predictor, grids = Predictor.from_weights(weights, self.tasks, settings, device, cfg.seed), {}
        for name, indices in self.chosen.items():
            loaded = {index: Readable(self.split)[index] for index in indices}
            read = {index: example for index, example in loaded.items() if isinstance(example, Example)}
            if read:
                grids[name] = self._grid(predictor.with_tasks([name]), self.tasks[name], read)
        return grids

    def _grid(self, predictor: Predictor, task: Task, read: Mapping[int, Example]) -> np.ndarray:
        predictions = ask(predictor, [task.name], read, about_detected=False)
        threshold, rows = predictor.settings.score_threshold, []
        for start in range(0, len(predictions), PER_ROW):
            pairs = []
            for each in predictions[start : start + PER_ROW]:
                drawn = task.evaluation.draw_pair(read[each.index], each, predictor.class_names, threshold)
                pairs.append((f"image {each.image_id}", drawn))
            rows.append(draw_row(pairs, min(PER_ROW, len(predictions))))
        return np.concatenate(rows)
