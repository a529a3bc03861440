"""A sheet of training canvases with what their token sequences say, decoded as a model's answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pix2seq.dataset.overlay import class_color, paint_box, paint_labels, paint_mask, paint_skeleton
from pix2seq.dataset.samples import SequenceDataset
from pix2seq.tokenizers.vocabulary import CLASS_SHIFT, TokenSequence, dequantize

TILE_PX, TEXT_PX, COLUMNS = 360, 14, 4
PROMPT = 5  # targets that belong to the prompt of an instance: its box and class


def draw_sheet(taught: SequenceDataset, class_names: Mapping[int, str], count: int) -> np.ndarray:
    """The canvases of `count` images, evenly chosen, as an image (H, W, 3) uint8."""
    tiles = []
    chosen = np.unique(np.linspace(0, len(taught) - 1, count).astype(int)).tolist()
    samples = (taught[0, index, taught.cfg.model.image_size] for index in chosen)
    for name, sample in {sample.name: sample for sample in samples}.items():  # stand-ins may be chosen themselves
        for number, canvas in enumerate(sample.canvases):
            said = {
                task: [sequence for which, sequence in pairs if which == number]
                for task, pairs in sample.sequences.items()
            }
            tiles.append(_tile(taught, canvas, {task: part for task, part in said.items() if part}, class_names, name))
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    height = max(tile.shape[0] for tile in tiles)
    return np.concatenate([np.concatenate([_padded(t, height) for t in _filled(row)], axis=1) for row in rows])


def _tile(
    taught: SequenceDataset,
    canvas: np.ndarray,
    said: Mapping[str, Sequence[TokenSequence]],
    class_names: Mapping[int, str],
    name: str,
) -> np.ndarray:
    """The canvas with all that is said about it, names and captions below."""
    tile = cv2.resize(canvas, (TILE_PX, TILE_PX), interpolation=cv2.INTER_CUBIC)
    lines = [f"{name}: {', '.join(said) or 'nothing taught'}"]
    for task, sequences in said.items():
        tokenizer = taught.tokenizers[task]
        if task == "detection":
            _paint_detection(tile, sequences[0], tokenizer, class_names)
        elif task == "captioning":
            lines += [tokenizer.decode(sequence.target) for sequence in sequences]
        else:
            for sequence in sequences:
                box, class_id = _prompted(sequence)
                if task == "segmentation":
                    paint_mask(tile, _fill(tokenizer.decode(sequence.target[PROMPT:])), class_color(class_id))
                else:
                    found = tokenizer.decode(sequence.target[PROMPT:], np.ones(len(sequence.target) - PROMPT))
                    points = np.column_stack([found.points[:, ::-1] * TILE_PX, found.visible])
                    paint_skeleton(tile, points, box, taught.examples.skeleton)
                paint_box(tile, box, class_color(class_id))
                paint_labels(tile, box[None], [class_names[class_id]], [class_color(class_id)])
    return np.concatenate([tile, _text(lines)])


def _paint_detection(tile: np.ndarray, sequence: TokenSequence, tokenizer, class_names: Mapping[int, str]) -> None:
    found = tokenizer.decode(sequence.target, np.ones(len(sequence.target)))
    boxes, classes = found.boxes[:, [1, 0, 3, 2]] * TILE_PX, found.classes.tolist()
    for box, class_id in zip(boxes, classes, strict=True):
        paint_box(tile, box, class_color(class_id))
    paint_labels(tile, boxes, [class_names[number] for number in classes], [class_color(number) for number in classes])


def _prompted(sequence: TokenSequence) -> tuple[np.ndarray, int]:
    """The box (4,) x1 y1 x2 y2 in pixels of a tile, and the class, that a prompt points at."""
    box = dequantize(sequence.target[:4])[[1, 0, 3, 2]] * TILE_PX
    return box, int(sequence.target[4]) - CLASS_SHIFT


def _fill(polygons: Sequence[np.ndarray]) -> np.ndarray:
    mask = np.zeros((TILE_PX, TILE_PX), np.uint8)
    cv2.fillPoly(mask, [np.rint(polygon[:, ::-1] * TILE_PX).astype(np.int32) for polygon in polygons], 1)
    return mask.astype(bool)


def _text(lines: Sequence[str]) -> np.ndarray:
    """A strip of lines, each cut to the tile's width."""
    font = ImageFont.load_default(TEXT_PX)
    strip = Image.new("RGB", (TILE_PX, (len(lines) * 5 // 4 + 1) * TEXT_PX + 4), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(strip).text((4, 2 + number * TEXT_PX * 5 // 4), line, fill="black", font=font)
    return np.asarray(strip)


def _padded(tile: np.ndarray, height: int) -> np.ndarray:
    return np.pad(tile, ((0, height - tile.shape[0]), (0, 4), (0, 0)), constant_values=255)


def _filled(row: list[np.ndarray]) -> list[np.ndarray]:
    return row + [np.full_like(row[0], 255)] * (COLUMNS - len(row))
