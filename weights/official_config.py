"""Read the `config.json` that the official code writes beside its checkpoints, and sizes in the names of folders.

What the tensors do not tell comes from there: the canvas, whether token ids mean what they mean here, and how the tasks
were decoded. Published detection folders hold one; multi-task folders do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from pix2seq.errors import UserError
from pix2seq.runtime.console import tell
from pix2seq.schema import decode, read_bytes
from pix2seq.token_ids import COORD_BINS, COORD_SHIFT, TEXT_SHIFT

NAME = "config.json"
ADVICE = "correct it, or take it away and name the canvas with --image-size"
Side = Annotated[int, Meta(ge=1, le=2**20)]
# Of a square, or height and width. No tuple: msgspec 0.22 crashes at one that is an alternative to a limited number.
Size = Side | Annotated[list[Side], Meta(min_length=2, max_length=2)] | None


class _Model(Struct):
    """The official model's settings that matter here."""

    image_size: Size = None
    vocab_size: int = 0
    dec_proj_mode: str = ""
    coord_vocab_shift: int = COORD_SHIFT
    text_vocab_shift: int = TEXT_SHIFT


class _Task(Struct):
    """The official settings of a task that matter here; None: not there."""

    name: str = "object_detection"
    image_size: Size = None
    quantization_bins: int = COORD_BINS
    max_instances_per_image_test: int | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float | None = None
    ensemble_num_samples: int | None = None
    ensemble_threshold: float | None = None
    max_points_per_object: int | None = None
    eval_suppress_invisible_token: bool | None = None
    points_score_weight: float | None = None

    @property
    def nucleus(self) -> float | None:
        """`top_p`, or 0, which is greedy here."""
        return 0.0 if self.top_k == 1 else self.top_p


class _Content(Struct):
    model: _Model
    task: _Task | list[_Task] = []
    tasks: list[_Task] = []


@dataclass(frozen=True)
class OfficialConfig:
    """What is known besides the tensors: `canvas` (height, width) in pixels, None: not known; the number of token ids,
    0: not known; the kind of `projection`, empty: not known; and `settings` of ours by name, which say how the tasks
    are decoded."""

    canvas: tuple[int, int] | None = None
    vocab_size: int = 0
    projection: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_config(path: Path, advice: str = ADVICE) -> OfficialConfig:
    """The settings in a `config.json`; UserError if it is none, or if its token ids have other meanings than ours."""
    try:
        content = decode(read_bytes(path).removeprefix(b"\xef\xbb\xbf"), _Content, str(path), advice)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}") from None
    model, tasks = (
        content.model,
        [*(content.task if isinstance(content.task, list) else [content.task]), *content.tasks],
    )
    layout = [
        ("coord_vocab_shift", model.coord_vocab_shift, COORD_SHIFT),
        ("text_vocab_shift", model.text_vocab_shift, TEXT_SHIFT),
        *(("quantization_bins", task.quantization_bins, COORD_BINS) for task in tasks),
    ]
    if other := [f"{name} {theirs}, not {ours}" for name, theirs, ours in layout if theirs != ours]:
        raise UserError(f"{path} has {', '.join(other)}: its token ids mean something else, and cannot be converted")
    size = next((part.image_size for part in (model, *tasks) if part.image_size), None)
    canvas = (size, size) if isinstance(size, int) else size and tuple(size)
    return OfficialConfig(canvas, model.vocab_size, model.dec_proj_mode, _settings(tasks, path))


def config_of(source: Path, named: Path | None = None, advice: str = ADVICE) -> OfficialConfig:
    """The settings of the checkpoint `source`, a folder or a file in it: those of `named`, or of the `config.json`
    there, or at least the canvas in the folder's name, as in `vit_b_1024x1024`. `advice` ends what is said of a file
    that cannot be read."""
    folder = source if source.is_dir() else source.parent
    path = named or folder / NAME
    if named or path.is_file():
        return read_config(path, advice)
    return OfficialConfig(canvas_in_name(folder.absolute().name))


def canvas_in_name(name: str) -> tuple[int, int] | None:
    """(height, width) in `vit_b_640x640_b256_s400k`; None if there is none."""
    match = re.search(r"(?<![0-9])(\d{2,4})x(\d{2,4})(?![0-9])", name)
    return (int(match[1]), int(match[2])) if match else None


def _settings(tasks: Sequence[_Task], path: Path) -> dict[str, Any]:
    """Our settings for the official ones that are there. Captions are decoded as their authors advise in any case."""
    found: dict[str, Any] = {}
    temperatures: dict[str, float] = {}
    for task in tasks:
        values: dict[str, Any] = {}
        if task.name == "object_detection":
            values = {"max_objects": task.max_instances_per_image_test, "detection_top_p": task.nucleus}
        elif task.name == "instance_segmentation":
            tokens = 2 * task.max_points_per_object if task.max_points_per_object else None
            values = {"top_k": task.top_k, "top_p": task.top_p, "mask_tokens": tokens}
            values |= {"num_samples": task.ensemble_num_samples, "mask_threshold": task.ensemble_threshold}
        elif task.name == "keypoint_detection":
            values = {"keypoint_top_p": task.nucleus, "suppress_invisible": task.eval_suppress_invisible_token}
            values |= {"points_score_weight": task.points_score_weight}
        if values and task.temperature is not None:
            temperatures[task.name] = task.temperature
        if task.top_k > 1 and task.name in ("object_detection", "keypoint_detection"):
            tell(f"{path}: top_k {task.top_k} of {task.name} is left out, only its nucleus is converted")
        found |= {name: value for name, value in values.items() if value is not None}
    if temperatures:
        found["temperature"] = next(iter(temperatures.values()))
    if len(set(temperatures.values())) > 1:
        each = ", ".join(f"{name} {value:g}" for name, value in temperatures.items())
        tell(f"{path} has several temperatures ({each}); {found['temperature']:g} is kept for all, see --temperature")
    return found
