"""The affine map from an image's pixels to the model's square canvas, and its inverse.

Points are x y in COCO's continuous convention: pixel i covers [i, i + 1). All boxes and points are scaled here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from pix2seq.config import ModelCFG

UNIT = (0, 0, 1, 1)  # the canvas in canvas fractions, as a box
ROWS_AT_ONCE = 32  # new rows that are made by one product of matrices, most of whose weights are 0


@dataclass(frozen=True)
class Geometry:
    """`matrix` (2, 3) takes image points to points on a canvas of `size` × `size` pixels.

    Only the part `region` of the image, x1 y1 x2 y2 in whole pixels, is on the canvas; None: everything that fits.
    """

    matrix: np.ndarray
    size: int
    region: tuple[int, int, int, int] | None = None

    @classmethod
    def letterbox(cls, width: int, height: int, size: int) -> Geometry:
        """The whole image, aspect kept, in the canvas's upper left corner; each side is rounded to whole pixels.

        In float32 as by `tf.image.resize(preserve_aspect_ratio=True)`, so that halves are rounded to the same side.
        """
        sides = np.array([width, height], np.float32)
        scaled = np.maximum(np.round(sides * (np.float32(size) / sides).min()), 1)
        scale_x, scale_y = scaled.astype(np.float64) / sides
        return cls(np.array([[scale_x, 0, 0], [0, scale_y, 0]], dtype=np.float64), size)

    @classmethod
    def crop(cls, box: np.ndarray, padding: float, size: int) -> Geometry:
        """A square around `box` (x1 y1 x2 y2), with a margin of `padding` times its longer side on each side."""
        x1, y1, x2, y2 = (float(value) for value in box)
        scale = size / (max(x2 - x1, y2 - y1, 1.0) * (1 + 2 * padding))
        shift_x, shift_y = size / 2 - scale * (x1 + x2) / 2, size / 2 - scale * (y1 + y2) / 2
        return cls(np.array([[scale, 0, shift_x], [0, scale, shift_y]], dtype=np.float64), size)

    @classmethod
    def crop_inside(cls, box: np.ndarray, padding: float, width: int, height: int, size: int) -> Geometry:
        """The part of the image around `box` (x1 y1 x2 y2), in the canvas's upper left corner; the rest is padding.

        It has a margin of `padding` times the box's own sides on each side, but ends at the image's edge. Rounding is
        that of the official code: the box's first and last pixel are counted as if the image had one pixel less, in
        float32, and the margin is that of all pixels from the first to the last, rounded down.
        """
        sides = np.array([width, height])
        fractions = np.clip(np.reshape(box, (2, 2)) / sides, 0, 1)
        corners = fractions.astype(np.float32) * (sides - 1).astype(np.float32)
        first, last = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
        margin = ((last - first + 1).astype(np.float32) * np.float32(padding)).astype(int)
        first, end = np.maximum(first - margin, 0), np.minimum(last + margin + 1, sides)
        geometry = cls.letterbox(*(end - first), size)
        geometry.matrix[:, 2] = -geometry.matrix[:, :2] @ first
        return replace(geometry, region=tuple(np.concatenate([first, end]).tolist()))

    @classmethod
    def for_instance(cls, box: np.ndarray, image: np.ndarray, cfg: ModelCFG, size: int) -> Geometry:
        """The crop of `image` (H, W, 3) on which a model with settings `cfg` is prompted with `box` (x1 y1 x2 y2)."""
        if cfg.crop_inside:
            return cls.crop_inside(box, cfg.crop_padding, image.shape[1], image.shape[0], size)
        return cls.crop(box, cfg.crop_padding, size)

    def flip(self, width: float | None = None) -> Geometry:
        """Mirrored left to right on the canvas, or on its first `width` pixels."""
        return self._then(np.array([[-1, 0, self.size if width is None else width], [0, 1, 0]], dtype=np.float64))

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right are exchanged."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    def zoom(self, scale: float, center: tuple[float, float]) -> Geometry:
        """Magnified by `scale` around the canvas point `center` (x, y)."""
        x, y = center
        return self._then(np.array([[scale, 0, x - scale * x], [0, scale, y - scale * y]]))

    def shift(self, x: float, y: float) -> Geometry:
        """Moved by x and y canvas pixels."""
        return self._then(np.array([[1, 0, x], [0, 1, y]], dtype=np.float64))

    def rotate(self, angle: float, center: tuple[float, float]) -> Geometry:
        """Rotated clockwise by `angle` degrees around the canvas point `center` (x, y)."""
        (x, y), turn = center, np.deg2rad(angle)
        cos, sin = np.cos(turn), np.sin(turn)
        return self._then(np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]))

    @property
    def is_turned(self) -> bool:
        """Whether the sides of a box are no longer parallel to the sides of the canvas."""
        return bool(self.matrix[0, 1] or self.matrix[1, 0])

    def _then(self, step: np.ndarray) -> Geometry:
        linear, shift = step[:, :2], step[:, 2]
        matrix = linear @ self.matrix
        matrix[:, 2] += shift
        return replace(self, matrix=matrix)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Canvas points (…, 2) of image points (…, 2)."""
        return np.asarray(points) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def shows(self, points: np.ndarray) -> np.ndarray:
        """Whether each image point (…, 2) is visible on the canvas (…)."""
        points, placed = np.asarray(points), self.apply(points)
        shown = ((placed >= 0) & (placed <= self.size)).all(axis=-1)
        if self.region is None:
            return shown
        return shown & ((points >= self.region[:2]) & (points <= self.region[2:])).all(axis=-1)

    def invert(self, points: np.ndarray) -> np.ndarray:
        """Image points (…, 2) of canvas points (…, 2)."""
        return (np.asarray(points) - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Canvas boxes (n, 4) x1 y1 x2 y2 of image boxes, not clipped.

        A rotated box becomes the box of its rotated inscribed ellipse: few objects fill the corners of their boxes,
        so the box of the rotated corners is too large (Kalra et al., Towards Rotation Invariance in Object Detection,
        2021).
        """
        corners = np.reshape(boxes, (-1, 2, 2))
        if not self.is_turned:
            return _ordered(self.apply(corners))
        center = self.apply(corners.mean(axis=1))
        reach = np.sqrt((np.ptp(corners, axis=1) / 2) ** 2 @ (self.matrix[:, :2] ** 2).T)
        return np.concatenate([center - reach, center + reach], axis=1)

    def invert_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Image boxes (n, 4) x1 y1 x2 y2 of canvas boxes, not clipped."""
        return _ordered(self.invert(np.reshape(boxes, (-1, 2, 2))))

    def to_fractions(self, points: np.ndarray) -> np.ndarray:
        """Canvas fractions (…, 2) y x, in the order of tokens, of image points (…, 2) x y."""
        return self.apply(points)[..., ::-1] / self.size

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Image points (…, 2) x y of canvas fractions (…, 2) y x."""
        return self.invert(np.asarray(fractions, dtype=np.float64)[..., ::-1] * self.size)

    def box_fractions(self, boxes: np.ndarray) -> np.ndarray:
        """Canvas fractions (n, 4) y1 x1 y2 x2, not clipped, of image boxes (n, 4) x1 y1 x2 y2."""
        return self.apply_boxes(boxes)[:, [1, 0, 3, 2]] / self.size

    def boxes_from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Image boxes (n, 4) x1 y1 x2 y2 of canvas fractions (n, 4) y1 x1 y2 x2."""
        return self.invert_boxes(np.reshape(fractions, (-1, 4))[:, [1, 0, 3, 2]].astype(np.float64) * self.size)

    def warp(self, image: np.ndarray, pad_value: float, pixels: str = "uint8") -> np.ndarray:
        """The canvas (size, size, 3) of an image (H, W, 3) uint8, `pad_value` (0 to 1) outside the image; see `blank`.

        Interpolation is bilinear, with antialiasing where the image shrinks, as in TensorFlow's antialiased resizing. A
        canvas pixel that the image does not cover completely is padding.
        """
        canvas = blank(self.size, pad_value, pixels)
        if self.is_turned:
            image, pad = image.astype(canvas.dtype, copy=False), float(canvas[0, 0, 0])
            return self._warp_turned(image, self._region(image), pad)
        self.paint(image, canvas)
        return canvas

    def paint(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Change the pixels of `canvas` (H', W', 3), of any size, that an image (H, W, 3) uint8 covers completely.

        It is the part of the canvas from its upper left corner on; the image must not be turned. See `warp`.
        """
        region, sides = self._region(image), canvas.shape[1::-1]
        covered = np.clip(self.apply_boxes(region).reshape(2, 2), 0, sides)
        target = np.stack([np.ceil(covered[0] - 1e-6), np.floor(covered[1] + 1e-6)]).astype(int)
        (x1, y1), (x2, y2) = target
        if x2 <= x1 or y2 <= y1:
            return
        source = np.clip(self.invert_boxes(target).reshape(2, 2), *region)
        reach = np.maximum(1 / np.abs(self.matrix.diagonal()), 1) + 1  # image pixels that a canvas pixel depends on
        first = np.maximum(np.floor(source[0] - reach), region[0]).astype(int)
        end = np.minimum(np.ceil(source[1] + reach), region[1]).astype(int)
        part = image[first[1] : end[1], first[0] : end[0]].astype(canvas.dtype, copy=False)
        part = _resize(part, (x2 - x1, y2 - y1), (source - first).ravel().tolist())
        canvas[y1:y2, x1:x2] = part[:, :: int(np.sign(self.matrix[0, 0]))]

    def _region(self, image: np.ndarray) -> np.ndarray:
        """The corners (2, 2) x y of the image's part that may be on the canvas."""
        return np.reshape(self.region or (0, 0, image.shape[1], image.shape[0]), (2, 2))

    def _warp_turned(self, image: np.ndarray, region: np.ndarray, pad: float) -> np.ndarray:
        (x1, y1), (x2, y2) = region
        image, matrix = image[y1:y2, x1:x2], self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ region[0]
        shrink = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        if shrink < 0.5:
            height, width = image.shape[:2]
            smaller = (max(round(width * shrink), 1), max(round(height * shrink), 1))
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
            matrix[:, :2] *= np.array([width / smaller[0], height / smaller[1]])
        matrix[:, 2] += (matrix[:, :2] @ [0.5, 0.5]) - 0.5  # OpenCV counts from pixel centers
        return cv2.warpAffine(image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderValue=(pad,) * 3)


def blank(size: int, pad_value: float, pixels: str) -> np.ndarray:
    """A canvas (size, size, 3) of padding, in gray levels from 0 to 255: whole ones if `pixels` is uint8, not rounded
    if it is float32."""
    level = pad_value * 255
    return np.full((size, size, 3), round(level) if pixels == "uint8" else level, pixels)


def _resize(image: np.ndarray, sides: tuple[int, int], box: list[float]) -> np.ndarray:
    """The part `box` (4,) x1 y1 x2 y2 of an image (H, W, 3), uint8 or float32, in `sides` (width, height) pixels."""
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize(sides, Image.Resampling.BILINEAR, box))
    for count, low, high in ((sides[1], box[1], box[3]), (sides[0], box[0], box[2])):
        image = np.ascontiguousarray(_resize_rows(image, count, low, high).swapaxes(0, 1))
    return image


def _resize_rows(image: np.ndarray, count: int, low: float, high: float) -> np.ndarray:
    """`count` rows of an image (H, W, 3) float32 for its part from `low` to `high`, in rows.

    Weights are computed in float32 as in TensorFlow's core/kernels/image/scale_and_translate_op.cc: on a photograph its
    positions are off by a ten-thousandth of a pixel, which can be seen beside exact ones.
    """
    single = np.float32
    step = 1 / (single(count) / single(high - low))  # image rows for each new one
    reach = np.maximum(step, single(1))
    centers = (np.arange(count, dtype=single) + single(0.5)) * step + single(low)
    rows = np.empty((count, *image.shape[1:]), single)
    for start in range(0, count, ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        first = max(math.floor(centers[block][0] - reach), 0)
        part = image[first : math.ceil(centers[block][-1] + reach)]
        distances = np.arange(first, first + len(part)).astype(single) + single(0.5) - centers[block, None]
        weights = np.maximum(1 - np.abs(distances) * (1 / reach), 0)
        weights *= 1 / weights.sum(axis=1, keepdims=True)
        rows[block] = np.tensordot(weights, part, 1)
    return rows


def _ordered(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def visible_share(boxes: np.ndarray, frame: Sequence[float] = UNIT) -> np.ndarray:
    """Share (n,) of each box (n, 4) that lies in `frame` (4,), the canvas in canvas fractions; 0 for an empty box."""
    inside = np.clip(boxes, np.tile(frame[:2], 2), np.tile(frame[2:], 2))
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    visible = np.prod(inside[:, 2:] - inside[:, :2], axis=1)
    return np.where(area > 0, visible / np.maximum(area, 1e-12), 0)


def clip_polygon(polygon: np.ndarray, frame: Sequence[float] = UNIT) -> np.ndarray:
    """The part (K', 2) of a polygon (K, 2) inside `frame` (4,), the canvas in canvas fractions (Sutherland & Hodgman,
    1974)."""
    for axis, side in ((0, 0), (0, 1), (1, 0), (1, 1)):
        edge = frame[axis + 2 * side]
        depth = polygon[:, axis] - edge if side == 0 else edge - polygon[:, axis]
        if (depth >= 0).all():
            continue
        following, depth_there = np.roll(polygon, -1, axis=0), np.roll(depth, -1)
        crosses = (depth >= 0) != (depth_there >= 0)
        share = depth / np.where(crosses, depth - depth_there, 1)
        crossing = polygon + share[:, None] * (following - polygon)
        polygon = np.stack([polygon, crossing], axis=1)[np.stack([depth >= 0, crosses], axis=1)]
    return polygon


def resample_polygons(polygons: list[np.ndarray], max_points: int) -> list[np.ndarray]:
    """Polygons [(K, 2)] simplified to at most `max_points` points in total.

    The Ramer-Douglas-Peucker algorithm with a growing tolerance; of too many polygons the largest are kept.
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
