"""The one affine map from a picture's pixels to the model's square canvas, and its inverse.

Points are x y in COCO's continuous convention: pixel i covers [i, i + 1). No other code rescales a box.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Geometry:
    """`matrix` (2, 3) takes picture points to points on a canvas of `size` × `size` pixels."""

    matrix: np.ndarray
    size: int

    @classmethod
    def letterbox(cls, width: int, height: int, size: int) -> Geometry:
        """The whole picture, aspect kept, in the canvas's upper left corner; each side is rounded to whole pixels."""
        scale = size / max(width, height)
        scale_x, scale_y = max(round(width * scale), 1) / width, max(round(height * scale), 1) / height
        return cls(np.array([[scale_x, 0, 0], [0, scale_y, 0]], dtype=np.float64), size)

    @classmethod
    def crop(cls, box: np.ndarray, padding: float, size: int) -> Geometry:
        """A square around `box` (x1 y1 x2 y2), `padding` times its longer side wider on each side."""
        x1, y1, x2, y2 = (float(value) for value in box)
        scale = size / (max(x2 - x1, y2 - y1, 1.0) * (1 + 2 * padding))
        shift_x, shift_y = size / 2 - scale * (x1 + x2) / 2, size / 2 - scale * (y1 + y2) / 2
        return cls(np.array([[scale, 0, shift_x], [0, scale, shift_y]], dtype=np.float64), size)

    def flip(self) -> Geometry:
        """Mirrored left to right on the canvas."""
        return self._then(np.array([[-1, 0, self.size], [0, 1, 0]], dtype=np.float64))

    def zoom(self, scale: float, center: tuple[float, float]) -> Geometry:
        """Magnified by `scale` around the canvas point `center` (x, y)."""
        x, y = center
        return self._then(np.array([[scale, 0, x - scale * x], [0, scale, y - scale * y]]))

    def _then(self, step: np.ndarray) -> Geometry:
        linear, shift = step[:, :2], step[:, 2]
        matrix = linear @ self.matrix
        matrix[:, 2] += shift
        return Geometry(matrix, self.size)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Canvas points (…, 2) of picture points (…, 2)."""
        return np.asarray(points) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def invert(self, points: np.ndarray) -> np.ndarray:
        """Picture points (…, 2) of canvas points (…, 2)."""
        return (np.asarray(points) - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Canvas boxes (n, 4) x1 y1 x2 y2 of picture boxes, not clipped."""
        return _ordered(self.apply(np.reshape(boxes, (-1, 2, 2))))

    def invert_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Picture boxes (n, 4) x1 y1 x2 y2 of canvas boxes, not clipped."""
        return _ordered(self.invert(np.reshape(boxes, (-1, 2, 2))))

    def to_fractions(self, points: np.ndarray) -> np.ndarray:
        """Canvas fractions (…, 2) y x, as tokens have them, of picture points (…, 2) x y."""
        return self.apply(points)[..., ::-1] / self.size

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Picture points (…, 2) x y of canvas fractions (…, 2) y x."""
        return self.invert(np.asarray(fractions, dtype=np.float64)[..., ::-1] * self.size)

    def box_fractions(self, boxes: np.ndarray) -> np.ndarray:
        """Canvas fractions (n, 4) y1 x1 y2 x2, not clipped, of picture boxes (n, 4) x1 y1 x2 y2."""
        return self.apply_boxes(boxes)[:, [1, 0, 3, 2]] / self.size

    def boxes_from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Picture boxes (n, 4) x1 y1 x2 y2 of canvas fractions (n, 4) y1 x1 y2 x2."""
        return self.invert_boxes(np.reshape(fractions, (-1, 4))[:, [1, 0, 3, 2]].astype(np.float64) * self.size)

    def warp(self, image: np.ndarray, pad_value: float) -> np.ndarray:
        """The canvas (size, size, 3) uint8 of a picture (H, W, 3) uint8, `pad_value` (0 to 1) outside the picture.

        Bilinear; a picture that shrinks to less than half is first averaged down, so that no detail turns to noise.
        """
        matrix = self.matrix.copy()
        shrink = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        if shrink < 0.5:
            height, width = image.shape[:2]
            smaller = (max(round(width * shrink), 1), max(round(height * shrink), 1))
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
            matrix[:, :2] *= np.array([width / smaller[0], height / smaller[1]])
        matrix[:, 2] += (matrix[:, :2] @ [0.5, 0.5]) - 0.5  # OpenCV counts from pixel centres
        pad = (round(pad_value * 255),) * 3
        return cv2.warpAffine(image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderValue=pad)


def _ordered(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def visible_share(boxes: np.ndarray) -> np.ndarray:
    """Share (n,) of each box (n, 4) in canvas fractions that lies inside the canvas; 0 for an empty box."""
    inside = np.clip(boxes, 0, 1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    visible = np.prod(inside[:, 2:] - inside[:, :2], axis=1)
    return np.where(area > 0, visible / np.maximum(area, 1e-12), 0)


def resample_polygons(polygons: list[np.ndarray], max_points: int) -> list[np.ndarray]:
    """Polygons [(K, 2)] with at most `max_points` points together: corners are kept, small detail goes first.

    Ramer, Douglas and Peucker's simplification with a growing tolerance; of too many polygons the largest are kept.
    """
    extents = np.array([np.ptp(polygon, axis=0).max() for polygon in polygons])
    if len(polygons) > max_points // 3:
        polygons = [polygons[index] for index in sorted(np.argsort(-extents)[: max_points // 3])]
    tolerance = 0.002 * extents.max()
    while sum(len(polygon) for polygon in polygons) > max_points:
        polygons = [_simplify(polygon, tolerance) for polygon in polygons]
        tolerance *= 1.4
    return polygons


def _simplify(polygon: np.ndarray, tolerance: float) -> np.ndarray:
    corners = cv2.approxPolyDP(polygon.astype(np.float32), tolerance, closed=True)[:, 0].astype(np.float64)
    return corners if len(corners) >= 3 else polygon[np.linspace(0, len(polygon) - 1, 3).round().astype(int)]
