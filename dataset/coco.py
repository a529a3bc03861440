"""Annotated images on disk: COCO 2017's layout, or any file in COCO's annotation format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.dataset.annotation_files import (
    is_object,
    join_captions,
    join_images,
    join_objects,
    read_annotations,
    take_part,
    without_roots,
    without_uncertain,
)
from pix2seq.dataset.annotations import ObjectReader, Problems, number_classes, polygons_of
from pix2seq.dataset.box_counts import BoxCounts
from pix2seq.dataset.cache import DecodedCache
from pix2seq.dataset.file_names import first_holding, leads_out
from pix2seq.dataset.frames import boxes_by_image, is_settled, look_up, settle_all
from pix2seq.dataset.images import Header, read_reduced
from pix2seq.dataset.labels import EVERYTHING_IS_LABELED, Unlabeled, files_for
from pix2seq.dataset.skeleton import COCO_PERSON, Skeleton, default_skeleton, read_skeleton
from pix2seq.dataset.splits import Part
from pix2seq.errors import Unreadable, UserError
from pix2seq.names import match_names

if TYPE_CHECKING:
    from pix2seq.dataset.shard_files import StoredFile
    from pix2seq.task import Task

LOOKED_FOR = 100  # images of a file, some of which may be missing, that are tried to find their folder


@dataclass(frozen=True)
class Example:
    """One image and its annotations in pixels of that image.

    `image` (H, W, 3) uint8 RGB; n objects: `boxes` (n, 4) x1 y1 x2 y2, `classes` (n,), `polygons` n lists of (K, 2)
    x y arrays (empty: unknown), `keypoints` (n, P, 3) x y v (v = 0: not labeled) of the P points of `skeleton`,
    `difficult` (n,) bool: ignored in evaluation (VOC); `captions`. Crowds are left out. `unlabeled` is what of all that
    the annotations say nothing about.
    """

    image: np.ndarray
    image_id: int
    boxes: np.ndarray
    classes: np.ndarray
    polygons: list[list[np.ndarray]]
    keypoints: np.ndarray
    captions: list[str]
    difficult: np.ndarray | None = None  # none given: none is
    skeleton: Skeleton = COCO_PERSON
    unlabeled: Unlabeled = EVERYTHING_IS_LABELED

    def __post_init__(self) -> None:
        if self.difficult is None:
            object.__setattr__(self, "difficult", np.zeros(len(self.classes), dtype=bool))

    def without(self, left_out: np.ndarray) -> Example:
        """The example without the objects where `left_out` (n,) is true."""
        kept = np.flatnonzero(~left_out)
        parts = {name: getattr(self, name)[kept] for name in ("boxes", "classes", "keypoints", "difficult")}
        return replace(self, polygons=[self.polygons[index] for index in kept], **parts)

    def shrunk(self, image: np.ndarray, factor: int) -> Example:
        """The example on `image`, which is the image `factor` times smaller."""
        if factor == 1:
            return replace(self, image=image)
        return replace(
            self,
            image=image,
            boxes=self.boxes / factor,
            polygons=[[polygon / factor for polygon in polygons] for polygons in self.polygons],
            keypoints=self.keypoints / [factor, factor, 1],
        )


class ImageDataset:
    """The images below `folder` with their annotations: `read` has functions that return contents in COCO's format, of
    which only the `part` is used. Of several folders it is the first that holds some of the images.

    Attributes: `class_names` by class id; `category_ids`, the annotation files' own ids by class id; `categories`, the
    files' entries, merged; `problems`, which counts the annotations that are left out; `skeleton_fault`, why the
    keypoints cannot be used, if so.
    If `class_names` are given (those of a weights file or of the training images), categories are matched with them by
    name, and keypoints with those of `skeleton`. Otherwise the categories' ids are the class ids if each has a token,
    else classes are numbered from 1. `classes` are the names of the classes to use, all if empty.
    """

    complete = True  # all images and annotations exist already
    lists_objects = True  # every object of the classes is annotated, so that others are known not to be there
    layout = ""  # what the files were recognized as, and what of them is used, in words
    root: Path | None = None  # where images may lie, too: the whole dataset's folder
    may_leave = False  # whether they may lie outside of both
    to_draw = 0  # images that are drawn when they are first loaded
    caption_words: Sequence[str] = ()  # every word of the captions, if known without reading them
    shard_files: Sequence[StoredFile] = ()  # that hold the images, if they are no files of their own

    def __init__(
        self,
        folder: Path | Sequence[Path],
        read: Mapping[str, Callable[[], dict]],
        class_names: Mapping[int, str] | None = None,
        classes: Sequence[str] = (),
        skeleton: Skeleton | None = None,
        part: Part | None = None,
    ) -> None:
        self.read, self.part, self.problems = dict(read), part, Problems()
        self.cache: DecodedCache | None = None
        contents = {name: function() for name, function in self.read.items()}
        self.folder = folder if isinstance(folder, Path) else _folder_of(contents, folder)
        contents = take_part(contents, part) if part else contents
        for kind, where in (problem for content in contents.values() for problem in content.get("problems", [])):
            self.problems.add(kind, where)
        self._read_categories(contents, classes)
        class_ids = number_classes(self._wanted) if class_names is None else self._matched(class_names)
        self._name_labels(class_names, class_ids, self.problems)
        if skeleton and self._shares_points(skeleton):
            self._place_points(skeleton)
        self.images = join_images(contents, self.problems)
        self._listed = {image["id"]: image for image in self.images}
        self._of_objects = Problems()
        self._read_objects(contents.values())
        self.captions = join_captions(contents.values(), self._listed, self.problems)
        self.unlabeled = self._what_is_unlabeled()

    def _contents(self) -> dict[str, dict]:
        """What each annotation file says about the images of the part."""
        contents = {name: function() for name, function in self.read.items()}
        return take_part(contents, self.part) if self.part else contents

    def _read_objects(self, contents: Iterable[dict]) -> None:
        """Read the objects, or read them anew because sizes of images have changed."""
        found, count = Problems(), len(self.own_skeleton)
        strange = self._wanted.keys() - self._class_ids.keys() if self.class_names else ()
        self._reader = self._new_reader(found, strange)
        self.objects, self.crowds = self._sound_objects(contents)
        for where in self._reader.spoiled.values():
            found.add("image that is not trained on, as an object of it cannot be used", where)
        self.problems.exchange(self._of_objects, found)
        self._of_objects = found
        posed = [entry["keypoints"] for entries in self.objects.values() for entry in entries if "keypoints" in entry]
        self._own_labeled_points = (np.array(posed).reshape(-1, count, 3)[:, :, 2] > 0).any(axis=0)

    def _new_reader(self, problems: Problems, strange: Collection[int] = ()) -> ObjectReader:
        labeled = 0 if self.skeleton_fault else len(self.own_skeleton)
        return ObjectReader(self._listed, self._known, self._class_ids, labeled, problems, strange)

    def _sound_objects(self, contents: Iterable[dict]) -> tuple[dict[int, list[dict]], dict[int, int]]:
        """Objects by image, and the number of crowds of each image, which only the evaluation uses."""
        objects: dict[int, list[dict]] = {}
        crowds: dict[int, int] = {}
        for entry in filter(None, map(self._reader.read, join_objects(contents, self._reader.problems))):
            if entry["iscrowd"]:
                crowds[entry["image_id"]] = crowds.get(entry["image_id"], 0) + 1
            else:
                objects.setdefault(entry["image_id"], []).append(entry)
        return objects, crowds

    def _read_categories(self, contents: dict[str, dict], classes: Sequence[str]) -> None:
        merged: dict[int, dict] = {}
        for content in contents.values():
            for category in content.get("categories") or []:
                merged[category["id"]] = merged.get(category["id"], {}) | category
        self._merged = merged = without_roots(merged, contents.values())
        self._known = {number: str(category["name"]) for number, category in merged.items()}
        chosen = match_names(classes, self._known.values())
        self.known_classes = list(self._known.values())
        self.missing_classes = [name for name in classes if name not in chosen]
        used = set(chosen.values())
        self._wanted = {number: name for number, name in self._known.items() if not classes or name in used}

    def _matched(self, class_names: Mapping[int, str]) -> dict[int, int]:
        """Class id by file id of the wanted categories that `class_names` have too."""
        by_name = {name: class_id for class_id, name in class_names.items()}
        matches = match_names(self._wanted.values(), by_name)
        return {number: by_name[matches[name]] for number, name in self._wanted.items() if name in matches}

    def _name_labels(
        self, class_names: Mapping[int, str] | None, class_ids: dict[int, int], problems: Problems
    ) -> None:
        """Let categories have the `class_ids` (by file id), and keypoints their own places."""
        self._class_ids = class_ids
        own_names = {class_id: self._wanted[number] for number, class_id in class_ids.items()}
        self.class_names = own_names if class_names is None else dict(class_names)
        self.category_ids = {class_id: number for number, class_id in class_ids.items()}
        self.categories = [self._merged[number] for number in class_ids]
        self.skeleton_fault = ""
        try:
            self.own_skeleton = read_skeleton(self._merged.values(), class_ids, self.class_names, problems)
        except UserError as error:  # no other task than keypoints needs them
            self.skeleton_fault, self.own_skeleton = str(error), default_skeleton(self.class_names)
        self.skeleton, self._places = self.own_skeleton, None

    def _place_points(self, skeleton: Skeleton) -> None:
        """Let keypoints have the places of those with their names in `skeleton`."""
        self.skeleton, self._places = skeleton, self.own_skeleton.places_in(skeleton)
        for index in sorted(set(range(len(self.own_skeleton))) - set(self._places)) if self.names_points else ():
            self.problems.add("keypoint that the model does not have, left out", self.own_skeleton.names[index])

    def _shares_points(self, skeleton: Skeleton) -> bool:
        """Whether keypoints are to be matched by name: else they have the same, or names that say nothing."""
        own = self.own_skeleton.names
        return own != skeleton.names and bool(not self.names_points or match_names(own, skeleton.names))

    @property
    def names_points(self) -> bool:
        """Whether a category that is used lists keypoints."""
        return not self.skeleton_fault and any(category.get("keypoints") for category in self.categories)

    def adopt(self, class_names: Mapping[int, str], renumbered: Mapping[int, int], skeleton: Skeleton) -> None:
        """Share the classes and keypoints of other datasets: `renumbered` are ids in `class_names` by own class id."""
        shared = {number: renumbered[own] for number, own in self._class_ids.items()}
        self._name_labels(class_names, shared, Problems())  # its problems are known already
        self._place_points(skeleton)
        self.unlabeled = replace(self._what_is_unlabeled(), files=self.unlabeled.files)

    def lack(self, files: Iterable[str]) -> None:
        """Tasks that need one of the annotation `files` (`instances`, …) learn nothing here: others have them."""
        self.unlabeled = replace(self.unlabeled, files=frozenset(files))

    def _what_is_unlabeled(self) -> Unlabeled:
        labeled = set(self._class_ids.values()) if self.lists_objects else set()
        points = np.flatnonzero(~self.labeled_points).tolist() if self.complete else ()
        return Unlabeled(classes=tuple(sorted(self.class_names.keys() - labeled)), points=tuple(points))

    @property
    def labeled_points(self) -> np.ndarray:
        """Which of the skeleton's keypoints (P,) bool are labeled on any object."""
        return self._in_places(self._own_labeled_points[None])[0]

    def _in_places(self, points: np.ndarray) -> np.ndarray:
        """Values (n, K, …) of the files' own keypoints in the order of `skeleton` (n, P, …): 0 of others."""
        if self._places is None:
            return points
        return np.concatenate([points, np.zeros_like(points[:, :1])], axis=1)[:, self._places]

    def require_common_class(self) -> None:
        """Raise UserError if the files have categories, but none that is a class of the model."""
        if self._wanted and not self._class_ids:
            theirs, ours = (", ".join(list(names.values())[:5]) for names in (self._wanted, self.class_names))
            raise UserError(
                f"{self.folder} has no class of the model: its annotations name {theirs}, the model or the "
                f"training images {ours or 'none'}; classes are matched by name"
            )

    def __len__(self) -> int:
        return len(self.images)

    def indices_for(self, tasks: Iterable[Task], with_difficult: bool = True) -> list[int]:
        """Indices of the images that at least one of `tasks` can be trained on: detection on empty images, too.

        An image that has only crowds, or only difficult objects that are not trained on, is not empty and is left out.
        """
        tasks = list(tasks)
        return [index for index in range(len(self)) if self.is_useful(index, tasks, with_difficult)]

    def is_useful(self, index: int, tasks: Iterable[Task], with_difficult: bool = True) -> bool:
        """Whether at least one of `tasks` can be trained on an image."""
        annotated, captions = self.annotations(index)
        objects = [entry for entry in annotated if with_difficult or not entry["difficult"]]
        is_background = self.has_objects and not annotated and self.images[index]["id"] not in self.crowds
        taught = self.unlabeled_in(index).taught(tasks)
        return any(task.samples.trains_on(objects, captions, is_background) for task in taught)

    @property
    def box_counts(self) -> BoxCounts:
        """What the boxes look like as a whole."""
        return self._reader.box_counts

    @property
    def has_objects(self) -> bool:
        """Whether any image has an object: only then are images without objects taken to be empty."""
        return bool(self.objects)

    def annotations(self, index: int) -> tuple[list[dict], list[str]]:
        """The valid objects of an image, without crowds, and its captions."""
        image_id = self.images[index]["id"]
        return self.objects.get(image_id, []), self.captions.get(image_id, [])

    def unlabeled_in(self, index: int) -> Unlabeled:
        """What the annotations of an image say nothing about."""
        spoiled = self.images[index]["id"] in self._reader.spoiled
        return replace(self.unlabeled, objects=True, classes=tuple(self.class_names)) if spoiled else self.unlabeled

    def all_captions(self) -> list[str]:
        """Every caption of the split."""
        return [text for captions in self.captions.values() for text in captions]

    def name_of(self, index: int) -> str:
        """What an image is called: its file name."""
        return self.images[index]["file_name"]

    def path(self, index: int) -> Path:
        """The path of an image file."""
        return self.folder / self.images[index]["file_name"]

    def cached_as(self, index: int) -> Path:
        """A path that tells the image from others, such as a newer one of its name, if no file at `path` does."""
        return self.path(index)

    def shard_numbers(self) -> np.ndarray:
        """Which of the `shard_files` each image (n,) is in; -1: it is a file of its own."""
        return np.full(len(self), -1)

    def target(self, index: int) -> Example:
        """The example of an image without reading its pixels: `image` is empty, (0, 0, 3)."""
        objects, captions = self.annotations(index)
        boxes = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        unlabeled = [0] * 3 * len(self.own_skeleton)
        keypoints = [annotation.get("keypoints", unlabeled) for annotation in objects]
        keypoints = np.array(keypoints, dtype=np.float64).reshape(-1, len(self.own_skeleton), 3)
        return Example(
            image=np.zeros((0, 0, 3), dtype=np.uint8),
            image_id=self.images[index]["id"],
            boxes=boxes,
            classes=np.array([self._class_ids[entry["category_id"]] for entry in objects], dtype=np.int64),
            polygons=[polygons_of(annotation.get("segmentation", [])) for annotation in objects],
            keypoints=self._in_places(keypoints),
            captions=captions,
            difficult=np.array([annotation["difficult"] for annotation in objects], dtype=bool),
            skeleton=self.skeleton,
            unlabeled=self.unlabeled_in(index),
        )

    def __getitem__(self, index: int) -> Example:
        return self.load(index)

    def load(self, index: int, shrink: int = 1) -> Example:
        """The example of an image; a JPEG is decoded `shrink` (1, 2, 4, 8) times smaller, with scaled annotations."""
        target = self.target(index)
        image = self.cache.get(index, shrink) if self.cache else None
        if image is not None:
            return target.shrunk(image, shrink)
        image, factor = self.read_pixels(index, shrink)
        if self.cache and factor == shrink:
            self.cache.put(index, shrink, image)
        return target.shrunk(image, factor)

    def read_pixels(self, index: int, shrink: int = 1) -> tuple[np.ndarray, int]:
        """The pixels of an image as `read_reduced` reads them from its file, and how many times smaller they are."""
        as_stored, path = self.images[index].get("as_stored", False), self.path(index)
        if self._is_outside(path):
            raise Unreadable(f"{path} lies outside of {self.root or self.folder}; --outside-images reads it")
        return read_reduced(path, shrink, as_stored=as_stored)

    def _is_outside(self, path: Path) -> bool:
        """Whether an image is not to be opened because of where it lies."""
        return not self.may_leave and leads_out(path, *filter(None, (self.folder, self.root)))

    def leave_out_unreadable(self) -> None:
        """Compare the image files with what the annotations say about them, by their headers.

        Images are left out whose file is missing or no image, or has another size than annotated; files that are found
        by another spelling and sizes that were not known are entered. Raises UserError if no image is left, or if most
        have another size.
        """
        found = look_up(self.folder, [entry["file_name"] for entry in self.images], self._is_outside)
        if found and all(isinstance(header, str) for _, _, header in found):
            name, _, fault = found[0]
            raise UserError(
                f"none of the {len(found)} annotated images can be used; the first is {self.folder / name} ({fault}): "
                f"check the folder"
            )
        headers: dict[int, Header] = {}
        for entry, (name, how, header) in zip(self.images, found, strict=True):
            if isinstance(header, str):
                self.problems.add(f"{header}, left out", entry["file_name"])
                continue
            if how:
                self.problems.add(f"image that is found {how}", f"{entry['file_name']} is {name}")
            entry["file_name"], headers[entry["id"]] = name, header
        self.images = [entry for entry in self.images if entry["id"] in headers]
        if any(how for _, how, _ in found) and len({entry["file_name"] for entry in self.images}) < len(self.images):
            self.images = without_uncertain(self.images, self._contents().values(), self.problems)
        self._settle_frames(headers)

    def _settle_frames(self, headers: Mapping[int, Header]) -> None:
        """Let sizes be those of the files, and images be read in the frame of their annotations (see `frames`)."""
        if all(is_settled(entry, headers[entry["id"]]) for entry in self.images):
            return
        contents = self._contents().values()
        self.images, found = settle_all(self.images, headers, boxes_by_image(contents, self._listed), self.folder)
        for kind, where in found:
            self.problems.add(kind, where)
        self._read_objects(contents)
        self.unlabeled = replace(self._what_is_unlabeled(), files=self.unlabeled.files)

    def keep_decoded(self, shrinks: Sequence[int], limit_gb: float) -> None:
        """Cache decoded images on disk, `shrinks` (one per image) times smaller: the first ones up to `limit_gb`."""
        shapes: list[tuple[int, int] | None] = []
        for entry, shrink in zip(self.images, shrinks, strict=True):
            sides = entry.get("height"), entry.get("width")
            shapes.append(tuple(-(-side // shrink) for side in sides) if all(sides) else None)
        paths = [self.cached_as(index) for index in range(len(self))]
        self.cache = DecodedCache(paths, shapes, shrinks, int(limit_gb * 1e9))

    def every_object(self) -> list[dict]:
        """The valid objects of all images, crowds among them, with the keypoints in the files' own order."""
        reader = self._new_reader(Problems())
        return list(filter(None, map(reader.read, join_objects(self._contents().values(), Problems()))))

    def ground_truth(self, file: str, keypoints: bool = False) -> dict:
        """The ground truth for evaluation from `file` (`instances`, …), in COCO's format with the files' own category
        ids, crowds included; with `keypoints`, objects without keypoints get zeros.

        Annotations are valid, complete (`area`, `iscrowd`, `num_keypoints`) and numbered from 1. Difficult objects are
        marked as crowds, which COCO's evaluation ignores.
        """
        content = self.read.get(file, next(iter(self.read.values())))()
        reader = self._new_reader(Problems())
        sound = filter(None, map(reader.read, filter(is_object, content["annotations"])))
        complete = {"num_keypoints": 0, "keypoints": [0] * 3 * len(self.skeleton)} if keypoints else {}
        annotations = []
        for number, entry in enumerate(sound, 1):
            ignored = {"id": number, "iscrowd": int(entry["iscrowd"] or entry["difficult"])}
            annotations.append({"segmentation": []} | complete | self._in_places_of_entry(entry) | ignored)
        categories = [entry for entry in content.get("categories") or [] if entry["id"] in self._class_ids]
        return {"images": self.images, "annotations": annotations, "categories": categories}

    def _in_places_of_entry(self, entry: dict) -> dict:
        """The annotation with its keypoints in the order of `skeleton`."""
        if self._places is None or "keypoints" not in entry:
            return entry
        points = self._in_places(np.reshape(entry["keypoints"], (1, -1, 3)))[0]
        return entry | {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


class CocoDataset(ImageDataset):
    """One split of a folder in COCO 2017's layout, with the annotations that `tasks` need."""

    def __init__(
        self,
        root: Path,
        split: str,
        tasks: Mapping[str, Task],
        class_names: Mapping[int, str] | None = None,
        classes: Sequence[str] = (),
        images: Path | Sequence[Path] | None = None,
        skeleton: Skeleton | None = None,
        part: Part | None = None,
    ) -> None:
        """`images` is the folder of the images, or folders of which it is one, if it is not that of the layout."""
        if not images and not (root / split).is_dir():
            raise UserError(f"--data-root expects a folder with {split}/ and annotations/, found no {root / split}")
        self.root, self.split = root, split
        self.lists_objects = annotation_path(root, "instances", split).is_file()  # else perhaps only one of them
        read = {name: partial(read_annotations, annotation_path(root, name, split)) for name in files_for(tasks)}
        super().__init__(images or root / split, read, class_names, classes, skeleton, part)


def annotation_path(root: Path, name: str, split: str) -> Path:
    """The file of `instances`, `person_keypoints` or `captions` of a split."""
    return root / "annotations" / f"{name}_{split}.json"


def _folder_of(contents: Mapping[str, dict], near: Sequence[Path]) -> Path:
    """The first of the folders `near` annotation files that holds some of their images."""
    names = [image["file_name"] for content in contents.values() for image in content["images"][:LOOKED_FOR]]
    folder = first_holding(near, names)
    if folder is None:
        what = f"images such as {names[0]}, none of which is in {', '.join(map(str, near))}" if names else "no image"
        raise UserError(f"{next(iter(contents))} names {what}; name their folder with --train-images and --val-images")
    return folder
