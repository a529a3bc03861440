"""From a weights file to a predictor."""

from __future__ import annotations

from pix2seq.config import CFG, with_decoding
from pix2seq.infer.predictor import Predictor
from pix2seq.models.weights import load_weights
from pix2seq.runtime.device import pick_device
from pix2seq.runtime.paths import weights_path
from pix2seq.tasks import TASKS


def load_predictor(cfg: CFG) -> Predictor:
    """The predictor of `--weights` on `--device`, with the decoding settings of the file unless others are given."""
    weights = load_weights(weights_path(cfg.infer.weights))
    settings = with_decoding(cfg, weights.decoding).infer
    return Predictor.from_weights(weights, TASKS, settings, pick_device(cfg.device), cfg.seed)
