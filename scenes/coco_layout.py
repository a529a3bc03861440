"""Scenes as files in COCO's annotation format, and a whole dataset of them in COCO 2017's layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pix2seq.coco_person import KEYPOINTS, SKELETON
from pix2seq.errors import UserError
from pix2seq.scenes.kept import in_processes, write_whole
from pix2seq.scenes.kinds import KINDS
from pix2seq.scenes.root import VERSION
from pix2seq.scenes.scene import SPLITS, draw_jpeg

MARK = "scenes.json"  # marks a folder that holds nothing but scenes, which can be drawn again


def write_dataset(root: Path, num_train: int, num_val: int, seed: int) -> None:
    """Write both splits to `root` in COCO's layout; `root` is created only when all files are complete."""
    root = Path(root)
    if root.exists() and any(root.iterdir()) and not (root / MARK).is_file():
        raise UserError(f"{root} contains files that are not synthetic scenes; choose another folder with --data-root")
    unfinished = root.with_name(root.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "annotations").mkdir(parents=True)
    for split, count in zip(SPLITS, (num_train, num_val), strict=True):
        (unfinished / split).mkdir()
        write = partial(write_image, unfinished / split, seed, split)
        records = list(in_processes(write, range(count), f"drawing {split}"))
        for name, content in coco_files(records).items():
            (unfinished / "annotations" / f"{name}_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    described = {"num_train": num_train, "num_val": num_val, "seed": seed, "version": VERSION}
    (unfinished / MARK).write_text(json.dumps(described), encoding="utf-8")
    shutil.rmtree(root, ignore_errors=True)
    unfinished.rename(root)


def write_image(folder: Path, seed: int, split: str, index: int) -> dict[str, Any]:
    """Draw and write an image; return its record."""
    jpeg, record = draw_jpeg(seed, split, index)
    write_whole(folder / record["image"]["file_name"], jpeg)
    return record


def coco_files(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The contents of instances_*.json, person_keypoints_*.json and captions_*.json, by name without the split."""
    objects = [item | {"image_id": record["image"]["id"]} for record in records for item in record["objects"]]
    objects = [{"id": i} | item for i, item in enumerate(objects, 1)]
    captions = [(record["image"]["id"], text) for record in records for text in record["captions"]]
    shared = {
        "info": {"description": "Pix2Seq Toolkit scenes", "version": str(VERSION), "year": 2017},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": [record["image"] for record in records],
    }
    categories = [{"supercategory": kind.supercategory, "id": kind.category_id, "name": kind.name} for kind in KINDS]
    person = categories[0] | {"keypoints": list(KEYPOINTS), "skeleton": [list(bone) for bone in SKELETON]}
    without_keypoints = [
        {key: value for key, value in item.items() if key not in ("keypoints", "num_keypoints")} for item in objects
    ]
    return {
        "instances": shared | {"annotations": without_keypoints, "categories": categories},
        "person_keypoints": shared
        | {"annotations": [item for item in objects if "keypoints" in item], "categories": [person]},
        "captions": shared
        | {
            "annotations": [
                {"image_id": image, "id": i, "caption": text} for i, (image, text) in enumerate(captions, 1)
            ]
        },
    }
