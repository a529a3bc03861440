"""From a weights file to a folder with an exported model, whole or not at all, once it computes what PyTorch does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pix2seq.config import CFG, with_decoding
from pix2seq.errors import UserError
from pix2seq.infer.exported.folder import DESCRIPTION, ENCODER, STEP, describe
from pix2seq.infer.onnx_predictor import Graphs, Stepper
from pix2seq.infer.predictor import Predictor
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, metadata_of
from pix2seq.runtime.extras import require_extra
from pix2seq.runtime.files import output_folder, writing
from pix2seq.tasks import TASKS
from pix2seq.token_ids import CLASS_SHIFT, COORD_BINS, COORD_SHIFT, END, INVISIBLE, SEPARATOR, TEXT_SHIFT
from pix2seq.weights.find import find_weights

LARGEST = 1e-3  # difference of fp32 logits from PyTorch's, relative to the largest one, that rounding explains
TRIED = 6  # tokens of the comparison


def export(cfg: CFG) -> None:
    """Write the weights that `cfg` names into `--output-dir`; raise UserError if the graphs do not compute what PyTorch
    does."""
    if cfg.precision in ("bf16", "fp16"):
        raise UserError(f"--precision {cfg.precision} is none of exported models; expected fp32 or int8")
    require_extra("export", "onnx", "onnxscript", "onnxruntime", needed_by="an export")
    from pix2seq.infer.exported.graphs import make_encoder, make_step
    from pix2seq.infer.exported.int8 import with_int8_weights

    weights = load_weights(find_weights(cfg.infer.weights))
    target, is_int8 = Path(cfg.infer.output_dir), cfg.precision == "int8"
    with output_folder(target) as staging:
        made = {ENCODER: make_encoder(weights.model), STEP: make_step(weights.model)}
        graphs = {
            name: (with_int8_weights(graph) if is_int8 else graph).SerializeToString() for name, graph in made.items()
        }
        difference = compare(weights.model, Graphs(target, graphs, weights.cfg.model.vocab_size))
        if difference > LARGEST and not is_int8:
            raise UserError(f"the graphs differ from PyTorch's logits by {difference:.1e}; please report these weights")
        with writing(target):
            for name, content in graphs.items():
                (staging / name).write_bytes(content)
            (staging / DESCRIPTION).write_text(_description(weights, cfg, graphs), encoding="utf-8")
    print(f"logits differ from PyTorch's by at most {difference:.1e} of the largest one")
    sizes = ", ".join(f"{target / name} {len(content) / 1e6:.1f} MB" for name, content in graphs.items())
    print(f"wrote {sizes}, {target / DESCRIPTION}")


def _description(weights: Weights, cfg: CFG, graphs: Mapping[str, bytes]) -> str:
    return describe(metadata_of(weights), graphs, vocabulary(weights), with_decoding(cfg, weights.decoding).infer)


def vocabulary(weights: Weights) -> dict[str, Any]:
    """What token ids mean, and the first token of each task's prompt, for programs that are not ours."""
    meanings = {"end": END, "separator": SEPARATOR, "invisible": INVISIBLE, "class_shift": CLASS_SHIFT}
    meanings |= {"coord_shift": COORD_SHIFT, "coord_bins": COORD_BINS, "text_shift": TEXT_SHIFT}
    predictor = Predictor.described(weights, TASKS, CFG().infer, lambda tokenizers: None)
    tasks = {
        name: {
            "prompt": predictor.tokenizers[name].prompt(*((np.zeros(4), 0) if task.is_prompted else ())).tolist()[0],
            "is_prompted_with_box_and_class": task.is_prompted,
            "most_tokens": predictor.tokenizers[name].max_response,
        }
        for name, task in predictor.tasks.items()
    }
    return meanings | {"tasks": tasks}


@torch.inference_mode()
def compare(model: Pix2Seq, graphs: Graphs) -> float:
    """The largest difference of the graphs' logits from the model's, relative to the largest logit, for random canvases
    and tokens: one canvas with one sequence, and two with three each."""
    chosen, worst = np.random.default_rng(0), 0.0
    for canvases, sequences in ((1, 1), (2, 3)):
        images = chosen.random((canvases, 3, *[model.cfg.image_size] * 2), dtype=np.float32)
        tokens = chosen.integers(0, model.cfg.vocab_size, (canvases, sequences, TRIED))
        steps = Stepper(graphs, graphs.encode(images), sequences)
        found = np.stack([steps(tokens[:, :, place]) for place in range(TRIED)], axis=2)
        index = torch.arange(canvases).repeat_interleave(sequences)
        expected = model(torch.from_numpy(images), torch.from_numpy(tokens).flatten(0, 1), index).numpy()
        worst = max(worst, float(np.abs(found.reshape(expected.shape) - expected).max() / np.abs(expected).max()))
    return worst
