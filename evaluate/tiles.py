"""Tiles of a grid of images, with text."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pix2seq.infer.lettering import draw_text, wrapped

TILE_PX, HEADER_PX, GAP_PX, TEXT_PX = 380, 26, 6, 16
INK = (20, 20, 20)


def tile(image: np.ndarray, label: str) -> np.ndarray:
    """The image scaled into a square of TILE_PX with a line of text above it and a margin around, (h, w, 3)."""
    scale = TILE_PX / max(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    canvas = np.full((HEADER_PX + TILE_PX + GAP_PX, TILE_PX + GAP_PX, 3), 255, np.uint8)
    canvas[HEADER_PX : HEADER_PX + size[1], : size[0]] = scaled
    return written(canvas, [label], HEADER_PX - 10)


def text_page(paragraphs: Sequence[str]) -> np.ndarray:
    """A square of wrapped text (TILE_PX, TILE_PX, 3)."""
    lines = [line for text in paragraphs for line in [*wrapped(text, TILE_PX - 6, TEXT_PX), ""]]
    return written(np.full((TILE_PX, TILE_PX, 3), 255, np.uint8), lines, TEXT_PX)


def text_strip(lines: Sequence[str], width: int, size_px: int) -> np.ndarray:
    """A strip (h, width, 3) of lines, each cut to the width."""
    height = round(1.3 * size_px * len(lines)) + size_px // 2
    return written(np.full((height, width, 3), 255, np.uint8), lines, size_px)


def written(canvas: np.ndarray, lines: Sequence[str], size_px: int) -> np.ndarray:
    """The canvas with `lines` of text from its upper left corner on."""
    image = Image.fromarray(canvas)
    drawer = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw_text(drawer, (3, 2 + number * round(1.3 * size_px)), line, size_px, INK)
    return np.asarray(image)
