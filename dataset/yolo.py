"""YOLO's text labels: a file for each image, a line for each object, numbers in fractions of the image's sides.

    class x y w h                a box by its center; a sixth number is a detector's confidence
    class x1 y1 x2 y2 x3 y3 …    a polygon, or the four corners of a turned box
    class x y w h px py [v] …    a box and the K keypoints of the data set's `kpt_shape: [K, 2 or 3]`

An image with an empty file shows no object, and by YOLO's own rule so does one without a file.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pix2seq.dataset.box_counts import ENOUGH_BOXES
from pix2seq.dataset.file_names import UPLOAD_MARK, leads_out, same_spelling
from pix2seq.dataset.frames import EITHER, look_up
from pix2seq.errors import UserError, plain
from pix2seq.names import match_names
from pix2seq.runtime.files import first_bytes
from pix2seq.runtime.text import decode_text
from pix2seq.schema import read_bytes

MOST_BYTES = 4 * 2**20  # of the labels of an image
HEAD_BYTES = 4096  # of a text that tell whether it holds labels
MOST_CLASSES = 10**6  # a larger number is no class
BEYOND = 0.01  # of an image's side: a box that reaches further out is no rounding error
FAR_OUTSIDE = 0.5  # of an image's side: what lies further outside is no fraction of it
COMMA = re.compile(r"(?<=\d),(?=\d)")
NO_LABELS = re.compile(r"(.*classes|notes|train|val|valid|validation|test|readme.*|requirements)\.txt", re.IGNORECASE)


@dataclass(frozen=True)
class Classes:
    """The classes of a data set by number, and what it says of keypoints: `points` (K, 2 or 3) as `kpt_shape`, entries
    of a category in COCO's format."""

    names: Mapping[int, str] = field(default_factory=dict)
    points: tuple[int, int] = (0, 0)
    category: Mapping[str, Any] = field(default_factory=dict)


def read_yolo(root: Path, images: Sequence[str], classes: Classes, problems: Sequence[tuple[str, str]] = ()) -> dict:
    """The images below `root` with these paths, and their labels, in COCO's format."""
    problems, entries, annotations, labels = list(problems), [], [], LabelFiles(root)
    missing, unfit, lines, first, beyond, corners = 0, 0, 0, "", 0, 0
    headers = look_up(root, images, lambda path: leads_out(path, root))
    for number, (name, how, header) in enumerate(headers, 1):
        if isinstance(header, str):
            problems.append((f"{header}, left out", images[number - 1]))
            continue
        if how:
            problems.append((f"image that is found {how}", f"{images[number - 1]} is {name}"))
        width, height = header.upright
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        if header.is_turned:
            problems.append((EITHER, name))
        path, how = labels.find(name)
        if how:
            problems.append((f"label file that is found {how}", f"{path.name} for {name}"))
        if path is None:
            missing += 1
            problems.append(("image without a label file, taken to show no object", name))
            continue
        for place, line in _lines(path, root, problems):
            entry = _object(line, classes, (width, height))
            problems += [(remark, place) for remark in entry.pop("remarks")]
            lines, unfit = lines + 1, unfit + entry.pop("unfit")
            beyond, corners = beyond + entry.pop("beyond"), corners + entry.pop("corners")
            first = first or f"{place}: {plain(line, 60)}"
            annotations.append({"id": place, "image_id": number} | entry)
    if entries and missing == len(entries):
        raise UserError(
            f"none of the {len(entries)} images in {root}, such as {entries[0]['file_name']}, has a label file; "
            "expected labels/NAME.txt for images/NAME.jpg, or NAME.txt beside it"
        )
    if 2 * unfit > lines:
        raise UserError(
            f"{unfit} of {lines} label lines in {root} hold no fractions of the image's sides ({first}); YOLO's labels "
            "are class x y width height divided by the image's width and height: divide them"
        )
    if 2 * beyond > lines == corners and len({tuple(entry["bbox"]) for entry in annotations}) >= ENOUGH_BOXES:
        raise UserError(
            f"{beyond} of {lines} boxes in {root} reach beyond their images, and all fit as x1 y1 x2 y2, or as the "
            f"first corner and the sides ({first}); YOLO's labels are class x y width height, x and y of the center"
        )
    categories = _categories(classes, annotations, problems)
    return {"images": entries, "annotations": annotations, "categories": categories, "problems": problems}


def _categories(classes: Classes, annotations: Sequence[dict], problems: list[tuple[str, str]]) -> list[dict]:
    names = dict(classes.names)
    if not names:
        numbers = {entry["category_id"] for entry in annotations if isinstance(entry["category_id"], int)}
        names = {number: f"class_{number}" for number in sorted(numbers)}
        problems += [("data set without names of its classes", f"called {name}") for name in names.values()][:1]
    return [{"id": number, "name": name} | classes.category for number, name in names.items()]


def _lines(path: Path, root: Path, problems: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The lines of a label file that hold something, each once, and where they are."""
    where = path.relative_to(root).as_posix()
    try:
        if leads_out(path, root):
            raise OSError("it is a link out of the data root")
        text = decode_text(read_bytes(path, MOST_BYTES), path)
    except (OSError, UserError) as error:
        problems.append(("label file that cannot be read", f"{where}: {plain(str(error), 120)}"))
        return [(where, "unreadable")]
    found: dict[str, str] = {}
    for number, line in enumerate(text.replace("\x00", " ").splitlines(), 1):
        plain_line = " ".join(line.split())
        if plain_line in found:
            problems.append(("label line that is there twice, read once", f"{where}:{number}"))
        elif plain_line and not plain_line.startswith("#"):
            found[plain_line] = f"{where}:{number}"
    return [(place, line) for line, place in found.items()]


def _object(line: str, classes: Classes, size: tuple[int, int]) -> dict:
    """The object of a label line in COCO's format, with `remarks` and whether it is `unfit` to be fractions; its box is
    the line's own words where they are no object."""
    words, remarks = line.split(), []
    if len(words) == 1:
        words = line.replace(",", " ").replace(";", " ").split() or words
    if any(COMMA.search(word) for word in words):
        words = [COMMA.sub(".", word) for word in words]
        remarks.append("label line with a comma for the decimal point")
    number, words = _split_class(words, classes)
    entry = {"category_id": number, "remarks": remarks, "bbox": [plain(line, 60)]}
    entry |= dict.fromkeys(("unfit", "beyond", "corners"), False)
    numbers = [_number(word) for word in words]
    if None in numbers:
        return entry
    (width, height), (points, values) = size, classes.points
    if points and len(numbers) == 4 + points * values:
        entry["keypoints"] = _points(numbers[4:], values, size)
        numbers = numbers[:4]
    elif len(numbers) == 5:
        remarks.append("label line with a sixth number, a detector's confidence, which is not used")
        numbers = numbers[:4]
    if len(numbers) < 4 or len(numbers) % 2:
        return entry
    entry["unfit"] = min(numbers) < -FAR_OUTSIDE or max(numbers) > 1 + FAR_OUTSIDE
    if len(numbers) == 4:
        x, y, w, h = numbers
        entry["beyond"] = min(x - w / 2, y - h / 2) < -BEYOND or max(x + w / 2, y + h / 2) > 1 + BEYOND
        entry["corners"] = (x < w <= 1 and y < h <= 1) or max(x + w, y + h) <= 1 + BEYOND
        return entry | {"bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    flat = [side * value for value, side in zip(numbers, size * (len(numbers) // 2), strict=True)]
    xs, ys = flat[::2], flat[1::2]
    return entry | {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "segmentation": [flat]}


def _split_class(words: Sequence[str], classes: Classes) -> tuple[int | None, Sequence[str]]:
    """The number of the class that a line begins with, by number or name, and the words after it."""
    number = _number(words[0])
    if number is not None and 0 <= number < MOST_CLASSES and number == int(number):
        return int(number), words[1:]
    end = next((k for k, word in enumerate(words) if _number(word) is not None), len(words))
    name = " ".join(words[:end])
    found = match_names([name], classes.names.values())
    return next((k for k, known in classes.names.items() if known == found.get(name)), None), words[end:]


def _number(word: str) -> float | None:
    """The finite number that a word is."""
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _points(numbers: Sequence[float], values: int, size: tuple[int, int]) -> list[float]:
    """Keypoints as x, y, v in pixels; those without a v are labeled unless both numbers are zero."""
    flat: list[float] = []
    for start in range(0, len(numbers), values):
        x, y = numbers[start : start + 2]
        visible = int(min(max(numbers[start + 2], 0), 2)) if values == 3 else 2 * bool(x or y)
        flat += [x * size[0], y * size[1], visible] if visible else [0, 0, 0]
    return flat


class LabelFiles:
    """Finds the label files of images below `root`: labels/a.txt for images/a.jpg, or a.txt beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[Path, dict[str, Path]] = {}

    def find(self, image: str) -> tuple[Path | None, str]:
        """The label file of an image, by its path below the root, and how it was found: "" if by its own spelling."""
        path = self.root / image
        for folder in self._folders(path.parent):
            listed = self._list(folder)
            for name in (path.stem, path.name):
                if found := listed.get(same_spelling(name)):
                    return found, "" if found.stem == name else "by another spelling of the name"
        return None, ""

    def _folders(self, folder: Path) -> list[Path]:
        """Where the labels of the images in `folder` may be: `labels` in the place of `images`, the last one first."""
        parts = folder.relative_to(self.root).parts
        places = [k for k, part in enumerate(parts) if part.casefold() == "images"][::-1]
        swapped = [self.root.joinpath(*parts[:k], "labels", *parts[k + 1 :]) for k in places]
        return [*swapped, folder, folder / "labels", self.root.joinpath("labels", *parts)]

    def _list(self, folder: Path) -> dict[str, Path]:
        if folder not in self._listed:
            files = label_files(folder)
            stems = {same_spelling(unquote(path.stem)): path for path in files}
            stems |= {same_spelling(path.stem): path for path in files}
            bare = Counter(UPLOAD_MARK.sub("", stem) for stem in stems)
            short = {UPLOAD_MARK.sub("", stem): path for stem, path in stems.items()}
            self._listed[folder] = {stem: path for stem, path in short.items() if bare[stem] == 1} | stems
        return self._listed[folder]


def label_files(folder: Path) -> list[Path]:
    """The text files in a folder that may be labels of images."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() == ".txt" and not NO_LABELS.fullmatch(path.name)
    )


def holds_labels(path: Path) -> bool:
    """Whether the first line of a text file is a label; captions and lists of files are none."""
    try:
        words = decode_text(first_bytes(path, HEAD_BYTES).split(b"\n")[0], path).replace(",", ".").split()
    except UserError:
        return False
    return len(words) >= 5 and None not in map(_number, words[-4:])
