"""A sheet of images: what is true beside what was answered, for the best, middling and worst answers of a task."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.keypoint import has_keypoints
from pix2seq.dataset.segmentation import has_mask
from pix2seq.evaluate.evaluation import Evaluation
from pix2seq.evaluate.predictions import Answers
from pix2seq.infer.draw import draw_detections, draw_keypoints, draw_masks
from pix2seq.infer.masks import Mask
from pix2seq.infer.results import Instances, Pose, Result

TILE_PX, HEADER_PX, GAP_PX = 380, 26, 6
PER_KIND = 2
INK = (20, 20, 20)
Pair = tuple[np.ndarray, np.ndarray]


def draw_sheet(
    task: str, evaluation: Evaluation, split: ImageDataset, class_names: Mapping[int, str], threshold: float
) -> np.ndarray | None:
    """Two pairs of tiles for each kind, (H, W, 3) uint8; None if no image has anything true or answered to show."""
    quality = evaluation.scores[task].quality
    answers = [answer for answer in evaluation.answers if answer.image_id in quality]
    if not answers:
        return None
    answers.sort(key=lambda answer: quality[answer.image_id])
    middle = max((len(answers) - PER_KIND) // 2, 0)
    kinds = {"best": answers[: -PER_KIND - 1 : -1], "median": answers[middle : middle + PER_KIND]}
    title_of_answer = "» answer, then the truth" if task == "captioning" else "answer"
    rows = []
    for title, chosen in (kinds | {"worst": answers[:PER_KIND]}).items():
        tiles = []
        for answer in chosen:
            true, said = _painters(class_names, threshold)[task](split[answer.index], answer)
            label = f"{title}  {quality[answer.image_id]:.2f}  image {answer.image_id}"
            tiles += [_tile(true, f"{label}  true"), _tile(said, title_of_answer)]
        tiles += [np.full_like(tiles[0], 255)] * (2 * PER_KIND - len(tiles))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def _painters(class_names: Mapping[int, str], threshold: float) -> dict[str, Callable[[Example, Answers], Pair]]:
    """For each task what draws the true and the answered image."""

    def detection(example: Example, answer: Answers) -> Pair:
        found = answer.detected.instances
        sure = Result(found[found.scores >= threshold])
        return tuple(draw_detections(example.image, r, class_names) for r in (Result(_true(example)), sure))

    def segmentation(example: Example, answer: Answers) -> Pair:
        known = np.flatnonzero(has_mask(example))
        masks = [_true_mask(example, index) for index in known]
        true = Result(_true(example)[known], masks)
        return tuple(draw_masks(example.image, r, class_names) for r in (true, replace(answer.segmented, poses=None)))

    def keypoint(example: Example, answer: Answers) -> Pair:
        posed = np.flatnonzero(has_keypoints(example))
        true = Result(_true(example)[posed], poses=[Pose(example.keypoints[index], 1.0) for index in posed])
        return tuple(draw_keypoints(example.image, r, class_names, example.skeleton) for r in (true, answer.posed))

    def captioning(example: Example, answer: Answers) -> Pair:
        return example.image, _text_tile([f"» {answer.caption}", *answer.references])

    return {"detection": detection, "segmentation": segmentation, "keypoint": keypoint, "captioning": captioning}


def _true(example: Example) -> Instances:
    return Instances(example.boxes, example.classes, np.ones(len(example.classes)))


def _true_mask(example: Example, index: int) -> Mask:
    height, width = example.image.shape[:2]
    polygons = [polygon.ravel().tolist() for polygon in example.polygons[index]]
    return Mask(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)), 1.0)


def _tile(image: np.ndarray, label: str) -> np.ndarray:
    """The image scaled into a square with a line of text above it and a margin around."""
    scale = TILE_PX / max(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    tile = np.full((HEADER_PX + TILE_PX + GAP_PX, TILE_PX + GAP_PX, 3), 255, np.uint8)
    tile[HEADER_PX : HEADER_PX + size[1], : size[0]] = scaled
    return _written(tile, [label], HEADER_PX - 10)


def _text_tile(paragraphs: list[str]) -> np.ndarray:
    lines = [line for text in paragraphs for line in [*textwrap.wrap(text, 42), ""]]
    return _written(np.full((TILE_PX, TILE_PX, 3), 255, np.uint8), lines, 16)


def _written(canvas: np.ndarray, lines: list[str], size_px: int) -> np.ndarray:
    """The canvas with `lines` of text from its upper left corner on."""
    image = Image.fromarray(canvas)
    drawer, font = ImageDraw.Draw(image), ImageFont.load_default(size_px)
    for number, line in enumerate(lines):
        drawer.text((3, 2 + number * round(1.3 * size_px)), line, fill=INK, font=font)
    return np.asarray(image)
