"""Random augmentation of training images: placement on the canvas, and colors.

All movement is part of the Geometry that is returned here; color operations move no pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pix2seq.config import DataCFG
from pix2seq.dataset.geometry import Geometry

LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Jitter:
    """Ranges of random placement: scale factors, probability of a mirrored canvas, largest angle in degrees.

    With `corner`, as in the official code, images smaller than the canvas are placed in its upper left, and larger ones
    are cropped, at the same random fraction of the excess on both axes. Otherwise images are scaled around a random
    point of the canvas.
    """

    min_scale: float
    max_scale: float
    flip: float
    rotation: float
    corner: bool

    @classmethod
    def of_images(cls, data: DataCFG) -> Jitter:
        """For canvases that show a whole image."""
        return cls(data.min_scale, data.max_scale, data.flip, 0.0, data.placement == "corner")

    @classmethod
    def of_prompts(cls, data: DataCFG) -> Jitter:
        """For canvases that show a prompted instance."""
        scales = data.crop_min_scale, data.crop_max_scale
        return cls(*scales, data.crop_flip, data.crop_rotation, data.placement == "corner")

    def place(self, geometry: Geometry, extent: tuple[float, float], rng: np.random.Generator) -> tuple[Geometry, bool]:
        """`geometry` after random changes, and whether it is mirrored.

        `extent` (x, y) is the size of the used part of the canvas before the changes, in pixels from the upper left.
        """
        flipped = bool(rng.random() < self.flip)
        scale = rng.uniform(self.min_scale, self.max_scale)
        if self.rotation:
            angle = rng.uniform(-self.rotation, self.rotation)
            geometry = geometry.rotate(angle, (extent[0] / 2, extent[1] / 2))
        if self.corner:
            mirrored = geometry.flip(extent[0]) if flipped else geometry
            overhang = np.maximum(np.array(extent) * scale - geometry.size, 0)
            return mirrored.zoom(scale, (0, 0)).shift(*-np.floor(overhang * rng.random())), flipped
        geometry = geometry.zoom(scale, tuple(rng.uniform(0, geometry.size, 2)))
        return (geometry.flip() if flipped else geometry), flipped


def jitter_box(box: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """A box (4,) with normally distributed errors, in fractions of its sides, like those of a detector."""
    sides = np.tile(box[2:] - box[:2], 2)
    return box + rng.normal(0, deviation, 4).clip(-0.3, 0.3) * sides


def jitter_colors(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and saturation of (H, W, 3) gray levels, uint8 or float32, each by a factor of at
    most 1 ± `amount`."""
    if amount == 0:
        return image
    brightness, contrast, saturation = 1 + amount * rng.uniform(-1, 1, 3)
    # One matrix: saturation mixes a pixel with its gray, contrast mixes it with the image's mean gray.
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    shift = brightness * (1 - contrast) * (LUMA @ cv2.mean(image)[:3])
    return np.clip(cv2.transform(image, np.column_stack([matrix, np.full(3, shift)])), 0, 255)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, change: kind(image).enhance(1 + change)


# RandAugment's operations on colors (Cubuk et al., 2019), of an image and a strength from -0.9 to 0.9, whose sign is
# the direction of the change if the operation has one.
COLOR_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, _: image,
    lambda image, _: ImageOps.autocontrast(image),
    lambda image, _: ImageOps.equalize(image),
    lambda image, strength: ImageOps.posterize(image, 8 - round(abs(strength) / 0.9 * 4)),
    lambda image, strength: ImageOps.solarize(image, round(255 * (1 - abs(strength) / 0.9))),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Sharpness),
)


def rand_augment(image: np.ndarray, count: int, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """RandAugment with color operations only: `count` random ones in sequence on (H, W, 3) uint8.

    `magnitude` is 0 (no change by operations that have a strength) to 30. Apply it before padding, which would change
    the histograms that some operations equalize or stretch.
    """
    if count == 0:
        return image
    changed = Image.fromarray(image)
    for operation in rng.integers(len(COLOR_OPERATIONS), size=count):
        changed = COLOR_OPERATIONS[operation](changed, rng.choice([-1, 1]) * 0.9 * magnitude / 30)
    return np.asarray(changed)
