"""What a run needs to go on where it stopped."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from pix2seq.errors import UserError

CHECKPOINT = "checkpoint.pt"  # its name in a run's folder


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain numbers to `path`, whole or not at all."""
    unfinished = path.with_name(path.name + ".partial")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; nothing but tensors and plain values is ever unpickled."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; name a run's folder that has one, or start without --resume")
    try:
        with zipfile.ZipFile(path) as parts:
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                raise ValueError("compressed parts, which a checkpoint has not, could be of any size")
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise TypeError("expected values by name")
    except Exception as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); name another run, or start without --resume"
        ) from error
    return state
