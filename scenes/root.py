"""The folder of the synthetic scenes."""

from __future__ import annotations

from pathlib import Path

from pix2seq.runtime.paths import cache_folder

VERSION = 1  # of the drawings: increase it with every change of a pixel or a word


def scenes_root(seed: int) -> Path:
    """The folder in which the scenes of a seed are stored one by one, however many of them a run uses."""
    return cache_folder() / f"scenes_seed{seed}_v{VERSION}"
