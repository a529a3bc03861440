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
from pix2seq.runtime.alone import alone
from pix2seq.runtime.paths import writable_folder
from pix2seq.scenes.kept import in_processes, store
from pix2seq.scenes.kinds import KINDS
from pix2seq.scenes.root import VERSION
from pix2seq.scenes.scene import SPLITS, draw_jpeg
from pix2seq.schema import decode, read_bytes

MARK = "scenes.json"  # marks a folder that holds nothing but scenes, which can be drawn again


def write_dataset(root: Path, num_train: int, num_val: int, seed: int) -> None:
    """Write both splits to `root` in COCO's layout; `root` is created only when all files are complete.

    If another process is drawing there, it is waited for, and its scenes are kept if they are the same.
    """
    root = Path(root).absolute()
    described = {"num_train": num_train, "num_val": num_val, "seed": seed, "version": VERSION}
    writable_folder(root.parent, "--data-root")
    with alone(root.with_name(f".{root.name}.lock"), f"draws scenes in {root}") as waited:
        if root.exists() and any(root.iterdir()) and not (root / MARK).is_file():
            raise UserError(
                f"{root} contains files that are not synthetic scenes; choose another folder with --data-root"
            )
        if not (waited and _description(root) == described):
            _draw(root, described)


def _description(root: Path) -> dict[str, int] | None:
    """What the scenes in a folder are; None if that is not known."""
    try:
        return decode(read_bytes(root / MARK), dict[str, int], MARK)
    except (OSError, UserError):
        return None


def _draw(root: Path, described: dict[str, int]) -> None:
    """Put the scenes in the place of what is in `root`, once they are complete."""
    unfinished = root.with_name(root.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _draw_files(unfinished, described)
        shutil.rmtree(root, ignore_errors=True)
        unfinished.rename(root)
    except OSError as error:
        raise UserError(
            f"{root} cannot be written ({error.strerror}); make room, or choose another folder with --data-root"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _draw_files(folder: Path, described: dict[str, int]) -> None:
    (folder / "annotations").mkdir(parents=True)
    for split, count in zip(SPLITS, (described["num_train"], described["num_val"]), strict=True):
        (folder / split).mkdir()
        write = partial(write_image, folder / split, described["seed"], split)
        records = list(in_processes(write, range(count), f"drawing {split}"))
        for name, content in coco_files(records).items():
            (folder / "annotations" / f"{name}_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / MARK).write_text(json.dumps(described), encoding="utf-8")


def write_image(folder: Path, seed: int, split: str, index: int) -> dict[str, Any]:
    """Draw and write an image; return its record."""
    jpeg, record = draw_jpeg(seed, split, index)
    store(folder / record["image"]["file_name"], jpeg)
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
