"""Embedded dataset: drawn images with boxes, masks, keypoints and captions, in exactly COCO 2017's layout.

    python dataset/scenes.py --data-root data/scenes --scenes-train 24000 --scenes-val 500 --scenes-seed 0

How an image comes about is told in `dataset/drawing`. Image i of a split depends on (seed, split, i) alone.
"""

import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from pix2seq.command_line import command_line
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.runtime.paths import project_path
from pix2seq.scenes.annotating import SceneObject, annotate
from pix2seq.scenes.backgrounds import draw_setting
from pix2seq.scenes.captions import mention, write_captions
from pix2seq.scenes.colors import Rng
from pix2seq.scenes.composing import compose, draw_size
from pix2seq.scenes.kinds import KINDS
from pix2seq.scenes.painting import paint
from pix2seq.scenes.poses import KEYPOINTS, SKELETON
from pix2seq.scenes.root import scenes_root

VERSION = 1
JPEG_QUALITY = 90
SPLITS = ("train", "val")


@dataclass
class Scene:
    """An image (H, W, 3) uint8 RGB, its objects from the back to the front, and five captions."""

    image: np.ndarray
    objects: list[SceneObject]
    captions: list[str]


def draw_scene(rng: Rng, size_px: tuple[int, int] | None = None) -> Scene:
    """Draw an image of `size_px` (width, height), or of a drawn size whose longer side is 320 px."""
    size_px = size_px or draw_size(rng)
    setting = draw_setting(rng)
    placed = compose(rng, setting, size_px)
    image = paint(rng, setting, placed, size_px)
    objects = [annotate(item) for item in placed]
    return Scene(image, objects, write_captions(rng, setting, mention(placed, objects, size_px)))


def is_written(root: Path, num_train: int, num_val: int, seed: int) -> bool:
    """Whether `root` holds exactly the dataset that `write_dataset` would write."""
    path = Path(root) / "scenes.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == describe(num_train, num_val, seed)


def describe(num_train: int, num_val: int, seed: int) -> dict[str, int]:
    return {"num_train": num_train, "num_val": num_val, "seed": seed, "version": VERSION}


def write_dataset(root: Path, num_train: int, num_val: int, seed: int) -> None:
    """Write both splits under `root` in COCO's layout; `root` appears only when all of it is written."""
    root = Path(root)
    if root.exists() and any(root.iterdir()) and not (root / "scenes.json").is_file():
        raise UserError(f"{root} holds files that are not drawn scenes: choose another folder with --data-root")
    unfinished = root.with_name(root.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "annotations").mkdir(parents=True)
    processes = multiprocessing.get_context("spawn")  # a fork hangs where OpenCV or torch have threads already
    with processes.Pool(os.cpu_count(), cv2.setNumThreads, (1,)) as pool:
        for split, count in zip(SPLITS, (num_train, num_val), strict=True):
            folder = unfinished / f"{split}2017"
            folder.mkdir()
            write = partial(write_image, folder, seed, SPLITS.index(split))
            records = list(
                tqdm(pool.imap(write, range(count), chunksize=16), f"drawing {split}", count, unit=" images")
            )
            for name, content in coco_files(records).items():
                (unfinished / "annotations" / f"{name}_{split}2017.json").write_text(
                    json.dumps(content), encoding="utf-8"
                )
    (unfinished / "scenes.json").write_text(json.dumps(describe(num_train, num_val, seed)), encoding="utf-8")
    shutil.rmtree(root, ignore_errors=True)
    unfinished.rename(root)


def write_image(folder: Path, seed: int, split_index: int, index: int) -> dict:
    """Draw and save image `index`; returns its records without the ids that depend on other images."""
    scene = draw_scene(np.random.default_rng([seed, split_index, index]))
    file_name = f"{index + 1:012d}.jpg"
    height, width = scene.image.shape[:2]
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(folder / file_name), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise UserError(f"{folder / file_name} could not be written: is the disk full?")
    image = {"id": index + 1, "file_name": file_name, "width": width, "height": height, "license": 1}
    return {"image": image, "objects": [object_record(item) for item in scene.objects], "captions": scene.captions}


def object_record(item: SceneObject) -> dict:
    record = {
        "category_id": item.category_id,
        "bbox": list(item.bbox),
        "area": item.area,
        "iscrowd": 0,
        "segmentation": [polygon.ravel().tolist() for polygon in item.polygons],
    }
    if item.keypoints is not None:
        record["keypoints"] = item.keypoints.ravel().tolist()
        record["num_keypoints"] = int((item.keypoints[:, 2] > 0).sum())
    return record


def coco_files(records: list[dict]) -> dict[str, dict]:
    """The contents of instances_*.json, person_keypoints_*.json and captions_*.json."""
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


def main(cfg: CFG) -> None:
    root = project_path(cfg.data.data_root) if cfg.data.data_root else scenes_root(cfg)
    write_dataset(root, cfg.data.scenes_train, cfg.data.scenes_val, cfg.data.scenes_seed)
    print(f"wrote {root}")


if __name__ == "__main__":
    command_line(main, __doc__)
