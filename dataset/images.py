"""Read an image file as upright RGB with 8 bits per channel."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pix2seq.errors import UserError

Image.MAX_IMAGE_PIXELS = 400_000_000  # larger than usual photographs, small enough to fit into memory
IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # in any case
# Images that Pillow does not read without additions.
OTHER_SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".psd", ".raw", ".svg")
UNREADABLE, MISSING = "image that cannot be read", "image that is not there"
DEPTHS = (8, 10, 12, 14, 16)  # bits of gray values that cameras and scanners write
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
DAMAGES = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for damaged files


def read_image(path: str | Path, as_stored: bool = False) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an image file; raise UserError if it cannot be read completely.

    EXIF rotation is applied unless the image is wanted `as_stored`, transparent images are composited over white, other
    depths are scaled to 8 bits.
    """
    return read_reduced(path, 1, as_stored)[0]


@dataclass(frozen=True)
class Header:
    """Width and height of an image file as it is `stored`, and whether EXIF rotation lays it on its side."""

    stored: tuple[int, int]
    is_turned: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as `read_image` rotates it."""
        return self.stored[::-1] if self.is_turned else self.stored


def read_header(path: Path) -> Header | str:
    """The header of an image file, or what is wrong with it, in words. No pixel is read."""
    try:
        with Image.open(path) as file:
            return Header(file.size, _orientation(file) in SIDEWAYS)
    except FileNotFoundError:
        return MISSING
    except DAMAGES:
        return UNREADABLE


def _orientation(file: Image.Image) -> int:
    """EXIF's number from 1 (upright) to 8. Pillow reads all of a PNG to find out that it has none."""
    if file.format == "PNG" and not {"exif", "Raw profile type exif"} & file.info.keys():
        return 1
    return file.getexif().get(ExifTags.Base.Orientation, 1)


def read_reduced(path: str | Path, shrink: int, as_stored: bool = False) -> tuple[np.ndarray, int]:
    """Like `read_image`, but a JPEG is decoded `shrink` (1, 2, 4, 8) times smaller; also return the factor used.

    The decoder leaves out high frequencies of a JPEG, which takes much less time. Pixel i of the smaller image covers
    [i · shrink, (i + 1) · shrink) of the full one; the last may reach beyond its edge. Other files are not reduced.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid metadata do not affect pixels
            with Image.open(path) as file:
                width, height = file.size
                reduced = min(width, height) >= 2 * shrink > 2 and file.draft(None, (width // shrink, height // shrink))
                pixels = np.asarray(_to_rgb(file)) if as_stored else upright_rgb(file)
                return pixels, shrink if reduced else 1
    except FileNotFoundError:
        raise UserError(f"there is no image {path}; check the path") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that can be read; expected JPEG, PNG or the like") from None
    except DAMAGES as error:
        raise UserError(f"{path} cannot be read completely ({error}); the file is damaged: get it again") from None


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of a Pillow image, rotated by its EXIF data; raise one of DAMAGES if it is bad."""
    return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Gray values (H, W) of another depth as uint8: the range 0 to 1, or 8, 10, 12, 14 or 16 bits, whichever is the
    smallest that holds all of them, fills 0 to 255; else that from the smallest value to the largest does.

    Raises ValueError if a value is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its values are not all finite")
    is_fraction = values.dtype.kind == "f" and high <= 1
    ends = [1] if is_fraction else [2**bits for bits in DEPTHS if high < 2**bits]
    if low < 0 or not ends:
        return ((values - low) * (255 / (high - low or 1))).astype(np.uint8)
    return (values * (255 if is_fraction else 256 / ends[0])).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
