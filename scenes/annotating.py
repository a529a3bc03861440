"""COCO's annotations of an object: polygons around its visible pixels, their box and area, and keypoints."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pix2seq.scenes.kinds import Kind
from pix2seq.scenes.shapes import SUPERSAMPLING, Sprite

MIN_PART_PX = 8
TOLERANCE_PX = (0.3, 0.8)  # between an outline and its polygon, for the smallest and the largest objects


@dataclass
class Placed:
    """A sprite in pixels and its visible part: `mask` (2H, 2W) uint8, supersampled, and its polygons."""

    kind: Kind
    sprite: Sprite
    mask: np.ndarray
    polygons: list[np.ndarray]


@dataclass
class SceneObject:
    """One annotated object: `polygons` [(K, 2)] xy in pixels, `bbox` xywh, `keypoints` (17, 3) x, y, v or None."""

    category_id: int
    polygons: list[np.ndarray]
    bbox: tuple[float, float, float, float]
    area: float
    keypoints: np.ndarray | None


def annotate(item: Placed) -> SceneObject:
    points = np.concatenate(item.polygons)
    x0, y0 = points.min(0)
    x1, y1 = points.max(0)
    bbox = tuple(round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0))
    area = round(polygon_area(item.polygons), 2)
    return SceneObject(item.kind.category_id, item.polygons, bbox, area, visible_keypoints(item))


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons [(K, 2)] in pixels around a supersampled mask (2H, 2W), the largest first.

    OpenCV's contours run through pixel centers. On a mask that is enlarged twice and dilated by one pixel to the right
    and below, these are the edges of the mask's own pixels.
    """
    if not mask.any():
        return []
    x, y, width, height = cv2.boundingRect(mask)
    cutout = open_holes(mask[y : y + height, x : x + width])
    enlarged = cv2.resize(cutout, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    grown = cv2.dilate(np.pad(enlarged, (0, 1)), np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    scale = 2 * SUPERSAMPLING
    polygons = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        if (area_px := cv2.contourArea(contour) / scale**2) >= MIN_PART_PX:
            tolerance = scale * np.clip(0.03 * math.sqrt(area_px), *TOLERANCE_PX)
            polygon = cv2.approxPolyDP(contour, tolerance, True)[:, 0]
            polygons.append(np.round(polygon / scale + np.array([x, y]) / SUPERSAMPLING, 2))
    return polygons


def open_holes(mask: np.ndarray) -> np.ndarray:
    """Cut the mask from each hole straight down to the outside, since COCO's polygons have no holes."""
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    mask = mask.copy()
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        if parent >= 0 and cv2.contourArea(contour) >= 2 * MIN_PART_PX * SUPERSAMPLING**2:
            x, y = contour[contour[:, 0, 1].argmax(), 0]
            outside = np.flatnonzero(mask[y:, x] == 0)
            below = outside[outside > 1]
            mask[y : y + (below[0] if len(below) else len(mask)), x] = 0
    return mask


def polygon_area(polygons: list[np.ndarray]) -> float:
    return float(sum(cv2.contourArea(polygon.astype(np.float32)) for polygon in polygons))


def visible_keypoints(item: Placed) -> np.ndarray | None:
    """(17, 3): v = 2 in view, 1 hidden, and zeros outside the image."""
    if item.sprite.keypoints is None:
        return None
    keypoints = item.sprite.keypoints.round(2)
    height, width = item.mask.shape
    for row in keypoints:
        x, y = np.floor(row[:2] * SUPERSAMPLING).astype(int)
        if not (0 <= x < width and 0 <= y < height):
            row[:] = 0
        elif not item.mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any():
            row[2] = 1
    return keypoints
