"""Image files and their annotations: whether the files are there, and which pixels the annotations count from.

A camera stores an image as its sensor lay, and says in EXIF data how to turn it upright. Some tools annotate the
upright image, others the stored one; the annotated size tells which.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pix2seq.dataset.box_counts import TOLERANCE_PX
from pix2seq.dataset.file_names import FileNames
from pix2seq.dataset.images import MISSING, OUTSIDE, Header, read_header
from pix2seq.dataset.mending import mend_box
from pix2seq.errors import UserError

OPENERS = 16  # threads that open files to check whether they are images
AS_STORED = "image that is annotated as it is stored, and is not turned upright"
SWAPPED = "image whose annotated width and height are swapped"
EITHER = "image that EXIF data turn or mirror, read upright: its annotations do not tell whether they are"


@dataclass(frozen=True)
class Frame:
    """The pixels that the annotations of an image count from: `size` is width and height; `as_stored`, whether EXIF
    rotation is left out; `remark` says what is unusual."""

    size: tuple[int, int]
    as_stored: bool = False
    remark: str = ""


def look_up(
    folder: Path, names: Sequence[str], is_outside: Callable[[Path], bool]
) -> list[tuple[str, str, Header | str]]:
    """For each name of an image file below `folder`: its path there, how it was found ("" if by its own spelling), and
    its header or what is wrong with it, in words. A file that `is_outside` is not opened."""

    def header_of(path: Path) -> Header | str:
        return OUTSIDE if is_outside(path) else read_header(path)

    # Each thread silences warnings in `open_image`; only out here is it sure that they are heard again.
    with warnings.catch_warnings(), ThreadPoolExecutor(OPENERS) as pool:
        headers = list(pool.map(header_of, [folder / name for name in names]))
    files, found = FileNames(folder), []
    for name, header in zip(names, headers, strict=True):
        other = files.find(name) if header in (MISSING, OUTSIDE) else None
        found.append((*other, header_of(folder / other[0])) if other else (name, "", header))
    return found


def is_settled(entry: Mapping, header: Header) -> bool:
    """Whether the annotated size of an image is that of the file as it is read, and of no other reading of it; or its
    frame was settled before."""
    if "as_stored" in entry:
        return annotated_size(entry) == (header.stored if entry["as_stored"] else header.upright)
    return annotated_size(entry) == header.upright and (header.orientation == 1 or header.upright != header.stored)


def annotated_size(entry: Mapping) -> tuple[int, int] | None:
    """Width and height of an image by its annotations, if they say."""
    return (entry["width"], entry["height"]) if {"width", "height"} <= entry.keys() else None


def settle(entry: Mapping, header: Header, boxes: Collection[Sequence[float]]) -> Frame | None:
    """The frame of the annotations of an image with `boxes` x y w h; None if they are of another image than the file's.

    A size that differs by a pixel is a rounding error, and without boxes the size does not matter.
    """
    annotated = annotated_size(entry)
    if not boxes:
        return Frame(header.upright)
    if annotated is None or (_near(annotated, header.upright) and header.upright == header.stored):
        return _frame_of_boxes(header, boxes)
    if _near(annotated, header.upright):
        return Frame(header.upright)
    if not _near(annotated, header.upright[::-1]):
        return None
    if header.is_turned and (_fit(boxes, header.stored) or not _fit(boxes, header.upright)):
        return Frame(header.stored, as_stored=True, remark=AS_STORED)
    return Frame(header.upright, remark=SWAPPED) if _fit(boxes, header.upright) else None


def _frame_of_boxes(header: Header, boxes: Collection[Sequence[float]]) -> Frame:
    """The frame of an image whose annotated size does not tell it."""
    fits_upright, fits_stored = _fit(boxes, header.upright), _fit(boxes, header.stored)
    if header.orientation == 1 or (fits_upright and not fits_stored):
        return Frame(header.upright)
    if fits_stored and not fits_upright:
        return Frame(header.stored, as_stored=True, remark=AS_STORED)
    return Frame(header.upright, remark=EITHER)


def _near(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return all(abs(a - b) <= TOLERANCE_PX for a, b in zip(one, other, strict=True))


def _fit(boxes: Iterable[Sequence[float]], size: tuple[int, int]) -> bool:
    """Whether boxes x y w h lie in an image."""
    width, height = size
    return all(x + w <= width + TOLERANCE_PX and y + h <= height + TOLERANCE_PX for x, y, w, h in boxes)


def boxes_by_image(contents: Iterable[dict], images: Collection[int]) -> dict[int, list[list[float]]]:
    """The boxes x y w h of some images, as their annotation files give them."""
    boxes: dict[int, list[list[float]]] = {}
    for content in contents:
        for annotation in content["annotations"]:
            if annotation.get("image_id") in images and (box := mend_box(annotation.get("bbox"))[0]):
                boxes.setdefault(annotation["image_id"], []).append(box)
    return boxes


def settle_all(
    images: Sequence[dict], headers: Mapping[int, Header], boxes: Mapping[int, Sequence], folder: Path
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Enter the frames of `images`, with `headers` and `boxes` by id; return those that have one, and what to report.

    Raises UserError if most of the images with boxes have another size than their annotations say.
    """
    kept, problems, strange = [], [], []
    for entry in images:
        header, name = headers[entry["id"]], entry["file_name"]
        frame = settle(entry, header, boxes.get(entry["id"], ()))
        if frame is None:
            (width, height), annotated = header.upright, annotated_size(entry)
            strange.append(f"{name}: {width} × {height}, annotated as {annotated[0]} × {annotated[1]}")
            continue
        entry["width"], entry["height"] = frame.size
        entry["as_stored"] = frame.as_stored
        kept.append(entry)
        problems += [(frame.remark, name)] if frame.remark else []
    count = sum(entry["id"] in boxes for entry in images)
    if 2 * len(strange) > count:
        raise UserError(
            f"{len(strange)} of {count} annotated images in {folder} have another size than their annotations say "
            f"({strange[0]}); name the folder of the images that were annotated, or export the annotations again"
        )
    problems += [("image of another size than its annotations say, left out", where) for where in strange]
    return kept, problems
