"""From a weights file to a predictor."""

from __future__ import annotations

from pix2seq.config import CFG
from pix2seq.infer.predictor import Predictor
from pix2seq.models.weights import load_weights
from pix2seq.runtime.device import pick_device
from pix2seq.tasks import TASKS
from pix2seq.weights.find import find_weights


def load_predictor(cfg: CFG) -> Predictor:
    """The predictor of `--weights` on `--device`."""
    weights = load_weights(find_weights(cfg.infer.weights))
    return Predictor.from_weights(weights, TASKS, cfg.infer, pick_device(cfg.device), cfg.seed)
