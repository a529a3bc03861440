"""What a run needs to go on where it stopped: one file, and the one before it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pix2seq.errors import UserError
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import flush, replacing
from pix2seq.runtime.finite import require_finite

CHECKPOINT = "checkpoint.pt"  # its name in a run's folder
PREVIOUS = "checkpoint.previous.pt"
MOST_VALUES, MOST_DEPTH = 2_000_000, 16
MOST_TIMES = 4  # a file's size that its tensors have together, some of which may be stored once for several
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`, whole or not at all; what was there becomes PREVIOUS beside it.

    The new file is read back before it takes the place. Raises UserError if it cannot be written, or if a tensor is not
    finite: the file of before stays.
    """
    require_finite(state, "the state of the run is", f"{path} stays as it was: go on from it with a lower --lr")
    try:
        with replacing(path) as unfinished:
            with unfinished.open("wb") as file:
                torch.save(state, file)
            if not _is_whole(unfinished):
                raise OSError("it reads back damaged")
            flush(unfinished)  # from here on only names change
            if path.exists():
                os.replace(path, path.with_name(PREVIOUS))
    except (OSError, RuntimeError) as error:  # torch's writer turns errors of the disk into its own
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be written ({reason}); the last one is kept: make room and go on with --resume "
            f"{path.parent}"
        ) from None


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, or if that is damaged the one before it, which a line says.

    Nothing but tensors and plain values is ever unpickled. Raises UserError if there is none that can be used.
    """
    found = [file for file in (path, path.with_name(PREVIOUS)) if file.is_file()]
    if not found:
        raise UserError(f"there is no checkpoint {path}; name a run's folder that has one, or start without --resume")
    reasons = []
    for file in found:
        try:
            state = _load(file, device)
        except UserError as error:
            reasons.append(str(error))
            continue
        if file != path:
            tell(f"{reasons[0] if reasons else f'{path} is missing'}; going on from {file.name}, the one before it")
        return state
    raise UserError(f"{'; '.join(reasons)}; name another run, or start without --resume")


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    """The state in one file; raises UserError without what to do."""
    if not _is_whole(path):
        raise UserError(f"{path} cannot be read (it is damaged)")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise TypeError("expected values by name")
        if not _is_plain(state, MOST_TIMES * path.stat().st_size):
            raise TypeError("expected plain values and dense tensors")
    except Exception as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__})") from error
    require_finite(state, f"{path} is", "it cannot be used")
    return state


def _is_plain(state: Any, most_bytes: int) -> bool:
    """Whether a state is made of plain values and dense tensors, is nowhere nested without end, and has tensors of at
    most `most_bytes`: a few stored bytes can stand for a huge tensor, or for a list that holds itself."""
    values, count, size = [state], 0, 0
    for _ in range(MOST_DEPTH):
        inner: list[Any] = []
        for value in values:
            if isinstance(value, Tensor):
                size += value.numel() * value.element_size()
                if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
                    return False
                if value.is_complex() or (value.is_floating_point() and value.dtype not in FLOATS):
                    return False
            elif isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, (list, tuple)):
                inner += value
            elif not (value is None or isinstance(value, (bool, int, float, str))):
                return False
            if size > most_bytes or count + len(inner) > MOST_VALUES:
                return False
        if not inner:
            return True
        values, count = inner, count + len(inner)
    return False


def _is_whole(path: Path) -> bool:
    """Whether every part of the archive has its checksum, which torch does not compare when it reads, and is stored as
    it is, in bytes of its own: compressed parts, or parts that share their bytes, could be of any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            fits = sum(part.file_size for part in parts) <= path.stat().st_size
            return stored and fits and archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError):
        return False
