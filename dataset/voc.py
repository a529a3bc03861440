"""Pascal VOC's layout on disk, 2007, 2012 or one's own: JPEGImages, Annotations (XML) and ImageSets/Main; or its XML
files alone, beside or near their images.

VOC's boxes are given by their first and last pixels, counted from 1; here pixel i covers [i, i + 1), so that
`xmin ymin xmax ymax` becomes `xmin - 1, ymin - 1, xmax, ymax`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pycocotools import mask as coco_mask

from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.file_names import FileNames
from pix2seq.dataset.images import DAMAGES, IMAGE_SUFFIXES, open_image
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.dataset.splits import Part
from pix2seq.dataset.voc_xml import parse_voc
from pix2seq.errors import UserError
from pix2seq.names import match_names
from pix2seq.runtime.text import read_text

if TYPE_CHECKING:
    from pix2seq.task import Task

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_FILE = "instances"  # the one of COCO's annotation files that the layout has an equivalent of
CLASS_FLAG = re.compile(r"\s+-?[01]\s*$")  # of sets such as dog_trainval: whether the image has the class
SEVERAL = "image that several files may be, left out"
VOID = 255  # value of SegmentationObject's pixels that may belong to an object or not


@dataclass(frozen=True)
class ImageSet:
    """Folders of images, of their XML and of their masks, and the `list` of those that are used; None: all that have an
    XML."""

    images: Path
    annotations: Path
    masks: Path
    list: Path | None = None

    @classmethod
    def of_voc(cls, folder: Path, list: Path | None) -> ImageSet:
        """The set in VOC's own folders."""
        return cls(folder / "JPEGImages", folder / "Annotations", folder / "SegmentationObject", list)


class VocDataset(ImageDataset):
    """The images of an image set such as `trainval`, or of several: `VOC2007/trainval,VOC2012/trainval`.

    Classes are the 20 of VOC if no others occur, else those of all annotations by name, or `classes` in their order.
    Objects have masks if `SegmentationObject` has a PNG of the image and `tasks` need masks.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        tasks: Mapping[str, Task],
        class_names: Mapping[int, str] | None = None,
        classes: Sequence[str] = (),
        skeleton: Skeleton | None = None,
        sets: Sequence[ImageSet] = (),
        part: Part | None = None,
    ) -> None:
        """`sets` are those of `split` if they are not found by its name; `part` is the part of them that is used."""
        strange = [name for name, task in tasks.items() if task.samples.COCO_FILE != VOC_FILE]
        if strange:
            raise UserError(f"Pascal VOC's layout has no annotations for {strange[0]}; use a JSON in COCO's format")
        sets = sets or [_find_set(root, name.strip()) for name in split.split(",")]
        with_masks = any(task.is_prompted for task in tasks.values())
        read = partial(read_voc, root, sets, with_masks, tuple(classes), part or Part(split))
        super().__init__(root, {VOC_FILE: read}, class_names, classes, skeleton)


def has_image_sets(root: Path, split: str) -> bool:
    """Whether a folder below `root` has an image set of each name in `split`."""
    found = [{path.stem for path in (folder / "ImageSets" / "Main").glob("*.txt")} for folder in find_voc_folders(root)]
    return all(any(part.strip().rpartition("/")[2] in sets for sets in found) for part in split.split(","))


def find_voc_folders(root: Path) -> list[Path]:
    """The folders with JPEGImages and Annotations: `root` itself, or some one or two levels below."""
    for pattern in (".", "*", "*/*"):
        found = [path for path in sorted(root.glob(pattern)) if path.is_dir()] if pattern != "." else [root]
        found = [path for path in found if (path / "JPEGImages").is_dir() and (path / "Annotations").is_dir()]
        if found:
            return found
    return []


def _find_set(root: Path, name: str) -> ImageSet:
    """The image set `trainval`, or `VOC2007/trainval` where there are several folders."""
    year, _, name = name.rpartition("/")
    folders = find_voc_folders(root)
    chosen = [folder for folder in folders if not year or folder.name == year]
    if len(chosen) != 1:
        known = ", ".join(folder.name for folder in folders)
        raise UserError(
            f"--data-root {root} holds the VOC folders {known}; name one for each image set, such as "
            f"--train-split {folders[0].name}/{name}"
        )
    sets = chosen[0] / "ImageSets" / "Main"
    if not (sets / f"{name}.txt").is_file():
        known = ", ".join(sorted(path.stem for path in sets.glob("*.txt") if "_" not in path.stem)) or "none"
        raise UserError(
            f"{sets} has no image set {name}.txt; name one of these with --train-split and --val-split: {known}"
        )
    return ImageSet.of_voc(chosen[0], sets / f"{name}.txt")


def read_voc(root: Path, sets: Sequence[ImageSet], with_masks: bool, classes: Sequence[str], part: Part) -> dict:
    """The `part` of image sets in COCO's format, `file_name` relative to `root`."""
    images, annotations, problems, names = [], [], [], set()
    listed = []
    for group in sets:
        names_of_set, other_spellings = _names(group.list, group.annotations)
        listed += [(group, name) for name in names_of_set]
        problems += other_spellings
    chosen = part.chosen([name for _, name in listed])
    listed = [entry for entry, kept in zip(listed, chosen, strict=True) if kept]
    numbers = _image_ids([name for _, name in listed])
    files = {group.images: FileNames(group.images) for group in sets}
    for (group, name), number in zip(listed, numbers, strict=True):
        path = group.annotations / f"{name}.xml"
        parsed = parse_voc(path)
        if isinstance(parsed, str):
            problems.append((parsed, str(path)))
            continue
        objects, image = parsed.objects, _image(files[group.images], name, parsed.filename)
        if isinstance(image, list):
            problems.append((SEVERAL, ", ".join(image)))
            continue
        if image.stem != name:
            problems.append(("image that is found by the name in its annotation file", f"{name}.xml: {image.name}"))
        images.append({"id": number, "file_name": image.relative_to(root).as_posix()} | parsed.sides)
        mask_path = group.masks / f"{name}.png"
        if with_masks and not _add_masks(objects, mask_path):
            problems.append(("mask file that is no image of object numbers, left out", str(mask_path)))
        problems += [(remark, f"{name}.xml") for entry in objects for remark in entry.pop("remarks")]
        names.update(entry["name"] for entry in objects if entry["name"])
        annotations += [{"id": len(annotations) + 1 + k, "image_id": number} | entry for k, entry in enumerate(objects)]
    fractions = [entry.pop("fractions") for entry in annotations]
    if fractions and all(fractions):
        raise UserError(
            f"all {len(annotations)} boxes in {sets[0].annotations} have no number above 1, as if they were fractions "
            "of the image's sides; expected xmin, ymin, xmax, ymax in pixels: multiply by the sides"
        )
    order = _class_order(names, [group.annotations for group in sets], classes)
    categories = [{"id": number, "name": name} for number, name in enumerate(order, 1)]
    ids = {name: number for number, name in enumerate(order, 1)}
    annotations = [entry | {"category_id": ids.get(entry.pop("name"))} for entry in annotations]
    return {"images": images, "annotations": annotations, "categories": categories, "problems": problems}


def _names(path: Path | None, annotations: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The images of an image set, and which of them are spelled otherwise in the folder `annotations`.

    A line is a name, perhaps with the flag that sets of single classes have, or the path of the image's file. Without a
    list these are all that have an XML there.
    """
    if path is None:
        return sorted(file.stem for file in annotations.glob("*.xml")), []
    names, problems, files = [], [], FileNames(annotations)
    for line in read_text(path).splitlines():
        if not (listed := line.strip()):
            continue
        if not (annotations / f"{listed}.xml").is_file():  # a name may end as a flag does
            listed = CLASS_FLAG.sub("", line).strip()
        name = listed
        if not (annotations / f"{name}.xml").is_file():
            last = re.split(r"[/\\]", name)[-1]
            stems = [name, last, Path(last).stem if last.lower().endswith(IMAGE_SUFFIXES) else last]
            found = next(filter(None, (files.find(f"{stem}.xml") for stem in stems)), None)
            if found:
                name = found[0].removesuffix(".xml")
                problems.append(("image whose name in the list is spelled otherwise", f"{listed} is {name}"))
        names.append(name)
    return names, problems


def _image_ids(names: Sequence[str]) -> list[int]:
    """VOC's own numbers (2007_000027 is 2007000027), or 1, 2, … if names have other characters."""
    plain = [name.replace("_", "") for name in names]
    if all(map(str.isdecimal, plain)) and len(set(map(int, plain))) == len(names):
        return [int(name) for name in plain]
    return list(range(1, len(names) + 1))


def _image(files: FileNames, name: str, filename: str) -> Path | list[str]:
    """The image of the annotation file `name`, which perhaps tells its `filename`; the names of several, of which it is
    not known which one is meant."""
    path = files.folder / f"{name}.jpg"
    if path.exists():
        return path
    found = sorted(files.folder.glob(re.sub(r"([\[*?])", r"[\1]", name) + ".*"))
    others = [other for other in found if other.name.lower().endswith(IMAGE_SUFFIXES)]
    if len(others) > 1:
        return next((other for other in others if other.name == filename), [other.name for other in others])
    if others:
        return others[0]
    named = files.find(filename) if filename and not files.find(path.name) else None
    return files.folder / named[0] if named else path


def _add_masks(objects: list[dict], path: Path) -> bool:
    """Add run lengths to `objects` from `path`, whose pixels hold object numbers from 1; False if it is damaged."""
    if not path.is_file():
        return True
    try:
        with open_image(path) as file:
            numbers = np.asarray(file)
    except DAMAGES:
        return False
    if numbers.ndim != 2:
        return False
    for number, entry in enumerate(objects[: VOID - 1], 1):
        mask = np.asfortranarray(numbers == number, dtype=np.uint8)
        if mask.any():
            entry["segmentation"] = coco_mask.encode(mask)
    return True


def _class_order(names: set[str], folders: Sequence[Path], classes: Sequence[str]) -> list[str]:
    """The existing ones of `classes` before the other `names`; without `classes` VOC's or the alphabetical order."""
    if not classes and names <= set(VOC_CLASSES):
        return list(VOC_CLASSES)
    spelled = match_names(classes, VOC_CLASSES) | match_names(classes, names)
    classes = [spelled.get(name, name) for name in classes]
    if not classes or not set(classes) <= names.union(VOC_CLASSES):
        names = names | _all_names(folders)
    chosen = [name for name in classes if name in names.union(VOC_CLASSES)]
    return [*chosen, *sorted(names.difference(chosen))]


def _all_names(folders: Sequence[Path]) -> set[str]:
    """The classes of all image sets, so that those of training and validation agree."""
    files = (path for folder in folders for path in folder.glob("*.xml"))
    parsed = (content for content in map(parse_voc, files) if not isinstance(content, str))
    return {entry["name"] for content in parsed for entry in content.objects} - {""}
