"""Where the synthetic scenes are kept."""

from __future__ import annotations

from pathlib import Path

from pix2seq.runtime.paths import cache_folder

VERSION = 1  # of what is drawn: whoever changes a pixel or a word gives it a new number


def scenes_root(seed: int) -> Path:
    """The folder in which the scenes of a seed are kept one by one, however many of them a run asks for."""
    return cache_folder() / f"scenes_seed{seed}_v{VERSION}"
