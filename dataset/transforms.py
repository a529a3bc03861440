"""Random changes to training pictures: placement on the canvas, and colours."""

from __future__ import annotations

import numpy as np

from config import DataCFG
from dataset.geometry import Geometry

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def jitter_geometry(geometry: Geometry, cfg: DataCFG, flip: bool, rng: np.random.Generator) -> Geometry:
    """`geometry` zoomed by up to `scale_jitter` around a random point, and mirrored if `flip`."""
    scale = 1 + cfg.scale_jitter * rng.uniform(-1, 1)
    geometry = geometry.zoom(scale, tuple(rng.uniform(0, geometry.size, 2)))
    return geometry.flip() if flip else geometry


def jitter_box(box: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """A box (4,) whose edges moved by a normal deviation, in fractions of its sides: what a detector might say."""
    sides = np.tile(box[2:] - box[:2], 2)
    return box + rng.normal(0, deviation, 4).clip(-0.3, 0.3) * sides


def jitter_colors(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of (H, W, 3) uint8, each changed by a factor of 1 ± `amount` at most."""
    if amount == 0:
        return image
    brightness, contrast, saturation = 1 + amount * rng.uniform(-1, 1, 3).astype(np.float32)
    pixels = image.astype(np.float32)
    grey = pixels @ LUMA
    mean = grey.mean()
    # One pass: saturation mixes a pixel with its grey, contrast mixes it with the picture's mean grey.
    pixels = contrast * (saturation * pixels + ((1 - saturation) * grey)[..., None]) + (1 - contrast) * mean
    return np.clip(pixels * brightness, 0, 255).astype(np.uint8)
