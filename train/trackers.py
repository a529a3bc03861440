"""A run's numbers and images in a tracker, which shows many runs beside each other: trackio or wandb.

Both packages have the same functions. Neither sends anything by itself: trackio keeps runs in a folder of its own, and
wandb is told to keep them in the run folder unless `WANDB_MODE` is set.
"""

from __future__ import annotations

import importlib
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pix2seq.config import CFG, FIELDS, GROUP_OF, value_of
from pix2seq.errors import UserError, plain
from pix2seq.runtime.console import tell
from pix2seq.runtime.extras import require_extra
from pix2seq.runtime.files import write_whole
from pix2seq.runtime.run_folder import TRACKED_AS
from pix2seq.runtime.text import read_text

PROJECT = "pix2seq"
NAME = re.compile(r"[A-Za-z0-9_.-]{0,80}-[0-9a-f]{8}")  # of a run, as it is made here
NAMED = ("preset", "task", "backbone", "backbone_kwargs", "positions_grid")  # texts that name no file and no class


class Tracker:
    """The run of a folder in the tracker of its settings; a resumed run goes on there under the name that it has."""

    def __init__(self, cfg: CFG, folder: Path) -> None:
        """Raises UserError if the tracker cannot begin."""
        kind, self.failed = cfg.train.tracker, False
        known = _name_in(folder, kind)
        self.goes_on = bool(known)  # rather than begins
        name = known or f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', folder.name)[:80]}-{secrets.token_hex(4)}"
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            self.module = importlib.import_module(kind)
            own = _of_wandb(self.module, folder, name) if kind == "wandb" else _of_trackio()
            self.run = self.module.init(project=PROJECT, name=name, config=sent_settings(cfg), resume="allow", **own)
        except Exception as error:  # whatever a tracker finds wrong with its account, its network or its files
            raise UserError(
                f"{kind} cannot begin a run ({plain(str(error)) or type(error).__name__}); mend that, or leave out "
                "--tracker"
            ) from None
        if not known:
            write_whole(folder / TRACKED_AS, f"{kind} {name}\n")

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append numbers by name."""
        self._log(step, dict(numbers))

    def add_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Append images (H, W, 3) uint8 RGB by name."""
        if pictures:
            self._log(step, {name: self.module.Image(picture) for name, picture in pictures.items()})

    def close(self) -> None:
        """Wait until everything is stored."""
        self.run.finish()

    def _log(self, step: int, values: dict[str, Any]) -> None:
        """Append values; a tracker that fails costs the training nothing, which a line says once."""
        try:
            self.run.log(values, step=step)
        except Exception as error:
            if not self.failed:
                tell(f"the tracker lacks values of step {step} ({error}); metrics.csv and TensorBoard have them all")
            self.failed = True


def require_tracker(kind: str) -> None:
    """Raise UserError if a tracker is asked for that is not installed."""
    if kind != "none":
        require_extra(kind, kind, needed_by=f"--tracker {kind}")


def sent_settings(cfg: CFG) -> dict[str, Any]:
    """The settings of a training that a tracker is told: numbers, switches, choices, and texts that name the model.
    Paths, names of files and classes, and sentences are left out."""
    names = [name for name, group in GROUP_OF.items() if group != "infer"]
    return {name: value_of(cfg, name) for name in names if name in NAMED or _is_plain(name)}


def _is_plain(name: str) -> bool:
    return FIELDS[name].type in ("int", "float", "bool") or bool(FIELDS[name].metadata["choices"])


def _name_in(folder: Path, kind: str) -> str:
    """The name that the run of a folder has in a tracker; empty if it has none there."""
    try:
        tracker, _, name = read_text(folder / TRACKED_AS).strip().partition(" ")
    except (OSError, UserError):
        return ""
    return name if tracker == kind and NAME.fullmatch(name) else ""  # trackers make folders of it


def _of_trackio() -> dict[str, Any]:
    """No page in a notebook, no figures about the machine."""
    return dict(embed=False, auto_log_gpu=False, auto_log_cpu=False)


def _of_wandb(module: Any, folder: Path, name: str) -> dict[str, Any]:
    """Files in the run folder, and nothing about the machine, its code, its packages or what it prints."""
    settings = module.Settings(
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    return dict(id=name, dir=str(folder), mode=os.environ.get("WANDB_MODE", "offline"), settings=settings)
