"""Paint on an image: boxes, masks, skeletons and tags.

Images are (H, W, 3) uint8 RGB and are painted on in place. Lines and letters grow with the image, so that it reads
alike at 320 and at 6000 pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pix2seq.dataset.skeleton import Skeleton
from pix2seq.infer.lettering import draw_text, line_metrics, text_length

Color = tuple[int, int, int]

GOLDEN_RATIO = 0.618034  # steps of this share of the color circle never come close to each other
SHIFT_BITS = 4  # OpenCV's sub-pixel coordinates: 1/16 px
MASK_OPACITY = 0.45
SIDE_COLORS = {"left": (255, 138, 0), "right": (0, 170, 255), "middle": (90, 220, 110)}
WHITE, BLACK = (255, 255, 255), (20, 20, 20)


def class_color(class_id: int) -> Color:
    """A vivid color that a class always has; classes with neighboring ids look different."""
    hue = (0.35 + class_id * GOLDEN_RATIO) % 1
    saturation, value = ((0.85, 0.85), (0.8, 1.0), (0.55, 1.0))[class_id % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def paint_box(canvas: np.ndarray, box: np.ndarray, color: Color) -> None:
    """The outline of `box` (4,) x1 y1 x2 y2, drawn inside it so that it stays in sight at the image's edge."""
    width_px = _line_px(canvas)
    inset = np.minimum(width_px / 2, (box[2:] - box[:2]) / 2)
    (x1, y1), (x2, y2) = box[:2] + inset, box[2:] - inset
    corners = _fixed_point([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    cv2.polylines(canvas, [corners], True, color, width_px, cv2.LINE_AA, SHIFT_BITS)


def paint_mask(canvas: np.ndarray, mask: np.ndarray, color: Color) -> None:
    """Blend `mask` (H, W) bool in and draw its outline."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    window = canvas[y : y + height, x : x + width]
    inside = np.ascontiguousarray(mask[y : y + height, x : x + width])
    blended = (1 - MASK_OPACITY) * window[inside] + MASK_OPACITY * np.array(color)
    window[inside] = np.round(blended).astype(np.uint8)
    contours, _ = cv2.findContours(inside.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    cv2.drawContours(canvas, contours, -1, color, _line_px(canvas), cv2.LINE_AA)


def paint_skeleton(canvas: np.ndarray, keypoints: np.ndarray, box: np.ndarray, skeleton: Skeleton) -> None:
    """Bones and points of `keypoints` (P, 3) x y v, as far as they are visible: left, right, middle differ in color.

    They are thinner where `box` (4,), that of the instance, is small.
    """
    width_px = _skeleton_px(canvas, box)
    points, visible = _fixed_point(keypoints[:, :2]), keypoints[:, 2] > 0
    sides = [skeleton.side(point) for point in range(len(skeleton))]
    bone_px, joint_px = max(1, round(width_px)), max(1.5, 1.25 * width_px)
    for one, other in skeleton.bones:
        if visible[one] and visible[other]:
            color = SIDE_COLORS[sides[one] if sides[one] == sides[other] else "middle"]
            cv2.line(canvas, points[one].tolist(), points[other].tolist(), color, bone_px, cv2.LINE_AA, SHIFT_BITS)
    for joint in np.flatnonzero(visible).tolist():
        _draw_disc(canvas, keypoints[joint, :2], joint_px + max(0.7, width_px / 4), WHITE)
        _draw_disc(canvas, keypoints[joint, :2], joint_px, SIDE_COLORS[sides[joint]])


def paint_labels(canvas: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colors: Sequence[Color]) -> None:
    """A tag at each of `boxes` (n, 4), where it covers no other tag if there is such a place."""
    taken: list[tuple[int, int, int, int]] = []
    for box, text, color in zip(boxes, texts, colors, strict=True):
        letters = _letters(text, _letter_px(canvas))
        x, y = _free_place(canvas.shape, box, letters.shape, taken)
        height, width = np.minimum(letters.shape, canvas.shape[:2])
        taken.append((x, y, x + width, y + height))
        opacity = letters[:height, :width, None]
        tag = np.array(color) * (1 - opacity) + np.array(_readable_on(color)) * opacity
        canvas[y : y + height, x : x + width] = np.round(tag)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an image; raises OSError if the disk refuses it."""
    _, data = cv2.imencode(".png", image[:, :, ::-1])
    path.write_bytes(data)


def _line_px(image: np.ndarray) -> int:
    return max(1, round(math.sqrt(image.shape[0] * image.shape[1]) / 280))


def _letter_px(image: np.ndarray) -> int:
    return max(11, round(math.sqrt(image.shape[0] * image.shape[1]) / 34))


def _skeleton_px(image: np.ndarray, box: np.ndarray) -> float:
    """Width of a bone: thinner for a small person, never thicker than suits the image."""
    return float(np.clip(max(box[2:] - box[:2]) / 70, 1, 1.5 * _line_px(image)))


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Points (…, 2) in OpenCV's fixed point; pixel i covers [i, i + 1) here and [i - ½, i + ½) there."""
    return np.round((np.asarray(points) - 0.5) * 2**SHIFT_BITS).astype(np.int32)


def _draw_disc(canvas: np.ndarray, center: np.ndarray, radius_px: float, color: Color) -> None:
    """A smooth disc; OpenCV's circles of a few pixels are rhombs."""
    size = canvas.shape[1::-1]
    x1, y1 = np.clip(np.floor(center - radius_px - 1), 0, size).astype(int)
    x2, y2 = np.clip(np.ceil(center + radius_px + 1), 0, size).astype(int)
    y, x = np.ogrid[y1:y2, x1:x2]
    distance = np.hypot(x + 0.5 - center[0], y + 0.5 - center[1])
    opacity = np.clip(radius_px + 0.5 - distance, 0, 1)[:, :, None]
    window = canvas[y1:y2, x1:x2]
    window[:] = np.round(window * (1 - opacity) + np.array(color) * opacity)


def _free_place(
    canvas_shape: tuple[int, ...], box: np.ndarray, tag_shape: tuple[int, ...], taken: list[tuple[int, int, int, int]]
) -> tuple[int, int]:
    """Upper left corner of a tag inside the image: above the box, inside it, below it, or wherever it fits."""
    height, width = tag_shape
    x1, y1, x2, y2 = np.round(box).astype(int).tolist()
    places = [(x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width)]
    limit_x, limit_y = max(canvas_shape[1] - width, 0), max(canvas_shape[0] - height, 0)
    places = [(min(max(x, 0), limit_x), min(max(y, 0), limit_y)) for x, y in places]
    covered = [sum(_overlap((x, y, x + width, y + height), other) for other in taken) for x, y in places]
    return places[int(np.argmin(covered))]


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _readable_on(color: Color) -> Color:
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return BLACK if luminance > 140 else WHITE


@lru_cache(maxsize=256)
def _letters(text: str, size_px: int) -> np.ndarray:
    """Opacity (h, w) in [0, 1] of a tag's letters, with a margin around them."""
    margin = max(2, size_px // 4)
    size = (math.ceil(text_length(text, size_px)) + 2 * margin, sum(line_metrics(text, size_px)) + margin // 2)
    tag = Image.new("L", size)
    draw_text(ImageDraw.Draw(tag), (margin, margin // 4), text, size_px, 255)
    return np.asarray(tag, dtype=np.float32) / 255
