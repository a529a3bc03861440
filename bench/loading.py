"""Measure how many training images one process prepares per second of processor time.

Files are decoded in full, at the reduced size that the canvases need, or read from the cache, which is kept below
data/cache as in training; from the cache also with copy-paste, mosaic, and both.

python bench/loading.py --data-root /data/coco --image-size 192
python bench/loading.py --data-root /data/coco_shards       # as dataset/pack_shards.py makes them

Writes bench.json.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.bench.timing import machine, record
from pix2seq.command_line import SEQUENCES, Uses, command_line, names_of
from pix2seq.config import CFG, replace
from pix2seq.errors import UserError

if TYPE_CHECKING:
    from pix2seq.dataset.samples import SampleDataset

IMAGES = 256
ROUNDS = 5
SHARE = 0.5  # of the samples that get objects of another image, or become a mosaic


def main(cfg: CFG) -> None:
    import cv2
    import torch

    if not cfg.data.cache_gb:
        raise UserError("--cache-gb 0 leaves no room for the cache that is to be measured; set it higher")
    cv2.setNumThreads(0)  # as in a loading process
    torch.set_num_threads(1)
    variants = {
        "full decoding": opened(replace(cfg, cache_gb=0.0)),
        "reduced decoding": opened(replace(cfg, cache_gb=0.0)),
        "cache": opened(cfg),
        **composing(cfg),
    }
    full = variants["full decoding"]
    full.shrinks = [1] * len(full.shrinks)
    for dataset in variants.values():
        fill_caches(dataset)
    times = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, dataset in variants.items():
            times[name].append(seconds(dataset, cfg))
    count, usual = len(keys(full, cfg)), min(times["cache"])
    print(f"{count} images, {cfg.task} at {cfg.model.image_size} px, the fastest of {ROUNDS} rounds")
    report: dict[str, Any] = {**machine(torch.device("cpu")), "rows": []}
    for name, spent in times.items():
        rate = count / min(spent)
        about = {"data": Path(cfg.data.data_root).name, "tasks": cfg.task, "image_size": cfg.model.image_size}
        report["rows"].append({**about, "way": name, "images_s": rate})
        print(f"{name:<26}{rate:8.0f} images/s{min(spent) / usual:8.2f} times as long as from the cache")
    record(Path(cfg.infer.output_dir), "loading", report, ("data", "tasks", "image_size", "way"))


def composing(cfg: CFG) -> dict[str, SampleDataset]:
    """The training samples with what puts images together, as far as the dataset and the tasks allow."""
    settings = {
        "copy-paste": {"copy_paste": SHARE},
        "mosaic": {"mosaic": SHARE},
        "copy-paste and mosaic": {"copy_paste": SHARE, "mosaic": SHARE},
    }
    found = {}
    for name, changes in settings.items():
        try:
            found[f"{name} {SHARE}"] = opened(replace(cfg, **changes))
        except UserError as error:
            print(f"{name} is not measured: {error}")
    return found


def fill_caches(dataset: SampleDataset) -> None:
    """Read every image once: the disk's cache has its file, and ours its pixels."""
    for number, shrink in enumerate(dataset.shrinks):
        dataset.examples.load(number, shrink)


def opened(cfg: CFG) -> SampleDataset:
    """The training samples of these settings."""
    from pix2seq.dataset.caption_vocabulary import training_tokenizers
    from pix2seq.dataset.samples import SampleDataset
    from pix2seq.dataset.sources import open_split
    from pix2seq.tasks import choose_tasks

    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, cfg.data.train_split, tasks)
    return SampleDataset(split, tasks, training_tokenizers(split, tasks, cfg), cfg, augment=True)


def keys(dataset: SampleDataset, cfg: CFG) -> list[tuple[int, int, int]]:
    """The keys (epoch, index, canvas size in pixels) of the first images of the first epoch."""
    return [(0, index, cfg.model.image_size) for index in range(min(IMAGES, len(dataset)))]


def seconds(dataset: SampleDataset, cfg: CFG) -> float:
    """Processor time that loading the first images takes, in seconds."""
    started = time.process_time()
    for key in keys(dataset, cfg):
        dataset[key]
    return time.process_time() - started


if __name__ == "__main__":
    uses = Uses(
        essential=("data_root", "train_split", "task", "seed", "preset", "image_size", "cache_gb", "output_dir"),
        others=(*names_of("data"), *SEQUENCES),
        trains=True,
    ).without("workers", "check_data", "copy_paste", "mosaic", "shard_size")
    command_line(main, __doc__, uses, task="detection", cache_gb=1.0, output_dir="results/bench")
