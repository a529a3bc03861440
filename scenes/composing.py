"""Composition: the objects of an image, their positions and sizes, and which part of each is visible."""

import math

import cv2
import numpy as np

from pix2seq.scenes.annotating import Placed, polygon_area, trace
from pix2seq.scenes.backgrounds import Setting
from pix2seq.scenes.colors import Rng, choose
from pix2seq.scenes.kinds import Kind, draw_kinds
from pix2seq.scenes.shapes import SUPERSAMPLING, Sprite, silhouette

LONG_SIDE_PX = 320
MIN_VISIBLE = 0.3  # of an object's own area
MIN_AREA_PX = 30


def draw_size(rng: Rng) -> tuple[int, int]:
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    return round(LONG_SIDE_PX * min(1, aspect)), round(LONG_SIDE_PX * min(1, 1 / aspect))


def compose(rng: Rng, setting: Setting, size_px: tuple[int, int]) -> list[Placed]:
    """Place objects, from the back to the front; those that are mostly hidden are left out."""
    while True:
        candidates = [place(rng, kind, setting, size_px) for kind in draw_kinds(rng, setting.ground)]
        candidates.sort(key=lambda item: item[2])
        taken = np.zeros((SUPERSAMPLING * size_px[1], SUPERSAMPLING * size_px[0]), np.uint8)
        placed = []
        for kind, sprite, _ in reversed(candidates):
            whole = silhouette(sprite, taken.shape)
            mask = cv2.bitwise_and(whole, cv2.bitwise_not(taken))
            polygons = trace(mask)
            whole_px = cv2.countNonZero(whole) / SUPERSAMPLING**2
            if polygon_area(polygons) >= max(MIN_AREA_PX, MIN_VISIBLE * whole_px):
                placed.insert(0, Placed(kind, sprite, mask, polygons))
                taken |= whole
        if placed:
            return placed


def place(rng: Rng, kind: Kind, setting: Setting, size_px: tuple[int, int]) -> tuple[Kind, Sprite, float]:
    """A sprite of `kind` in pixels, and its lower end as a depth: nearer objects are larger and lower."""
    width, height = size_px
    sprite = kind.draw(rng)
    angle = math.radians(rng.uniform(-kind.tilt_degrees, kind.tilt_degrees))
    mirror = -1 if kind.mirrored and rng.random() < 0.5 else 1
    cos, sin = math.cos(angle), math.sin(angle)
    sprite = sprite.warped(np.array([(mirror * cos, -sin, 0), (mirror * sin, cos, 0)]))

    x0, y0, x1, y1 = sprite.bounds()
    share = math.exp(rng.uniform(math.log(1 / 12), math.log(3 / 4)))
    scale = share * max(size_px) / max(x1 - x0, y1 - y0)
    scale = min(scale, 1.25 * width / (x1 - x0), 1.2 * height / (y1 - y0))
    object_width, object_height = scale * (x1 - x0), scale * (y1 - y0)
    cut = choose(rng, ("", "", "", "", "side", "bottom"))
    margin = (0.15 if cut == "side" else 0.5) * object_width
    center_x = rng.uniform(margin, width - margin) if 2 * margin < width else width / 2
    if kind.in_sky:
        low = min(0.9 * object_height, setting.horizon * height)
        base_y = rng.uniform(low, max(low, setting.horizon * height))
    else:
        top_of_ground = setting.horizon * height
        nearness = min(1.0, 1.15 * share**0.75 + rng.uniform(0, 0.2))
        base_y = top_of_ground + nearness * (0.98 * height - top_of_ground) + max(0, 0.12 * (share - 0.4)) * height
        base_y = max(base_y, 0.9 * object_height)
        if cut == "bottom" and share > 0.3:
            base_y = max(base_y, height + rng.uniform(0, 0.35) * object_height)
    shift = (center_x - scale * (x0 + x1) / 2, base_y - scale * y1)
    return kind, sprite.warped(np.array([(scale, 0, shift[0]), (0, scale, shift[1])])), base_y - height * kind.in_sky
