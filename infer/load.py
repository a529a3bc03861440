"""From what `--weights` names to a predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.config import CALIBRATION, CFG, fits_calibration, notices, with_decoding
from pix2seq.errors import UserError
from pix2seq.infer.predictor import Predictor
from pix2seq.runtime.console import tell
from pix2seq.tasks import TASKS
from pix2seq.weights.find import find_weights

if TYPE_CHECKING:
    import torch

    from pix2seq.models.weights import Weights


def load_predictor(cfg: CFG) -> Predictor:
    """The predictor of `--weights` on `--device`, with the decoding settings of the file unless others are given.

    A folder is an exported model, for which torch is not imported.
    """
    path = find_weights(cfg.infer.weights)
    if path.is_dir():
        from pix2seq.infer.exported.folder import read_exported
        from pix2seq.infer.onnx_predictor import make_predictor

        exported = read_exported(path)
        return make_predictor(path, exported, TASKS, chosen_settings(cfg, exported.metadata.decoding, path))
    from pix2seq.models.weights import load_weights

    weights = load_weights(path)
    chosen = chosen_settings(cfg, weights.decoding, path)
    if chosen.infer.views > 2 and weights.model.encoder.backbone.is_vit:
        backbone = weights.cfg.model.backbone
        raise UserError(f"--views {chosen.infer.views} needs a convnet: {backbone} has one canvas size; give 1 or 2")
    return predictor_of(weights, chosen)


def predictor_of(weights: Weights, cfg: CFG) -> Predictor:
    """The predictor of `weights` as `--device`, `--precision` and `--compile` ask for it."""
    from pix2seq.runtime.device import check_precision, compiles_steps, pick_device

    device = pick_device(cfg.device)
    precision = inference_precision(cfg, device)
    check_precision(precision, device)
    if cfg.compile and precision == "fp16":
        raise UserError("--compile does not know the products of --precision fp16; leave one of them out")
    compiled = cfg.compile and compiles_steps(device)
    return Predictor.from_weights(weights, TASKS, cfg.infer, device, cfg.seed, precision, compiled)


def chosen_settings(cfg: CFG, decoding: Mapping[str, Any], path: Path) -> CFG:
    """`cfg` with the `decoding` settings that `path` holds, unless others are given; what does not fit is told."""
    if CALIBRATION[0] in decoding and not fits_calibration(cfg, decoding):
        tell(f"scores are not calibrated: {path} was calibrated with other settings of detection")
    chosen = with_decoding(cfg, decoding)
    for notice in notices(chosen):
        if notice not in notices(cfg):  # those were told on the command line
            tell(f"{notice}, as the settings in {path} do")
    return chosen


def inference_precision(cfg: CFG, device: torch.device) -> str:
    """That of `--precision`; fp32 instead of bf16, and a line that says so, on a processor that has none."""
    from pix2seq.runtime.device import computes_bf16

    if cfg.precision == "auto":
        return "fp32"
    if cfg.precision == "bf16" and not computes_bf16(device):
        tell("--precision bf16 is computed as fp32: this processor has no bf16 arithmetic; --precision fp16 is quicker")
        return "fp32"
    return cfg.precision
