"""The images that a user names: files, folders, patterns such as photos/*.jpg, and addresses on the web.

Nothing slow is imported before an image is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pix2seq.config import InferCFG
from pix2seq.errors import UserError
from pix2seq.runtime.console import tell
from pix2seq.runtime.paths import folders_below

if TYPE_CHECKING:
    import numpy as np

MOST_OF_STEM = 100  # characters of a folder's name that is made from an address


@dataclass(frozen=True)
class WebImage:
    """An image at an address on the web, fetched when it is read."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def stem(self) -> str:
        """What the file is called there, without its ending, as a name that every file system takes."""
        name = PurePosixPath(unquote(urlsplit(self.url).path)).stem
        return re.sub(r"[^\w.-]+", "_", name)[:MOST_OF_STEM] or "image"


Named = Path | WebImage


def find_images(names: Sequence[str]) -> list[Named]:
    """The images among `names`, those in the folders among them, and those that patterns match; raise UserError if
    there are none."""
    if not all(names) or not names:  # Path("") would be the folder where one is
        raise UserError("--image expects an image or a folder of images, got none")
    return [image for name in names for image in _named(name)]


def is_one(name: str) -> bool:
    """Whether a name is that of a single image, rather than a folder or a pattern."""
    return _is_url(name) or Path(name).is_file() or not (Path(name).is_dir() or _is_pattern(name))


def read_named(image: Named, settings: InferCFG) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB; raise UserError if they cannot be had, or exceed the limits of the settings."""
    from pix2seq.dataset.images import Content, read_image

    if isinstance(image, WebImage):
        from pix2seq.runtime.web import fetch_bytes

        return read_image(Content(image.url, fetch_bytes(image.url, settings.max_megabytes)), settings.max_megapixels)
    return read_image(image, settings.max_megapixels)


def _named(name: str) -> Sequence[Named]:
    if _is_url(name):
        from pix2seq.runtime.web import check_address

        check_address(name)
        return [WebImage(name)]
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        return images_among(path.iterdir(), f"the folder {path}")
    if _is_pattern(name):
        return images_among(map(Path, dict.fromkeys(_matching(name))), f"the pattern {name}")
    raise UserError(f"there is no image {path}; check the path")


def _is_url(name: str) -> bool:
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name) is not None


def _is_pattern(name: str) -> bool:
    return re.search(r"[*?[]", name) is not None


def _matching(pattern: str) -> Iterator[str]:
    """The files that a pattern matches; ** stands for a folder and all in it, each once: links may lead back."""
    parts = re.split(r"(?:^|(?<=/))\*\*(?:/|$)", pattern, maxsplit=1)
    if len(parts) == 1:
        yield from glob(pattern)
        return
    for start in glob(parts[0]) if parts[0] else [""]:
        for folder in folders_below(Path(start), follow_links=True):
            yield from _matching(str(Path(escape(str(folder)), parts[1] or "*")))


def images_among(files: Iterable[Path], where: str) -> list[Path]:
    """The image files among those of a folder or a pattern, without hidden ones; names those of other formats, and
    raises UserError if there are none that can be read."""
    from pix2seq.dataset.images import IMAGE_SUFFIXES, OTHER_SUFFIXES

    files = sorted(file for file in files if not file.name.startswith("."))
    others = [file for file in files if file.suffix.lower() in OTHER_SUFFIXES]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    left_out = f"{len(others)} files are of formats that cannot be read, such as {others[0].name}" if others else ""
    if not images:
        remark = f"; {left_out}: save them as JPEG or PNG" if others else ""
        raise UserError(f"{where} holds no images ({', '.join(IMAGE_SUFFIXES)}){remark}")
    if others:
        tell(f"{where}: {left_out}, and are left out; save them as JPEG or PNG")
    return images


def unique_names(images: Sequence[Named]) -> list[str]:
    """A folder name for each image: its stem, with a number where another image has the same."""
    numbers: dict[str, int] = {}  # the last one that each stem had
    names: dict[str, None] = {}
    for path in images:
        stem = path.stem if path.stem.strip(".") else "image"  # .. would be the folder above
        name, number = stem, numbers.get(stem, 1)
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name], numbers[stem] = None, number
    return list(names)


def image_ids(images: Sequence[Named]) -> list[int | str]:
    """The images' ids in results: the numbers that they are named after, as in COCO, or the names if these are two
    images' number (1.jpg beside 001.jpg)."""
    numbers = Counter(int(path.stem) for path in images if path.stem.isdecimal())
    return [int(p.stem) if p.stem.isdecimal() and numbers[int(p.stem)] == 1 else p.stem for p in images]


def file_names(images: Sequence[Named]) -> list[str]:
    """What the images are called in results: their names without folders, as in COCO, unless another has the same."""
    names = [image.name if isinstance(image, Path) else str(image) for image in images]
    numbers = Counter(names)
    return [name if numbers[name] == 1 else str(image) for name, image in zip(names, images, strict=True)]
