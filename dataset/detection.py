"""Examples to detection sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.config import CFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.views import View, is_shown, object_boxes
from pix2seq.tokenizers.detection import FAKE_CLASS, DetectionTokenizer, corrupt_classes, without_absence
from pix2seq.tokenizers.vocabulary import TokenSequence

COCO_FILE = "instances"
LIMIT = ("max_objects", "are cut at")
DUPLICATE_DEVIATION = 0.05  # of a noise object's edges from those of the object that it doubles, fraction of its sides
RANDOM_DEVIATION = 0.5  # of a random noise object's sides, fraction of the image's


def order_objects(boxes: np.ndarray, order: str, rng: np.random.Generator) -> np.ndarray:
    """Permutation (n,) of boxes (n, 4): `random`, by `area` from the largest, or by `distance` of the upper left corner
    to the canvas's."""
    if order == "area":
        return np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    if order == "distance":
        return np.argsort((boxes[:, :2] ** 2).sum(axis=1), kind="stable")
    return rng.permutation(len(boxes))


def truncated_normal(deviation: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal numbers of mean 0, drawn again where they are more than two deviations off."""
    values = rng.standard_normal(shape)
    while (far := np.abs(values) > 2).any():
        values[far] = rng.standard_normal(far.sum())
    return deviation * values


def noise_boxes(boxes: np.ndarray, count: int, area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """False objects (count, 4) around, beside and without regard to the true `boxes` (n, 4), clipped to `area` (4,).

    As in the official code: a random number of them double true boxes with moved edges; the rest are drawn from a mix
    of as many true boxes at other places as of random ones. All are y1 x1 y2 x2.
    """
    near = rng.integers(count + 1) if len(boxes) else 0
    far = count - near
    origin, sides = area[:2], area[2:] - area[:2]
    tiled = np.tile(boxes, (count // len(boxes) + 1, 1)) if len(boxes) else np.zeros((0, 4))

    doubled = rng.permutation(tiled)[:near]
    doubled = doubled + truncated_normal(DUPLICATE_DEVIATION, (near, 4), rng) * np.tile(
        doubled[:, 2:] - doubled[:, :2], 2
    )
    moved = rng.permutation(tiled)[:far]
    random_sides = np.abs(truncated_normal(RANDOM_DEVIATION, (far, 2), rng)) * sides
    far_sides = np.concatenate([moved[:, 2:] - moved[:, :2], random_sides])
    centers = origin + rng.random((len(far_sides), 2)) * sides
    elsewhere = np.concatenate([centers - far_sides / 2, centers + far_sides / 2], axis=1)
    noise = np.concatenate([doubled, rng.permutation(elsewhere)[:far]])
    return np.clip(rng.permutation(noise), np.tile(origin, 2), np.tile(area[2:], 2))


def image_area(example: Example, geometry: Geometry) -> np.ndarray:
    """The part (4,) y1 x1 y2 x2 of the canvas that shows the image, in canvas fractions."""
    height, width = example.image.shape[:2]
    return np.clip(geometry.box_fractions(np.array([[0, 0, width, height]]))[0], 0, 1)


def trains_on(objects: Sequence[dict], captions: Sequence[str], is_background: bool) -> bool:
    """Images with objects, and those that are known to show none."""
    return bool(objects) or is_background


def sequences(view: View, tokenizer: DetectionTokenizer, cfg: CFG, rng: np.random.Generator) -> list[TokenSequence]:
    """The objects of the canvas in `orders_per_image` orders."""
    return [
        detection_sequence(view.example, view.geometry, tokenizer, cfg, rng) for _ in range(cfg.data.orders_per_image)
    ]


def lengths(example: Example, tokenizer: DetectionTokenizer) -> list[tuple[int, bool]]:
    """Five tokens an object and the end."""
    count = len(example.classes)
    return [(5 * count + 1, count > tokenizer.max_objects)]


def detection_sequence(
    example: Example, geometry: Geometry, tokenizer: DetectionTokenizer, cfg: CFG, rng: np.random.Generator
) -> TokenSequence:
    """The objects on the canvas and the end, or instead of the end with `noise_objects` false ones up to `max_objects`.

    An image without objects is an immediate end, or nothing but noise; one of more than `max_objects` has no end. Where
    not all classes are labeled, the end and noise are no targets: there may be more to detect.
    """
    data, max_objects = cfg.data, cfg.model.max_objects
    boxes = object_boxes(example, geometry)
    shown = np.flatnonzero(is_shown(boxes, data.min_visible))
    boxes = np.clip(boxes, 0, 1)
    order = shown[order_objects(boxes[shown], data.object_order, rng)][:max_objects]
    boxes, classes = boxes[order], example.classes[order]
    if data.noise_objects:
        noise = noise_boxes(boxes, max_objects - len(boxes), image_area(example, geometry), rng)
        boxes, classes = np.concatenate([boxes, noise]), np.append(classes, np.full(len(noise), FAKE_CLASS))
    has_end = not data.noise_objects and len(shown) <= max_objects - tokenizer.full  # in full ones the end is no token
    sequence = tokenizer.encode(boxes, classes, pad_to=None if has_end else max_objects)
    if example.unlabeled.classes:
        sequence = without_absence(sequence)
    if data.class_corruption == "none":
        return sequence
    return corrupt_classes(sequence, data.class_corruption, rng)
