"""From a weights file to a predictor."""

from __future__ import annotations

from pix2seq.config import CALIBRATION, CFG, fits_calibration, notices, with_decoding
from pix2seq.infer.predictor import Predictor
from pix2seq.models.weights import load_weights
from pix2seq.runtime.console import tell
from pix2seq.runtime.device import pick_device
from pix2seq.tasks import TASKS
from pix2seq.weights.find import find_weights


def load_predictor(cfg: CFG) -> Predictor:
    """The predictor of `--weights` on `--device`, with the decoding settings of the file unless others are given."""
    path = find_weights(cfg.infer.weights)
    weights = load_weights(path)
    if CALIBRATION[0] in weights.decoding and not fits_calibration(cfg, weights.decoding):
        tell(f"scores are not calibrated: {path} was calibrated with other settings of detection")
    chosen = with_decoding(cfg, weights.decoding)
    for notice in notices(chosen):
        if notice not in notices(cfg):  # those were told on the command line
            tell(f"{notice}, as the settings in {path} do")
    return Predictor.from_weights(weights, TASKS, chosen.infer, pick_device(cfg.device), cfg.seed)
