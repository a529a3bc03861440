"""Where the drawn scenes live."""

from __future__ import annotations

from pathlib import Path

from pix2seq.config import CFG
from pix2seq.runtime.paths import cache_folder


def scenes_root(cfg: CFG) -> Path:
    """Where the drawn images of these settings live."""
    data = cfg.data
    return cache_folder() / f"scenes_{data.scenes_train}_{data.scenes_val}_seed{data.scenes_seed}"
