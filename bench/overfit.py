"""Overfit 16 images to test everything from annotations to metrics; exit status 1 if a metric misses its goal.

The model is trained on these images alone, without augmentation, and evaluated on them. Every task can be trained on
each of them, and each has at least three objects; of all such images, those whose smallest object is largest are used.

python bench/overfit.py --data-root /data/coco
python bench/overfit.py --scenes-train 640 --scenes-val 32
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.command_line import TRAINING, command_line
from pix2seq.config import CFG, replace
from pix2seq.errors import UserError

if TYPE_CHECKING:
    from pix2seq.dataset.coco import ImageDataset
    from pix2seq.task import Task

IMAGES = 16
COPIES = 50  # of each image in an epoch, so that validating and saving take a small part of the time
MIN_OBJECTS = 3
AIM = 0.9
AIMED = {
    "detection": ("AP",),
    "segmentation": ("AP, true boxes", "mean IoU, true boxes"),
    "keypoint": ("AP, true boxes",),
    "captioning": ("BLEU-4",),
}


def main(cfg: CFG) -> None:
    from pix2seq.dataset.sources import open_split
    from pix2seq.evaluate.evaluation import Sizes, evaluate
    from pix2seq.evaluate.ground_truth import ground_truth_predictor
    from pix2seq.infer.load import load_predictor
    from pix2seq.tasks import choose_tasks
    from pix2seq.train.engine import train

    started, run = time.monotonic(), Path(cfg.train.run_dir)
    tasks = choose_tasks(cfg.tasks)
    cfg = write_dataset(open_split(cfg, cfg.data.train_split, tasks), tasks, run, cfg)
    train(cfg)
    predictor = load_predictor(replace(cfg, weights=str(run / "last.safetensors")))
    split = open_split(cfg, cfg.data.val_split, tasks, predictor.class_names)
    sizes = dataclasses.replace(Sizes.of(cfg), token_images=0)
    reached = evaluate(predictor, split, list(tasks), sizes).metrics
    upper_bound = evaluate(ground_truth_predictor(split, tasks, cfg), split, list(tasks), sizes).metrics
    print(f"\n{IMAGES} images, {COPIES * cfg.train.epochs} passes, {(time.monotonic() - started) / 60:.1f} minutes")
    print(f"{'':<36}{'reached':>9}{'aim':>9}{'bound':>9}")
    missed = False
    for task in cfg.tasks:
        for name in AIMED[task]:
            value = reached[task][name]
            missed |= value < AIM
            print(f"{task + ' ' + name:<36}{value:9.3f}{AIM:9.3f}{upper_bound[task][name]:9.3f}")
    if missed:
        sys.exit(1)


def write_dataset(split: ImageDataset, tasks: Mapping[str, Task], folder: Path, cfg: CFG) -> CFG:
    """Write annotation files of the chosen images into `folder`; return the settings that train and validate on them.

    For training each image is listed COPIES times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = annotations(split, choose(split, tasks))
    (folder / "train.json").write_text(json.dumps(repeat(content)), encoding="utf-8")
    (folder / "val.json").write_text(json.dumps(content), encoding="utf-8")
    files = {"train_json": str(folder / "train.json"), "val_json": str(folder / "val.json")}
    return replace(cfg, train_images=str(split.folder), **files)


def choose(split: ImageDataset, tasks: Mapping[str, Task]) -> list[int]:
    """Images with something for every one of `tasks` and MIN_OBJECTS, the largest smallest object first."""
    useful = set.intersection(*(set(split.indices_for([task])) for task in tasks.values()))
    sizes: dict[int, float] = {}
    for index in sorted(useful):
        boxes = split.target(index).boxes
        if len(boxes) >= MIN_OBJECTS and split.images[index]["id"] not in split.crowds:
            sizes[index] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).min()
    if len(sizes) < IMAGES:
        raise UserError(
            f"{split.folder} has {len(sizes)} images with {MIN_OBJECTS} objects and something for each of "
            f"{', '.join(tasks)}, expected {IMAGES}; name another --data-root or fewer tasks with --task"
        )
    return sorted(sizes, key=sizes.__getitem__, reverse=True)[:IMAGES]


def annotations(split: ImageDataset, chosen: Sequence[int]) -> dict:
    """All annotations of the `chosen` images of `split`, in COCO's format."""
    images = [split.images[index] for index in chosen]
    entries = []
    for image_id in (image["id"] for image in images):
        entries += split.objects.get(image_id, [])
        entries += [{"image_id": image_id, "caption": text} for text in split.captions.get(image_id, [])]
    return {"images": images, "annotations": entries, "categories": split.categories}


def repeat(content: dict) -> dict:
    """The images and annotations of `content`, which is in COCO's format, COPIES times each."""
    images, entries = [], []
    for copy in range(COPIES):
        images += [image | {"id": f"{image['id']}-{copy}"} for image in content["images"]]
        entries += [entry | {"image_id": f"{entry['image_id']}-{copy}"} for entry in content["annotations"]]
    numbered = [entry | {"id": number} for number, entry in enumerate(entries, 1)]
    return content | {"images": images, "annotations": numbered}


if __name__ == "__main__":
    command_line(
        main,
        __doc__,
        TRAINING.without("resume", "overwrite", "start_from", "data_weights"),
        run_dir="runs/overfit",
        overwrite=True,
        image_size=128,
        batch_size=8,
        epochs=5,
        steps_per_epoch=0,
        warmup_steps=20,
        ema_decay=0.0,
        eval_images=IMAGES,
        check_data=False,
        flip=0.0,
        min_scale=1.0,
        max_scale=1.0,
        crop_flip=0.0,
        crop_min_scale=1.0,
        crop_max_scale=1.0,
        box_jitter=0.0,
        color_jitter=0.0,
        shuffle_polygons=False,
        object_order="area",
        orders_per_image=1,
        captions_per_image=2,
        num_samples=1,  # sampled points lead an overfitted model to prefixes that it was never trained on
    )
