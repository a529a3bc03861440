"""Polygons (K, 2), y down: the shapes that sprites are made of, and a sprite, which is colored polygons with words.

A sprite is drawn in its own units and then warped to pixels. Canvases are drawn at `SUPERSAMPLING` times the size.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from pix2seq.scenes.colors import Color

SUPERSAMPLING = 2  # drawn at twice the size: smooth edges, and outlines finer than a pixel
SHIFT_BITS = 4  # OpenCV's sub-pixel coordinates: 1/16 px


def box(x0: float, y0: float, x1: float, y1: float, cut: float = 0.0) -> np.ndarray:
    """A rectangle, with corners cut off by `cut` so that it looks rounded."""
    if not cut:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    a, b = cut, cut * 0.3
    corners = [(x0, y0 + a), (x0 + b, y0 + b), (x0 + a, y0), (x1 - a, y0), (x1 - b, y0 + b), (x1, y0 + a)]
    return np.array(corners + [(x, y0 + y1 - y) for x, y in reversed(corners)])


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> np.ndarray:
    """An ellipse, or the arc of it from `start` to `stop` degrees (0 is right, 90 is down)."""
    angles = np.radians(np.linspace(start, stop, max(4, int(36 * (stop - start) / 360))))
    return np.column_stack([x + rx * np.cos(angles), y + ry * np.sin(angles)])


def hull(*shapes: np.ndarray) -> np.ndarray:
    return cv2.convexHull(np.concatenate(shapes).astype(np.float32))[:, 0].astype(float)


def capsule(start: np.ndarray, stop: np.ndarray, r0: float, r1: float | None = None) -> np.ndarray:
    """A limb: the hull of a circle at `start` and one at `stop`."""
    r1 = r0 if r1 is None else r1
    return hull(ellipse(*start, r0, r0), ellipse(*stop, r1, r1))


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Pixels to OpenCV's fixed-point coordinates of the supersampled canvas, whose whole numbers are pixel centers."""
    return np.round((points * SUPERSAMPLING - 0.5) * (1 << SHIFT_BITS)).astype(np.int32)


def whole_pixels(points: np.ndarray) -> np.ndarray:
    return np.round(points).astype(np.int32)


@dataclass
class Sprite:
    """An object in its own units, y down: layers painted in order, and phrases for captions."""

    layers: list[tuple[np.ndarray, Color]] = field(default_factory=list)
    keypoints: np.ndarray | None = None  # (17, 3) x, y, v with v = 1 if the person's own body hides the joint
    phrase: str = ""
    action: str = "standing"

    def add(self, points: object, color: Color) -> None:
        self.layers.append((np.asarray(points, float), color))

    def warped(self, matrix: np.ndarray) -> "Sprite":
        """The sprite under a 2x3 affine `matrix`."""
        layers = [(points @ matrix[:, :2].T + matrix[:, 2], color) for points, color in self.layers]
        keypoints = self.keypoints
        if keypoints is not None:
            keypoints = np.column_stack([keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2], keypoints[:, 2]])
        return Sprite(layers, keypoints, self.phrase, self.action)

    def bounds(self) -> np.ndarray:
        """x0, y0, x1, y1."""
        points = np.concatenate([points for points, _ in self.layers])
        return np.concatenate([points.min(0), points.max(0)])


def silhouette(sprite: Sprite, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for points, _ in sprite.layers:
        cv2.fillPoly(mask, [fixed_point(points)], 255, cv2.LINE_8, SHIFT_BITS)
    return mask
