"""Read a picture file as RGB, upright, 8 bits a channel."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from config import UserError

Image.MAX_IMAGE_PIXELS = 400_000_000  # larger than any photograph, small enough to fit into memory
UNREADABLE = "picture that cannot be read"
DAMAGES = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises at damaged files


def read_image(path: str | Path) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of a picture file; raise UserError if it cannot be read whole.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits.
    """
    return read_reduced(path, 1)[0]


def why_unreadable(path: Path) -> str:
    """What is wrong with the beginning of a picture file, in words; empty if nothing is. No pixel is read."""
    try:
        with Image.open(path):
            return ""
    except FileNotFoundError:
        return "picture that is not there"
    except DAMAGES:
        return UNREADABLE


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as `read_image` turns it, from its header; raise one of DAMAGES if it is bad."""
    with Image.open(path) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation, 1) > 4
        return file.size[::-1] if turned else file.size


def read_reduced(path: str | Path, shrink: int) -> tuple[np.ndarray, int]:
    """`read_image`, but a JPEG is decoded `shrink` (1, 2, 4, 8) times smaller; and how many times it really was.

    A JPEG decoder leaves out the fine frequencies, which costs much less time. Pixel i of the smaller picture covers
    [i · shrink, (i + 1) · shrink) of the whole one; the last may reach beyond its edge. Other files come in full size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata harm no pixel
            with Image.open(path) as file:
                width, height = file.size
                reduced = min(width, height) >= 2 * shrink > 2 and file.draft(None, (width // shrink, height // shrink))
                return np.asarray(_to_rgb(ImageOps.exif_transpose(file))), shrink if reduced else 1
    except FileNotFoundError:
        raise UserError(f"there is no picture {path}; check the path") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a picture that can be read; expected JPEG, PNG or the like") from None
    except DAMAGES as error:
        raise UserError(f"{path} cannot be read whole ({error}); the file is damaged: get it again") from None


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
