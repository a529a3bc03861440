"""Read an image file as upright RGB with 8 bits per channel.

A file is opened as one of the formats that are meant, whatever it is called: others of Pillow's start programs (EPS) or
open further files. Its size is known, and too large a one refused, before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pix2seq.config import InferCFG
from pix2seq.errors import Unreadable, plain

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MEGAPIXELS = InferCFG.max_megapixels  # of the largest image that is read unless told otherwise
Image.MAX_IMAGE_PIXELS = None  # checked in `open_image`, which can say what to do
UNREADABLE = "image that cannot be read"
DAMAGES = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
)  # what Pillow raises for damaged files


class TooLarge(ValueError):
    """An image has more pixels than are allowed."""


@contextlib.contextmanager
def open_image(path: str | Path, max_megapixels: float = MEGAPIXELS) -> Iterator[Image.Image]:
    """An image file whose pixels are not decoded yet; raise one of DAMAGES, TooLarge among them, if it is none."""
    if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would wait for ever
        raise UnidentifiedImageError(f"{path} is no regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid metadata do not affect pixels
        with Image.open(path, formats=FORMATS) as file:
            width, height = file.size
            if width * height / 1e6 > max_megapixels:
                raise TooLarge(f"{width} × {height} pixels")
            yield file


def read_image(path: str | Path, max_megapixels: float = MEGAPIXELS) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an image file; raise Unreadable if it cannot be read completely.

    EXIF rotation is applied, transparent images are composited over white, 16-bit gray is scaled to 8 bits.
    """
    return read_reduced(path, 1, max_megapixels)[0]


def why_unreadable(path: Path) -> str:
    """What is wrong with the header of an image file, in words; empty if nothing is. No pixel is read."""
    try:
        with open_image(path):
            return ""
    except FileNotFoundError:
        return "image that is not there"
    except TooLarge:
        return f"image of more than {MEGAPIXELS} megapixels"
    except DAMAGES:
        return UNREADABLE


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as `read_image` rotates it, from its header; raise one of DAMAGES if it is bad."""
    with open_image(path) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation, 1) > 4
        return file.size[::-1] if turned else file.size


def read_reduced(path: str | Path, shrink: int, max_megapixels: float = MEGAPIXELS) -> tuple[np.ndarray, int]:
    """Like `read_image`, but a JPEG is decoded `shrink` (1, 2, 4, 8) times smaller; also return the factor used.

    The decoder leaves out high frequencies of a JPEG, which takes much less time. Pixel i of the smaller image covers
    [i · shrink, (i + 1) · shrink) of the full one; the last may reach beyond its edge. Other files are not reduced.
    """
    try:
        with open_image(path, max_megapixels) as file:
            width, height = file.size
            reduced = min(width, height) >= 2 * shrink > 2 and file.draft(None, (width // shrink, height // shrink))
            return upright_rgb(file), shrink if reduced else 1
    except FileNotFoundError:
        raise Unreadable(f"there is no image {path}; check the path") from None
    except TooLarge as error:
        raise Unreadable(
            f"{path} has {error}, more than {max_megapixels:g} megapixels; make it smaller, or raise --max-megapixels"
        ) from None
    except UnidentifiedImageError:
        raise Unreadable(f"{path} is not an image that can be read; expected a {', '.join(FORMATS)} file") from None
    except DAMAGES as error:
        raise Unreadable(
            f"{path} cannot be read completely ({plain(str(error))}); it is damaged: get it again"
        ) from None


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of a Pillow image, rotated by its EXIF data; raise one of DAMAGES if it is bad."""
    return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
