"""One scene: an image with its objects and captions, which depend on (seed, split, index) alone.

A random setting is chosen (`backgrounds`), objects are placed in it (`composing`), everything is painted (`painting`),
and the visible objects are annotated (`annotating`, `captions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pix2seq.scenes.annotating import SceneObject, annotate
from pix2seq.scenes.backgrounds import draw_setting
from pix2seq.scenes.captions import mention, write_captions
from pix2seq.scenes.colors import Rng
from pix2seq.scenes.composing import compose, draw_size
from pix2seq.scenes.painting import paint

JPEG_QUALITY = 90
SPLITS = ("train2017", "val2017")  # named as COCO's; the index of a split is part of its scenes' seeds


@dataclass
class Scene:
    """An image (H, W, 3) uint8 RGB, its objects from the back to the front, and five captions."""

    image: np.ndarray
    objects: list[SceneObject]
    captions: list[str]


def scene_rng(seed: int, split: str, index: int) -> Rng:
    """The random generator that scene `index` of a split is drawn with."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def draw_scene(rng: Rng, size_px: tuple[int, int] | None = None) -> Scene:
    """Draw an image of `size_px` (width, height), or of a random size whose longer side is 320 px."""
    size_px = size_px or draw_size(rng)
    setting = draw_setting(rng)
    placed = compose(rng, setting, size_px)
    image = paint(rng, setting, placed, size_px)
    objects = [annotate(item) for item in placed]
    return Scene(image, objects, write_captions(rng, setting, mention(placed, objects, size_px)))


def draw_jpeg(seed: int, split: str, index: int) -> tuple[bytes, dict[str, Any]]:
    """A scene as the content of a JPEG file, and its record for JSON.

    The record has COCO's entries `image`, `objects` and `captions`, without the ids that depend on other images.
    """
    scene = draw_scene(scene_rng(seed, split, index))
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    image = image_entry(seed, split, index)
    objects = [object_entry(item) for item in scene.objects]
    return jpeg.tobytes(), {"image": image, "objects": objects, "captions": scene.captions}


def image_entry(seed: int, split: str, index: int) -> dict[str, Any]:
    """COCO's entry of an image; its size is the first random value of a scene, so nothing has to be drawn."""
    width, height = draw_size(scene_rng(seed, split, index))
    return {"id": index + 1, "file_name": f"{index + 1:012d}.jpg", "width": width, "height": height, "license": 1}


def object_entry(item: SceneObject) -> dict[str, Any]:
    """COCO's entry of an object, without ids."""
    entry = {
        "category_id": item.category_id,
        "bbox": list(item.bbox),
        "area": item.area,
        "iscrowd": 0,
        "segmentation": [polygon.ravel().tolist() for polygon in item.polygons],
    }
    if item.keypoints is not None:
        entry["keypoints"] = item.keypoints.ravel().tolist()
        entry["num_keypoints"] = int((item.keypoints[:, 2] > 0).sum())
    return entry
