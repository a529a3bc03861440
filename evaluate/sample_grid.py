"""A grid of training canvases with what their token sequences hold, decoded as a model's responses are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from pix2seq.config import InferCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.samples import SampleDataset
from pix2seq.evaluate.tiles import text_strip
from pix2seq.infer.draw import Drawing, draw_boxes
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Instances, Prompt, prompts_for
from pix2seq.task import Task
from pix2seq.tokenizers.vocabulary import Tokenizer, TokenSequence, prompted_box

TILE_PX, TEXT_PX, COLUMNS = 360, 14, 4
IDENTITY = Geometry.letterbox(TILE_PX, TILE_PX, TILE_PX)
SETTINGS = InferCFG(num_samples=1, suppress_invisible=False)


def draw_samples(samples: SampleDataset, class_names: Mapping[int, str], count: int) -> np.ndarray:
    """The canvases of `count` images, evenly chosen from each source, as an image (H, W, 3) uint8."""
    tiles = []
    drawing = Drawing(class_names, samples.examples.skeleton, show_scores=False)
    made = (samples[0, index, samples.cfg.model.image_size] for index in _chosen(samples, count))
    for name, sample in {sample.name: sample for sample in made}.items():  # a replacement may be chosen itself
        for number, canvas in enumerate(sample.canvases):
            sequences = {
                task: [sequence for which, sequence in pairs if which == number]
                for task, pairs in sample.sequences.items()
            }
            sequences = {task: part for task, part in sequences.items() if part}
            tiles.append(_tile(samples, np.rint(canvas).astype(np.uint8), sequences, drawing, name))
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    height = max(tile.shape[0] for tile in tiles)
    return np.concatenate([np.concatenate([_padded(t, height) for t in _filled(row)], axis=1) for row in rows])


def _chosen(samples: SampleDataset, count: int) -> list[int]:
    """About `count` indices, as many of each source, evenly spaced."""
    sizes = [size for size, _ in samples.parts if size]
    ends = np.cumsum(sizes)
    spaced = [
        np.linspace(end - size, end - 1, -(-count // len(sizes))).astype(int)
        for size, end in zip(sizes, ends, strict=True)
    ]
    return np.unique(np.concatenate(spaced)).tolist()


def _tile(
    samples: SampleDataset,
    canvas: np.ndarray,
    sequences: Mapping[str, Sequence[TokenSequence]],
    drawing: Drawing,
    name: str,
) -> np.ndarray:
    """The canvas with what its sequences hold, names and captions below."""
    image = cv2.resize(canvas, (TILE_PX, TILE_PX), interpolation=cv2.INTER_CUBIC)
    lines = [f"{name}: {', '.join(sequences) or 'nothing to train on'}"]
    for task in (samples.tasks[name] for name in sequences):
        tokenizer, inference = samples.tokenizers[task.name], task.inference
        if task.is_prompted:
            image = _draw_prompted(image, task, sequences[task.name], tokenizer, drawing)
            continue
        read = [_read(task, sequence, tokenizer) for sequence in sequences[task.name]]
        if inference.IMAGE_FILE:  # several orders hold the same objects
            image = inference.draw(image, read[0] if task.finds_instances else Instances.none(), read[0], drawing)
        else:
            lines += [inference.describe(prediction, drawing) for prediction in read]
    return np.concatenate([image, text_strip(lines, TILE_PX, TEXT_PX)])


def _draw_prompted(
    image: np.ndarray, task: Task, sequences: Sequence[TokenSequence], tokenizer: Tokenizer, drawing: Drawing
) -> np.ndarray:
    """The instances that the sequences are prompted about, and what is to be predicted about them."""
    pointed = [prompted_box(sequence.input[: tokenizer.prompt_length]) for sequence in sequences]
    boxes = np.array([IDENTITY.boxes_from_fractions(box)[0] for box, _ in pointed])
    instances = Instances(boxes, np.array([class_id for _, class_id in pointed]), np.ones(len(pointed)))
    prompts = prompts_for(instances)
    pairs = zip(sequences, prompts, strict=True)
    targets = [_read(task, sequence, tokenizer, prompt) for sequence, prompt in pairs]
    return task.inference.draw(draw_boxes(image, instances, drawing), instances, targets, drawing)


def _read(task: Task, sequence: TokenSequence, tokenizer: Tokenizer, prompt: Prompt | None = None) -> Any:
    """The prediction that the sequence's target would be, in pixels of a tile."""
    response = Response.certain(sequence.response(tokenizer.prompt_length))
    return task.inference.read([response], [Canvas(TILE_PX, TILE_PX, IDENTITY, prompt)], tokenizer, SETTINGS)


def _padded(tile: np.ndarray, height: int) -> np.ndarray:
    return np.pad(tile, ((0, height - tile.shape[0]), (0, 4), (0, 0)), constant_values=255)


def _filled(row: list[np.ndarray]) -> list[np.ndarray]:
    return row + [np.full_like(row[0], 255)] * (COLUMNS - len(row))
