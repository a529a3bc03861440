"""Predict with an exported model by onnxruntime, without torch: all four tasks, as a weights file does them.

`pix2seq.load("exported")("image.jpg")`, and `--weights exported` of the inference scripts, come here. Sampling, votes,
views and thresholds are those of `infer/`; decoding is that of `exported/decoding.py`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pix2seq.config import CFG, ModelCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.errors import UserError, plain
from pix2seq.infer.encoded import Encoded, Listener, chunks, draw_numbers, longest_response, scoring_all
from pix2seq.infer.exported.decoding import Chooser, Decoded, decode
from pix2seq.infer.exported.folder import ENCODER, STEP, Exported
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.models.sampling import Sampling
from pix2seq.runtime.extras import require_extra
from pix2seq.runtime.memory import lacks_memory
from pix2seq.tokenizers.vocabulary import Tokenizer

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

    from pix2seq.task import Task

MEMORY, PAST, NEW = "memory_", "past_", "new_"  # how names of keys and values begin; behind that they are the same


def make_predictor(folder: Path, exported: Exported, tasks: Mapping[str, Task], cfg: CFG) -> Predictor:
    """The predictor of the exported model of a folder; raise UserError for graphs that do not run, and for settings of
    `cfg` that it cannot have."""
    if cfg.device not in ("auto", "cpu"):
        raise UserError(f"--device {cfg.device} cannot run {folder}: exported models run on the processor")
    if cfg.precision not in ("auto", "fp32"):
        raise UserError(f"--precision {cfg.precision} has no effect on {folder}, which has that of its export")
    graphs, settings = Graphs(folder, exported.graphs, exported.metadata.cfg.model.vocab_size), cfg.infer
    if settings.views > 2 and graphs.side:
        raise UserError(f"--views {settings.views} needs other canvases than the one of {folder}; give 1 or 2")

    def generator(tokenizers: Mapping[str, Tokenizer]) -> OnnxGenerator:
        return OnnxGenerator(graphs, tokenizers, exported.metadata.cfg.model, settings.eval_batch_size, cfg.seed)

    return Predictor.described(exported.metadata, tasks, settings, generator)


@dataclass(frozen=True)
class Memory:
    """Keys and values of B canvases by name, each (B, heads, N, d)."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()), ()))

    def __getitem__(self, canvases: np.ndarray | slice) -> Memory:
        return Memory({name: array[canvases] for name, array in self.arrays.items()})

    @classmethod
    def joined(cls, parts: Sequence[Memory]) -> Memory:
        """The canvases of all parts."""
        return cls({name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays})


class Graphs:
    """An encoder and a step graph in onnxruntime; `side` is that of the only canvas that they take, None: any multiple
    of 32. OMP_NUM_THREADS bounds their threads, as it does torch's."""

    def __init__(self, folder: Path, graphs: Mapping[str, bytes], vocab_size: int) -> None:
        self.folder, self.vocab_size = folder, vocab_size
        self.encoder, self.step = (_session(folder / name, graphs[name]) for name in (ENCODER, STEP))
        self.memory = [output.name for output in self.encoder.get_outputs()]
        self.outputs = [output.name for output in self.step.get_outputs()]
        expected = {"tokens", *self.memory, *(name.replace(MEMORY, PAST) for name in self.memory)}
        made = ["logits", *(name.replace(MEMORY, NEW) for name in self.memory)]
        shapes = [image.shape for image in self.encoder.get_inputs() if image.name == "images"]
        ranks = {len(shape) for shape in (*shapes, *(output.shape for output in self.encoder.get_outputs()))}
        fits = {part.name for part in self.step.get_inputs()} == expected and self.outputs == made and len(made) > 1
        if not fits or len(shapes) != 1 or ranks != {4}:
            raise UserError(f"{folder} does not hold an encoder and a step that fit together; export the model again")
        self.side = shapes[0][3] if isinstance(shapes[0][3], int) else None

    def encode(self, canvases: np.ndarray) -> Memory:
        """Of `canvases` (B, 3, H, W) float32 in [0, 1]."""
        found = self.computed(self.encoder.run, self.memory, {"images": canvases})
        return Memory(dict(zip(self.memory, found, strict=True)))

    def decode(self, feeds: Mapping[str, OrtValue], shape: tuple[int, int]) -> tuple[np.ndarray, Sequence[OrtValue]]:
        """Logits (B, G, V) and the new keys and values after tokens of a `shape` (B, G)."""
        logits, *new = self.computed(self.step.run_with_ort_values, self.outputs, feeds)
        found = logits.numpy()
        if found.shape != (*shape, self.vocab_size):
            raise UserError(
                f"{self.folder} gives logits {found.shape}, expected {(*shape, self.vocab_size)}; export again"
            )
        return found, new

    def computed(self, run: Callable[..., list], *inputs: Any) -> list:
        """What a session gives; raise UserError where it cannot compute."""
        try:
            return run(*inputs)
        except Exception as error:  # as in `_session`
            if lacks_memory(error):
                raise
            raise UserError(f"{self.folder} cannot be computed with ({plain(str(error))}); export it again") from None


def _session(path: Path, content: bytes) -> InferenceSession:
    """A graph ready to run. It comes as bytes, so that it has no folder to look for other files in."""
    require_extra("export", "onnxruntime", needed_by="an exported model")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # int8 weights become fp32 once, not at each run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave others room
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has classes of errors for each of its own codes, none in common
        reason = plain(str(error))
        raise UserError(f"{path} is no graph that onnxruntime runs ({reason}); export the model again") from None


class Stepper:
    """The step graph with its caches, for B prompts of G sequences each; see `exported/decoding.py`."""

    def __init__(self, graphs: Graphs, memory: Memory, sequences: int) -> None:
        from onnxruntime import OrtValue

        self.graphs, self.wrap = graphs, OrtValue.ortvalue_from_numpy
        self.feeds: dict[str, OrtValue] = {}
        for name, array in memory.arrays.items():
            prompts, heads, _, width = array.shape
            self.feeds[name] = self.wrap(np.ascontiguousarray(array))
            self.feeds[name.replace(MEMORY, PAST)] = self.wrap(
                np.zeros((prompts, sequences, heads, 0, width), np.float32)
            )

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """See `Steps`. Caches stay where onnxruntime has made them."""
        feeds = self.feeds | {"tokens": self.wrap(np.ascontiguousarray(tokens))}
        logits, new = self.graphs.decode(feeds, tokens.shape)
        for name, value in zip(self.graphs.outputs[1:], new, strict=True):
            self.feeds[name.replace(NEW, PAST)] = value
        return logits

    def keep(self, rows: np.ndarray) -> None:
        """See `Steps`."""
        self.feeds = {name: self.wrap(value.numpy()[rows]) for name, value in self.feeds.items()}


class OnnxGenerator:
    """The responses of an exported model, held to the grammars of its tokenizers; see `encoded.SequenceGenerator`.

    Canvases and prompts are computed `chunk_size` at a time; `seed` is that of sampling.
    """

    def __init__(
        self, graphs: Graphs, tokenizers: Mapping[str, Tokenizer], model: ModelCFG, chunk_size: int = 32, seed: int = 0
    ) -> None:
        self.graphs, self.tokenizers, self.model = graphs, tokenizers, model
        self.chunk_size, self.seed = chunk_size, seed
        self.listener: Listener | None = None
        self.choosers = {task: Chooser(tokenizer.grammar()) for task, tokenizer in tokenizers.items()}

    def scoring_all(self) -> OnnxGenerator:
        """The same, which gives the probabilities of all tokens, not only of those that scores need."""
        other = copy.copy(self)
        other.choosers = {task: Chooser(scoring_all(tokenizer)) for task, tokenizer in self.tokenizers.items()}
        return other

    def with_listener(self, listener: Listener) -> OnnxGenerator:
        """The same, which tells `listener` of tokens while others are decoded."""
        other = copy.copy(self)
        other.listener = listener
        return other

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """See SequenceGenerator."""
        parts = []
        for part in chunks(len(geometries), self.chunk_size):
            pairs = zip(images[part], geometries[part], strict=True)
            canvases = [geometry.warp(image, self.model.pad_value, self.model.pixels) for image, geometry in pairs]
            parts.append(self.graphs.encode(np.stack(canvases).transpose(0, 3, 1, 2).astype(np.float32) / 255))
        return Encoded(Memory.joined(parts) if parts else Memory({}), geometries, np.arange(len(geometries)))

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """See SequenceGenerator."""
        responses: list[Response] = []

        def tell(found: Decoded) -> None:
            self.listener(task, encoded, prompts, num_samples, responses + _responses(found))

        chooser, longest = self.choosers[task], longest_response(self.tokenizers[task], self.model, sampling)
        for part in chunks(len(prompts), self.chunk_size):
            draws = draw_numbers(encoded, prompts, part, (num_samples, longest), self.seed)
            steps = Stepper(self.graphs, encoded.memory[encoded.image_index[part]], num_samples)
            asked = np.stack(prompts[part]), chooser, sampling, draws
            responses += _responses(decode(steps, *asked, tell if self.listener else None))
        return responses


def _responses(found: Decoded) -> list[Response]:
    parts = {name: values.reshape(-1, *values.shape[2:]) for name, values in found.parts.items()}
    return [Response(**dict(zip(parts, row, strict=True))) for row in zip(*parts.values(), strict=True)]
