"""Pictures and annotations on disk in COCO 2017's layout, drawn scenes included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import UserError
from dataset.images import read_image
from tokenizers.vocabulary import CLASS_SHIFT, COORD_SHIFT

NUM_KEYPOINTS = 17
# A mirrored person's left joints are its right ones: COCO's order with each left/right pair swapped.
KEYPOINT_FLIP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
FILES = {
    "detection": "instances",
    "segmentation": "instances",
    "keypoint": "person_keypoints",
    "captioning": "captions",
}


@dataclass(frozen=True)
class Example:
    """One picture and its target in pixels of that picture.

    `image` (H, W, 3) uint8 RGB; n objects: `boxes` (n, 4) x1 y1 x2 y2, `classes` (n,), `polygons` n lists of (K, 2)
    x y arrays (empty: unknown), `keypoints` (n, 17, 3) x y v (v = 0: not labelled); `captions`.
    """

    image: np.ndarray
    image_id: int
    boxes: np.ndarray
    classes: np.ndarray
    polygons: list[list[np.ndarray]]
    keypoints: np.ndarray
    captions: list[str]


class CocoDataset:
    """The pictures of one split, with the annotations that `tasks` need."""

    def __init__(self, root: Path, split: str, tasks: Sequence[str]) -> None:
        self.folder = root / split
        if not self.folder.is_dir():
            raise UserError(f"--data-root expects a folder with {split}/ and annotations/, found no {self.folder}")
        annotated = {name: _load(root, name, split) for name in dict.fromkeys(FILES[task] for task in tasks)}
        self.class_names = {
            category["id"]: category["name"]
            for name in ("person_keypoints", "instances")
            for category in annotated.get(name, {}).get("categories", [])
        }
        odd = [number for number in self.class_names if not 0 < number < COORD_SHIFT - CLASS_SHIFT]
        if odd:
            raise UserError(
                f"{root / 'annotations'}: category ids must be 1 to {COORD_SHIFT - CLASS_SHIFT - 1}, got {odd[0]} "
                f"({self.class_names[odd[0]]}); number the categories from 1"
            )
        images = {image["id"]: image for content in annotated.values() for image in content["images"]}
        self.images = [images[image_id] for image_id in sorted(images)]
        self.objects = _by_image(_merge_objects(annotated))
        self.captions = _by_image(annotated.get("captions", {}).get("annotations", []))

    def __len__(self) -> int:
        return len(self.images)

    def indices_for(self, tasks: Sequence[str]) -> list[int]:
        """The pictures that at least one of `tasks` can learn from; detection learns from empty pictures too."""
        if "detection" in tasks:
            return list(range(len(self)))
        return [index for index, entry in enumerate(self.images) if self._teaches(entry["id"], tasks)]

    def _teaches(self, image_id: int, tasks: Sequence[str]) -> bool:
        objects = self.objects.get(image_id, [])
        return (
            ("captioning" in tasks and image_id in self.captions)
            or ("segmentation" in tasks and any(_polygons(entry.get("segmentation", [])) for entry in objects))
            or ("keypoint" in tasks and any(any(entry.get("keypoints", [])[2::3]) for entry in objects))
        )

    def all_captions(self) -> list[str]:
        """Every caption of the split."""
        return [entry["caption"] for entries in self.captions.values() for entry in entries]

    def __getitem__(self, index: int) -> Example:
        entry = self.images[index]
        objects = self.objects.get(entry["id"], [])
        boxes = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        keypoints = [annotation.get("keypoints", [0] * 3 * NUM_KEYPOINTS) for annotation in objects]
        return Example(
            image=read_image(self.folder / entry["file_name"]),
            image_id=entry["id"],
            boxes=boxes,
            classes=np.array([annotation["category_id"] for annotation in objects], dtype=np.int64),
            polygons=[_polygons(annotation.get("segmentation", [])) for annotation in objects],
            keypoints=np.array(keypoints, dtype=np.float64).reshape(-1, NUM_KEYPOINTS, 3),
            captions=[caption["caption"] for caption in self.captions.get(entry["id"], [])],
        )


def _load(root: Path, name: str, split: str) -> dict:
    path = annotation_path(root, name, split)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no annotation file {path}; expected COCO 2017's layout below {root}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); get the file again") from None
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise UserError(f"{path} has no lists `images` and `annotations`; expected COCO's annotation format")
    return content


def annotation_path(root: Path, name: str, split: str) -> Path:
    """The file of `instances`, `person_keypoints` or `captions` of a split."""
    return root / "annotations" / f"{name}_{split}.json"


def _merge_objects(annotated: dict[str, dict]) -> list[dict]:
    """Objects of both files but crowds and empty boxes; a person in both (same id) is one object with keypoints."""
    merged: dict[int, dict] = {}
    for name in ("instances", "person_keypoints"):
        for annotation in annotated.get(name, {}).get("annotations", []):
            merged[annotation["id"]] = merged.get(annotation["id"], {}) | annotation
    return [entry for entry in merged.values() if not entry.get("iscrowd") and min(entry["bbox"][2:]) > 0]


def _by_image(annotations: list[dict]) -> dict[int, list[dict]]:
    grouped: dict[int, list[dict]] = {}
    for annotation in annotations:
        grouped.setdefault(annotation["image_id"], []).append(annotation)
    return grouped


def _polygons(segmentation: list | dict) -> list[np.ndarray]:
    if isinstance(segmentation, dict):  # run lengths, which COCO uses for crowds only
        return []
    return [np.array(flat, dtype=np.float64).reshape(-1, 2) for flat in segmentation if len(flat) >= 6]
