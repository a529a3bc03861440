"""Where the images of YOLO's data sets lie: by `data.yaml` (Ultralytics, Roboflow, CVAT), by `obj.data` (Darknet, CVAT)
or by folders (Label Studio). No file is opened that lies outside of the data root, whatever these files say."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pix2seq import coco_person
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.file_names import leads_out
from pix2seq.dataset.images import IMAGE_SUFFIXES, OTHER_SUFFIXES
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.splits import TEST, TRAIN, VAL, Part, role_of, split_folders
from pix2seq.dataset.yolo import Classes, holds_labels, label_files, read_yolo
from pix2seq.errors import UserError, plain, shown
from pix2seq.runtime.paths import folders_below
from pix2seq.runtime.text import decode_text
from pix2seq.runtime.yaml_text import parse_yaml
from pix2seq.schema import read_bytes
from pix2seq.token_ids import MOST_KEYPOINTS

if TYPE_CHECKING:
    from pix2seq.task import Task

MOST_BYTES = 2**20  # of a data set's description
MOST_OF_LIST = 64 * 2**20  # bytes of a list of images
MOST_OF_PATH, MOST_FOLDERS = 4096, 32  # characters of a path, and its last folders that are searched for
SHARED = "image whose label file is that of another image, too, left out"
TRIED = 50  # label files that are looked at to tell whether a folder is one of YOLO's
NAMES = ("classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels")
OWN_NAMES = ("data", "dataset")  # of descriptions; other YAML may be of other things
FOLDERS = ("images", "obj_train_data", "JPEGImages", ".")  # of all images of a data set without splits


class YoloLayout(Layout):
    """Images with YOLO's text labels: `splits` are the images of each, by their paths below `root`."""

    def __init__(
        self,
        root: Path,
        title: str,
        classes: Classes,
        splits: Mapping[str, Sequence[str]],
        problems: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.root, self.title, self.classes, self.splits = root, title, classes, dict(splits)
        self.problems = list(problems)

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` that are about objects; those that need keypoints where the labels have some."""
        posed = bool(self.classes.points[0])
        return {name: t for name, t in tasks.items() if t.about_objects and (posed or not t.needs_skeleton)}

    def describe(self, split: str) -> str:
        return os.path.commonpath([str(PurePosixPath(name).parent) for name in self.splits[split]]) or "."

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        stems = Counter(map(_without_suffix, self.splits[part.split]))
        names = [name for name in self.splits[part.split] if stems[_without_suffix(name)] == 1]
        shared = sorted(set(self.splits[part.split]).difference(names))
        chosen = [name for name, kept in zip(names, part.chosen(names), strict=True) if kept]
        problems = [*self.problems, *((SHARED, name) for name in shared)]
        read = partial(read_yolo, self.root, chosen, self.classes, problems)
        return ImageDataset(self.root, {"labels": read}, labels.class_names, labels.classes, labels.skeleton)


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def find_yolo(root: Path) -> YoloLayout | None:
    """The layout of a folder with YOLO's labels; None if there are none. Raises UserError if a description of it cannot
    be read, or names no images that are there."""
    described = _read_yaml(root) or _read_darknet(root)
    if not described:
        splits = _folder_splits(root, labeled=True)
        return YoloLayout(root, "YOLO's labels", Classes(_listed_names(root)), splits) if splits else None
    path, content = described
    entries = {split: _texts(content[split]) for split in (*TRAIN, *VAL, *TEST) if content.get(split)}
    base = _texts(content.get("path"))
    splits, problems = {}, []
    for split, places in entries.items():
        images, lost = _images_at(places, [*(f"{text}/" for text in base), ""], root)
        problems += lost
        if images:
            splits[split] = images
        else:
            problems.append(("split without images", f"{path.name}: {split} is {shown(places)}"))
    splits = splits or _folder_splits(root, labeled=False)
    if not splits:
        named = f" at {', '.join(f'{split}: {shown(places)}' for split, places in entries.items())}" if entries else ""
        raise UserError(
            f"{path} names no images{named} that are there; expected folders or lists of images in {root}, such as "
            "train: images/train"
        )
    classes = _classes(content, path, root)
    if str(content.get("nc", len(classes.names))) != str(len(classes.names)):
        where = f"{path.name}: nc is {shown(content['nc'])}, and there are {len(classes.names)} names"
        problems.append(("number of classes that is not that of their names", where))
    return YoloLayout(root, f"YOLO's labels by {path.name}", classes, splits, problems)


def _read_yaml(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The YAML that describes the data set in a folder: `data.yaml`, or the only one that could."""
    found = {}
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            found[path] = _description(path)
        except UserError:
            if path.stem in OWN_NAMES:
                raise
    preferred = [path for path in found if path.stem in OWN_NAMES] or list(found)
    if len(preferred) > 1:
        names = " and ".join(path.name for path in preferred[:3])
        raise UserError(f"{root} holds several descriptions of data sets, {names}; leave one of them there")
    return (preferred[0], found[preferred[0]]) if preferred else None


def _description(path: Path) -> dict[str, Any]:
    """What a YAML says of a data set; raise UserError if it cannot be read or says nothing."""
    try:
        content = parse_yaml(_text(path, MOST_BYTES), _once, as_text=True)
    except RecursionError:
        raise UserError(f"{path} is nested too deep; expected YOLO's description of a data set") from None
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read ({plain(str(error))}); expected YOLO's description of a data set"
        ) from None
    if not isinstance(content, dict) or not content.keys() & {"names", "nc", *TRAIN, *VAL}:
        raise UserError(
            f"{path} describes no data set; expected the names of classes, and train, such as train: images"
        )
    return content


def _once(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """A mapping of pairs; raise ValueError for a key that is there twice or is no text."""
    if len({str(key) for key, _ in pairs}) < len(pairs) or not all(isinstance(key, str) for key, _ in pairs):
        raise ValueError("a key is there twice, or is no text")
    return dict(pairs)


def _read_darknet(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """Darknet's `obj.data`: lines such as `train = data/train.txt`."""
    path = next(iter(sorted(root.glob("*.data"))), None)
    if path is None:
        return None
    pairs = (line.partition("=") for line in _text(path, MOST_BYTES).splitlines())
    content: dict[str, Any] = {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}
    names = content.get("names")
    listed = next(iter(_inside(root, str(names), [""])), None) if names else None
    content["names"] = _lines(listed) if listed and listed.is_file() else None
    return path, content


def _classes(content: Mapping[str, Any], path: Path, root: Path) -> Classes:
    """The classes and keypoints that a data set's description names."""
    names, count = content.get("names"), content.get("nc") or content.get("classes")
    if isinstance(names, str) and names:
        listed = next(iter(_inside(root, names, [""])), None)
        if listed is None or not listed.is_file():
            raise UserError(f"{path} has names: {shown(names)}; expected a list of names, or a file with a name a line")
        names = _lines(listed)
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not names:
        numbered = range(int(count)) if str(count).isdecimal() and int(count) < 10_000 else ()
        names = {str(k): name for k, name in _listed_names(root).items()} or {str(k): f"class_{k}" for k in numbered}
    odd = [key for key, name in names.items() if not (str(key).isdecimal() and len(key) < 10 and isinstance(name, str))]
    if odd:
        raise UserError(
            f"{path} has {shown(odd[0])}: {shown(names[odd[0]])} among its names; expected a list, or numbers from 0 "
            "and a name for each"
        )
    by_number = {int(number): plain(name) or f"class_{number}" for number, name in names.items()}
    points, category = _keypoints(content, path)
    return Classes(by_number, points, category)


def _keypoints(content: Mapping[str, Any], path: Path) -> tuple[tuple[int, int], dict[str, Any]]:
    """How many keypoints an object has and of how many numbers, and their names and pairs as a category has them."""
    shape = content.get("kpt_shape")
    if not shape:
        return (0, 0), {}
    sizes = [int(text) for text in _texts(shape) if text.isdecimal() and len(text) < 6]
    if len(sizes) != 2 or not 0 < sizes[0] <= MOST_KEYPOINTS or sizes[1] not in (2, 3):
        raise UserError(f"{path} has kpt_shape: {shown(shape)}; expected [K, 2] or [K, 3], K at most {MOST_KEYPOINTS}")
    count = sizes[0]
    given = content.get("kpt_names")
    given = next(iter(given.values()), None) if isinstance(given, dict) else given
    names = (
        given if isinstance(given, list) and len(given) == count and all(isinstance(n, str) for n in given) else None
    )
    if names is None:
        names = (
            list(coco_person.KEYPOINTS) if count == len(coco_person.KEYPOINTS) else [f"point_{k}" for k in range(count)]
        )
    category: dict[str, Any] = {"keypoints": names}
    flip = [int(text) for text in _texts(content.get("flip_idx")) if text.isdecimal() and len(text) < 6]
    if sorted(flip) == list(range(count)) and all(flip[other] == point for point, other in enumerate(flip)):
        category["flip_pairs"] = [[point, other] for point, other in enumerate(flip) if point < other]
    elif content.get("flip_idx"):
        raise UserError(
            f"{path} has flip_idx: {shown(content['flip_idx'])}; expected each point's mirror image, {count} in all"
        )
    return (count, sizes[1]), category


def _listed_names(root: Path) -> dict[int, str]:
    """The classes in a file such as Label Studio's `classes.txt`, a line each."""
    folders = [root, root / "labels", *(root / name for name in TRAIN), root / "images", root / "obj_train_data"]
    paths = (folder / name for folder in folders for name in NAMES)
    return dict(enumerate(next((_lines(path) for path in paths if path.is_file()), [])))


def _lines(path: Path) -> list[str]:
    """The lines of a text without blank ones at the end."""
    return [line.strip() for line in _text(path, MOST_BYTES).rstrip().splitlines()]


def _text(path: Path, most: int) -> str:
    try:
        return decode_text(read_bytes(path, most), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({plain(str(error))}); expected a text file") from None


def _texts(value: Any) -> list[str]:
    """The texts of a list, or a text alone."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text]


def _images_at(places: Sequence[str], bases: Sequence[str], root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The images at places such as `../train/images` or `train.txt`, by their paths below the root, in order; and what
    was found otherwise than it is written, or not at all."""
    images: dict[str, None] = {}
    problems: list[tuple[str, str]] = []
    for place in places:
        path = next(iter(_inside(root, place, bases)), None)
        if path is None:
            problems.append(("place of images that is not there, or outside of the data root", plain(place)))
        elif path.is_dir():
            images |= dict.fromkeys(_images_below(path, root))
        elif path.suffix.lower() == ".txt":
            near = [path.parent.relative_to(root).as_posix() + "/", *bases]
            images |= dict.fromkeys(_listed_images(path, near, root))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images[path.relative_to(root).as_posix()] = None
    return sorted(images), problems


def _inside(root: Path, place: str, bases: Iterable[str]) -> list[Path]:
    """Where `place` is below the root: from one of the `bases`, or without the beginning of its path, which may be of
    another machine, or lead out of the root as Roboflow's `../train/images` does. Names of splits are never dropped."""
    place, found = place.replace("\\", "/").strip(), []
    if len(place) > MOST_OF_PATH:
        return []
    for base in bases:
        path = os.path.normpath(f"{base}{place}".replace("\\", "/"))
        if not path.startswith(("..", "/")) and _is_inside(root / path, root):
            found.append(root / path)
    parts = [part for part in re.sub("^[A-Za-z]:", "", place).split("/") if part not in ("", ".", "..")][-MOST_FOLDERS:]
    for start in range(len(parts)):
        if _is_inside(root.joinpath(*parts[start:]), root):
            found.append(root.joinpath(*parts[start:]))
        if role_of(parts[start]):
            break
    return found


def _is_inside(path: Path, root: Path) -> bool:
    """Whether there is a file, or a folder, below the root; folders may be links, as those of images often are."""
    try:
        return path.is_dir() or (path.exists() and not leads_out(path, root))
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        return False


def _images_below(folder: Path, root: Path) -> list[str]:
    """The images in a folder and the folders below it, as paths below the root."""
    found = []
    for place in folders_below(folder):
        below = place.relative_to(root)
        with os.scandir(place) as entries:
            found += [
                (below / entry.name).as_posix() for entry in entries if _is_image(entry.name) and not entry.is_dir()
            ]
    return sorted(found)


def _is_image(name: str) -> bool:
    """Whether a file is an image; one of a format that is not read will be left out and reported."""
    return name.lower().endswith((*IMAGE_SUFFIXES, *OTHER_SUFFIXES)) and not name.startswith(".")


def _listed_images(path: Path, bases: Sequence[str], root: Path) -> list[str]:
    """The images that a list names, a line each; each folder is searched for once."""
    folders: dict[str, str] = {}
    images = []
    for line in _text(path, MOST_OF_LIST).replace("\\", "/").splitlines():
        folder, _, name = line[-MOST_OF_PATH:].strip().strip("\"'").rpartition("/")
        if not _is_image(name):
            continue
        if folder not in folders:
            found = next((place for place in _inside(root, folder or ".", bases) if place.is_dir()), None)
            folders[folder] = found.relative_to(root).as_posix() if found else folder.lstrip("/.")
        images.append((PurePosixPath(folders[folder]) / name).as_posix())
    return images


def _folder_splits(root: Path, labeled: bool) -> dict[str, list[str]]:
    """The images of the folders that are named after splits, or of all folders as one split `all`; where they must be
    `labeled`, only if some text beside them holds labels."""
    places = [(name, folder / "images") for name, folder in split_folders(root).items()]
    places += [*split_folders(root / "images").items(), *split_folders(root).items()]
    found: dict[str, list[str]] = {}
    for split, folder in places:
        if split not in found and folder.is_dir() and (images := _images_below(folder, root)):
            found[split] = images
    if not found:
        folders = (root / name for name in FOLDERS)
        images = next((images for place in folders if place.is_dir() and (images := _images_in(place, root))), [])
        found = {"all": images} if images else {}
    texts = [path for folder in _label_folders(root, found) for path in label_files(folder)][:TRIED]
    return found if found and (not labeled or any(map(holds_labels, texts))) else {}


def _images_in(folder: Path, root: Path) -> list[str]:
    """The images in a folder; those of the root itself without those of the folders below."""
    if folder == root:
        return sorted(path.name for path in root.iterdir() if path.is_file() and _is_image(path.name))
    return _images_below(folder, root)


def _label_folders(root: Path, splits: Mapping[str, Sequence[str]]) -> list[Path]:
    """Folders where the labels of the images may be."""
    parents = dict.fromkeys(PurePosixPath(name).parent for images in splits.values() for name in images)
    swapped = (Path(re.sub(r"\bimages\b", "labels", str(parent))) for parent in parents)
    return [
        root / folder
        for folder in dict.fromkeys([*swapped, *map(Path, parents), *(p / "labels" for p in parents), Path("labels")])
    ]
