"""Read the `config.json` that the official code writes beside its checkpoints, and sizes in the names of folders.

What the tensors do not tell comes from there: the canvas, whether token ids mean what they mean here, and how the task
was decoded. Published detection folders hold one; multi-task folders do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pix2seq.errors import UserError
from pix2seq.token_ids import COORD_BINS, COORD_SHIFT, TEXT_SHIFT

NAME = "config.json"
LAYOUT = {"coord_vocab_shift": COORD_SHIFT, "text_vocab_shift": TEXT_SHIFT, "quantization_bins": COORD_BINS}


@dataclass(frozen=True)
class OfficialConfig:
    """What is known besides the tensors: `canvas` (height, width) in pixels, None: not known; the number of token ids,
    0: not known; the kind of `projection`, empty: not known; and `settings` of ours by name, which say how the task is
    decoded."""

    canvas: tuple[int, int] | None = None
    vocab_size: int = 0
    projection: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)


def read_config(path: Path) -> OfficialConfig:
    """The settings in a `config.json`; UserError if it is none, or if its token ids have other meanings than ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        model, task = content["model"], content.get("task", {})
        task = task[0] if isinstance(task, list) else task
        canvas = _canvas(model.get("image_size") or task.get("image_size"))
        projection = str(model.get("dec_proj_mode", ""))
        found = OfficialConfig(canvas, int(model.get("vocab_size", 0)), projection, _task_settings(task))
        layout = {name: int({**task, **model}.get(name, here)) for name, here in LAYOUT.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path} is no configuration of the official code ({error!r}); correct it, or take it away and name the "
            "canvas with --image-size"
        ) from None
    if other := [f"{name} {layout[name]}, not {here}" for name, here in LAYOUT.items() if layout[name] != here]:
        raise UserError(f"{path} has {', '.join(other)}: its token ids mean something else, and cannot be converted")
    return found


def config_of(source: Path, named: Path | None = None) -> OfficialConfig:
    """The settings of the checkpoint `source`, a folder or a file in it: those of `named`, or of the `config.json`
    there, or at least the canvas in the folder's name, as in `vit_b_1024x1024`."""
    folder = source if source.is_dir() else source.parent
    path = named or folder / NAME
    if named or path.is_file():
        return read_config(path)
    return OfficialConfig(canvas_in_name(folder.absolute().name))


def canvas_in_name(name: str) -> tuple[int, int] | None:
    """(height, width) in `vit_b_640x640_b256_s400k`; None if there is none."""
    match = re.search(r"(?<![0-9])(\d{2,4})x(\d{2,4})(?![0-9])", name)
    return (int(match[1]), int(match[2])) if match else None


def _canvas(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(int(height), int(width)) < 1:
        raise ValueError(f"image_size {size}")
    return int(height), int(width)


def _task_settings(task: Mapping[str, Any]) -> dict[str, float]:
    """Our settings of detection's objects and decoding for the official ones that are there."""
    found: dict[str, float] = {}
    if "max_instances_per_image_test" in task:
        found["max_objects"] = int(task["max_instances_per_image_test"])
    if "temperature" in task:
        found["temperature"] = float(task["temperature"])
    if "top_p" in task:
        found["detection_top_p"] = 0.0 if task.get("top_k") == 1 else float(task["top_p"])
    return found
