"""Read an image file as upright RGB with 8 bits per channel.

A file is opened as one of the formats that are meant, whatever it is called: others of Pillow's start programs (EPS) or
open further files. Its size is known, and too large a one refused, before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from pix2seq.config import InferCFG
from pix2seq.errors import Unreadable, plain

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MEGAPIXELS = InferCFG.max_megapixels  # of the largest image that is read unless told otherwise
MOST_SIDE = 100_000  # pixels; PNGs of more than a million in a row cannot be written
COPIES = {"WEBP": 2}  # of these formats Pillow has so many times the memory of others: fewer pixels are allowed
PIECE_BYTES = 4e6  # of a TIFF's strip or tile for each megapixel that is allowed: libtiff has one beside the image
SCAN, MOST_SCANS = b"\xff\xda", 200  # what begins a JPEG's scan, of which progressive ones have about ten
HEAD_BYTES, COMMENT = 2**16, re.compile(rb"#[^\r\n]*[\r\n]?")  # of a PPM, before its sides
MOST_OF_WEBP = 2**28  # bytes of a file
BAND_PIXELS = 1 << 22  # that are converted at a time: beside a large image there is no second one in memory
Image.MAX_IMAGE_PIXELS = None  # checked in `open_image`, which can say what to do
IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # in any case
# Images that Pillow does not read without additions.
OTHER_SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".psd", ".raw", ".svg")
UNREADABLE, MISSING = "image that cannot be read", "image that is not there"
OUTSIDE = "image outside of the dataset's folder (--outside-images reads it)"
DEPTHS = (8, 10, 12, 14, 16)  # bits of gray values that cameras and scanners write
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# What Pillow raises for damaged files.
DAMAGES = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError)
# What files called images are instead, by how they begin (the first bytes, or those behind a size).
OTHERS = {
    b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIC", b"ftypavif": "AVIF", b"%PDF": "PDF",
    b"<svg": "SVG", b"<!DOCTYPE html": "HTML", b"<html": "HTML", b"version https://git-lfs": "a Git LFS pointer",
}  # fmt: skip
DARK = 15  # the brightest value of 16-bit colors that use 12 bits, where 8 are kept


class TooLarge(ValueError):
    """An image of this size (width, height) has more pixels than are allowed; `limit` says in words how many are."""

    def __init__(self, size: tuple[int, int], limit: str) -> None:
        super().__init__(f"{size[0]} × {size[1]} pixels, more than {limit}")
        self.limit = limit


@dataclass(frozen=True)
class Content:
    """An image file in memory, by the `name` that messages call it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Source = str | Path | Content


@contextlib.contextmanager
def open_image(path: Source, max_megapixels: float = MEGAPIXELS) -> Iterator[Image.Image]:
    """An image file whose pixels are not decoded yet; raise one of DAMAGES, TooLarge among them, if it is none."""
    if not isinstance(path, Content) and not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would wait for ever
        raise UnidentifiedImageError(f"{path} is no regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid metadata do not affect pixels
        with io.BytesIO(path.data) if isinstance(path, Content) else open(path, "rb") as opened:
            _require_usual_start(opened)
        with Image.open(io.BytesIO(path.data) if isinstance(path, Content) else path, formats=FORMATS) as file:
            _require_small(file, max_megapixels)
            yield file


def _require_usual_start(file: BinaryIO) -> None:
    """Raise ValueError for what Pillow would read without end before it knows the image's size: the comments of a PPM,
    a byte at a time, and all of a WebP."""
    head = file.read(HEAD_BYTES if file.read(1) == b"P" else 16)
    if head[7:11] == b"WEBP" and file.seek(0, io.SEEK_END) > MOST_OF_WEBP:
        raise ValueError(f"it has more than {MOST_OF_WEBP:,} bytes")
    if len(head) == HEAD_BYTES and len(COMMENT.sub(b" ", head).split(None, 3)) < 4:
        raise ValueError(f"its sides are not in its first {HEAD_BYTES:,} bytes")


def _require_small(file: Image.Image, max_megapixels: float) -> None:
    """Raise TooLarge for an image that would take more memory, or work, than one of `max_megapixels` may."""
    width, height = file.size
    allowed = max_megapixels / COPIES.get(file.format or "", 1)
    if width * height / 1e6 > allowed:
        raise TooLarge(
            file.size, f"{allowed:g} megapixels" + (f" of {file.format}" if allowed < max_megapixels else "")
        )
    if max(width, height) > MOST_SIDE:
        raise TooLarge(file.size, f"{MOST_SIDE:,} in a row")
    if file.format == "TIFF" and _piece_bytes(file) > PIECE_BYTES * max_megapixels:
        raise TooLarge(file.size, f"{PIECE_BYTES * max_megapixels / 1e6:g} MB, in a strip or tile")
    if isinstance(file, JpegImageFile) and _scans(file) > MOST_SCANS:
        raise TooLarge(file.size, f"{MOST_SCANS} times over each other, in scans")


def _scans(file: JpegImageFile) -> int:
    """How often a JPEG goes over its pixels, a few bytes of it over all of them; Pillow has read its first scan's
    header, which has all components unless more scans are to come."""
    place = file.fp.tell()
    file.fp.seek(max(place - 2 * file.layers - 8, 0))
    if file.fp.read(2) == SCAN and not file.info.get("progressive"):
        count = 1
    else:
        file.fp.seek(0)
        count = file.fp.read().count(SCAN)
    file.fp.seek(place)
    return count


def _piece_bytes(file: TiffImageFile) -> float:
    """The size of a TIFF's strips, or tiles, when they are decoded; 0 where they are stored as they are."""
    tags, height = file.tag_v2, max(file.size)
    if file.info.get("compression") == "raw":
        return 0
    width, tile_height = tags.get(TILEWIDTH, file.width), tags.get(TILELENGTH)
    rows, samples = tags.get(ROWSPERSTRIP, height), tags.get(SAMPLESPERPIXEL, 1)
    bits = tags.get(BITSPERSAMPLE, (1,))  # of each sample, or once for all of them
    if not all(isinstance(number, int) for number in (width, tile_height or rows, samples, *bits)):
        raise ValueError("its tags are no numbers")
    return width * (tile_height or min(rows or height, height)) * max(sum(bits), samples * bits[0]) / 8


def read_image(path: Source, max_megapixels: float = MEGAPIXELS, as_stored: bool = False) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an image file; raise Unreadable if it cannot be read completely.

    EXIF rotation is applied unless the image is wanted `as_stored`, transparent images are composited over white, other
    depths are scaled to 8 bits.
    """
    return read_reduced(path, 1, max_megapixels, as_stored)[0]


@dataclass(frozen=True)
class Header:
    """Width and height of an image file as it is `stored`, and EXIF's `orientation` of it, from 1 (upright) to 8."""

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def is_turned(self) -> bool:
        """Whether EXIF rotation lays the image on its side."""
        return self.orientation in SIDEWAYS

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as `read_image` rotates it."""
        return self.stored[::-1] if self.is_turned else self.stored


def read_header(path: Path) -> Header | str:
    """The header of an image file, or what is wrong with it, in words. No pixel is read."""
    try:
        with open_image(path) as file:
            return Header(file.size, _orientation(file))
    except FileNotFoundError:
        return MISSING
    except TooLarge as error:
        return f"image of more than {error.limit}"
    except DAMAGES:
        return UNREADABLE


def _orientation(file: Image.Image) -> int:
    """EXIF's number from 1 (upright) to 8. Pillow reads all of a PNG to find out that it has none."""
    if file.format == "PNG" and not {"exif", "Raw profile type exif"} & file.info.keys():
        return 1
    return file.getexif().get(ExifTags.Base.Orientation, 1)


def read_reduced(
    path: Source, shrink: int, max_megapixels: float = MEGAPIXELS, as_stored: bool = False
) -> tuple[np.ndarray, int]:
    """Like `read_image`, but a JPEG is decoded `shrink` (1, 2, 4, 8) times smaller; also return the factor used.

    The decoder leaves out high frequencies of a JPEG, which takes much less time. Pixel i of the smaller image covers
    [i · shrink, (i + 1) · shrink) of the full one; the last may reach beyond its edge. Other files are not reduced.
    """
    try:
        with open_image(path, max_megapixels) as file:
            width, height = file.size
            has_16_bits = not file.mode.startswith("I") and ";16" in str(file.tile)  # Pillow keeps the upper 8
            reduced = min(width, height) >= 2 * shrink > 2 and file.draft(None, (width // shrink, height // shrink))
            pixels = _rgb(file) if as_stored else upright_rgb(file)
            if has_16_bits and 0 < pixels.max() <= DARK:
                raise Unreadable(f"{path} has colors of 16 bits, of which 12 or fewer are used; save it with 8 bits")
            return pixels, shrink if reduced else 1
    except FileNotFoundError:
        raise Unreadable(f"there is no image {path}; check the path") from None
    except TooLarge as error:
        raise Unreadable(f"{path} has {error}; make it smaller, or raise --max-megapixels") from None
    except UnidentifiedImageError:
        raise Unreadable(f"{path} is {_what_else(path)}; expected a {', '.join(FORMATS)} file") from None
    except DAMAGES as error:
        raise Unreadable(
            f"{path} cannot be read completely ({plain(str(error))}); it is damaged: get it again"
        ) from None


def _what_else(path: Source) -> str:
    """What a file is that is no image, in words."""
    if isinstance(path, Content):
        head = path.data[:64].lstrip()
    elif Path(path).is_file():
        with Path(path).open("rb") as file:
            head = file.read(64).lstrip()
    else:
        return "not an image that can be read"
    if not head:
        return "empty, and not an image that can be read"
    kind = next((kind for start, kind in OTHERS.items() if start in (head[: len(start)], head[4 : 4 + len(start)])), "")
    return f"{kind}, not an image that can be read" if kind else "not an image that can be read"


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of a Pillow image, rotated by its EXIF data; raise one of DAMAGES if it is bad."""
    image.load()  # a PNG's EXIF data may come last
    return _rgb(image, image.getexif().get(ExifTags.Base.Orientation, 1))


def _rgb(image: Image.Image, orientation: int = 1) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB, laid upright from EXIF's `orientation`, of which a band at a time is converted."""
    width, height = image.size
    pixels = np.empty((width, height, 3) if orientation in SIDEWAYS else (height, width, 3), np.uint8)
    stored, rows = _as_stored(pixels, orientation), max(BAND_PIXELS // width, 1)
    tops = range(0, height, rows)

    def band(top: int) -> Image.Image:
        return image if rows >= height else image.crop((0, top, width, min(top + rows, height)))

    if image.mode.startswith("I") or image.mode == "F":
        ends = [(values.min(), values.max()) for values in (np.asarray(band(top)) for top in tops)]
        low, factor = scale_to_8_bits(float(np.min(ends)), float(np.max(ends)), image.mode == "F")
        for top in tops:
            stored[top : top + rows] = ((np.asarray(band(top)) - low) * factor).astype(np.uint8)[:, :, None]
    else:
        for top in tops:
            stored[top : top + rows] = np.asarray(_over_white(band(top)))
    return pixels


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The view (H, W, 3) of upright pixels in which they lie as in a file with this EXIF orientation."""
    if orientation in SIDEWAYS:
        upright = upright.transpose(1, 0, 2)
    if orientation in (3, 4, 6, 7):
        upright = upright[::-1]
    if orientation in (2, 3, 7, 8):
        upright = upright[:, ::-1]
    return upright


def scale_to_8_bits(low: float, high: float, is_float: bool = False) -> tuple[float, float]:
    """What is subtracted from gray values from `low` to `high` of another depth, and what they are then multiplied by,
    to have them from 0 to 255: the range 0 to 1, or 8, 10, 12, 14 or 16 bits, whichever is the smallest that holds all
    of them; else that from the smallest value to the largest.

    Raises ValueError if a value is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its values are not all finite")
    is_fraction = is_float and high <= 1
    ends = [1] if is_fraction else [2**bits for bits in DEPTHS if high < 2**bits]
    if low < 0 or not ends:
        return low, 255 / (high - low or 1)
    return 0, 255 if is_fraction else 256 / ends[0]


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
