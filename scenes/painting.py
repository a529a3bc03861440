"""Painting: background, shadows and sprites from the back to the front, then the camera's imperfections."""

import cv2
import numpy as np

from pix2seq.scenes.annotating import Placed
from pix2seq.scenes.backgrounds import Setting, paint_background
from pix2seq.scenes.colors import Rng, shade
from pix2seq.scenes.composing import LONG_SIDE_PX
from pix2seq.scenes.shapes import SHIFT_BITS, SUPERSAMPLING, ellipse, fixed_point, whole_pixels


def paint(rng: Rng, setting: Setting, placed: list[Placed], size_px: tuple[int, int]) -> np.ndarray:
    """The image (H, W, 3) uint8: background, shadows, sprites, and the camera's imperfections."""
    background = paint_background(rng, setting, size_px)
    background = cast_shadows(background, placed)
    canvas = cv2.resize(background, None, fx=SUPERSAMPLING, fy=SUPERSAMPLING, interpolation=cv2.INTER_LINEAR)
    for item in placed:
        for points, color in item.sprite.layers:
            corners = [fixed_point(points)]
            cv2.fillPoly(canvas, corners, color, cv2.LINE_AA, SHIFT_BITS)
            cv2.polylines(canvas, corners, True, shade(color, 0.72), 1, cv2.LINE_AA, SHIFT_BITS)
    image = cv2.resize(canvas, size_px, interpolation=cv2.INTER_AREA)
    return develop(rng, image)


def cast_shadows(background: np.ndarray, placed: list[Placed]) -> np.ndarray:
    """Darken the ground under the objects that stand on it."""
    shadow = np.zeros(background.shape[:2], np.uint8)
    for item in placed:
        if not item.kind.in_sky:
            x0, _, x1, y1 = item.sprite.bounds()
            radius = (x1 - x0) / 2
            outline = ellipse((x0 + x1) / 2, y1 - 0.05 * radius, 1.05 * radius, 0.16 * radius)
            cv2.fillPoly(shadow, [whole_pixels(outline)], 90)
    shadow = cv2.blur(shadow, (5, 5))
    return cv2.multiply(background, cv2.merge([255 - shadow] * 3), scale=1 / 255)


def develop(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Apply exposure, white balance, sometimes a slight blur, and sensor noise."""
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * max(image.shape) / LONG_SIDE_PX)
    gain = (rng.uniform(0.82, 1.12) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
    noise = rng.uniform(0, 6) * rng.standard_normal(image.shape[:2], dtype=np.float32)
    return np.clip(image * gain + noise[:, :, None], 0, 255).astype(np.uint8)
