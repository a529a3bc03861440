"""What runs on a GPU that torch can use (CUDA); elsewhere each of these tests is skipped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pix2seq.runtime.device import pick_device
from pix2seq.runtime.paths import ROOT


@pytest.fixture(scope="session", autouse=True)
def gpu() -> torch.device:
    """The first GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU is here that torch can use")
    return pick_device("cuda")


def read(path: Path) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB."""
    return np.array(Image.open(path).convert("RGB"))


@pytest.fixture(scope="session")
def drawn(scenes_root: Path) -> list[np.ndarray]:
    """Six drawn scenes, with different numbers of objects."""
    return [read(path) for path in sorted(scenes_root.rglob("*.jpg"))[:6]]


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """The pictures that the documentation shows."""
    return [read(ROOT / "images" / name) for name in ("demo.jpg", "scene.jpg")]
