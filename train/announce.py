"""What a run prints before and during its first steps: what it trains on, how many steps, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from pix2seq.config import CFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.runtime import distributed
from pix2seq.runtime.device import computes_bf16

MEASURED_STEPS = 10
WORSE = 1.02  # times the lowest validation loss
VALIDATION_COST = 1 / 3  # of a batch, in steps: a forward pass alone
SCENES_ARE_DRAWN = "; less once every scene is drawn"


def describe_data(cfg: CFG, training: ImageDataset, validation: ImageDataset, useful: int) -> str:
    """The images and tasks of a run, of which training images `useful` are used, and how to name other ones."""
    data, tasks = cfg.data, ", ".join(cfg.tasks)
    looked_at = min(len(validation), cfg.train.eval_images)
    if data.data_root or data.train_json:
        validated = f"the loss is validated on {looked_at} of {len(validation)} in {validation.folder}"
        return f"training {tasks} on {useful} images in {training.folder}; {validated}"
    return (
        f"training {tasks} on {useful} synthetic scenes (seed {data.scenes_seed}), the loss is validated on "
        f"{looked_at} others\n  they are drawn as they are needed and kept in {training.folder.parent}"
        f"{_still_to_draw(training)}\n"
        "  for images of your own: --data-root with a folder in the layout of COCO, YOLO, Pascal VOC or an export of "
        "CVAT, Label Studio or Roboflow, or --train-json (docs/data.md)"
    )


def _still_to_draw(training: ImageDataset) -> str:
    kept = len(training) - training.to_draw
    return f", where {kept} of the training scenes are already" if kept else ""


def describe_steps(cfg: CFG, step: int, total: int, device: torch.device, folder: Path) -> str:
    """The steps of a run of which `step` are done, and where it writes."""
    train = cfg.train
    images = train.batch_size * distributed.world_size()
    plain = (
        "" if cfg.training_precision == "fp32" or computes_bf16(device) else " in fp32, as it has no bf16 arithmetic"
    )
    begun = f"{total - step} of {total} steps" if step else f"{total} steps"
    limit = f", no longer than the epoch that passes {train.limit_minutes:g} minutes" if train.limit_minutes else ""
    epochs = f"{train.epochs} epochs" + (f" of {train.passes_per_epoch} passes" if train.passes_per_epoch > 1 else "")
    return f"{begun} of {images} images in {epochs} on {device}{plain}{limit}; files go to {folder}"


def describe_time(seconds: float, steps: float, validated: int) -> str:
    """How long a run takes of which `steps` of `seconds` each and `validated` batches without gradients are to come."""
    return f"{duration(seconds * (steps + VALIDATION_COST * validated))} to go, by a trial of the first batch"


def describe_learning(losses: Sequence[float]) -> str:
    """What is wrong with a run by the validation losses of its epochs; empty if they fell to the end."""
    if len(losses) < 2:
        return ""
    first, last, best = losses[0], losses[-1], min(losses)
    if last > best * WORSE:
        return (
            f"the validation loss rose from {best:.3f} after epoch {losses.index(best) + 1} to {last:.3f}: what was "
            "learned since holds for the training images alone; best.safetensors is of that epoch"
        )
    if last * WORSE > first:
        return (
            f"the validation loss hardly fell, from {first:.3f} after epoch 1 to {last:.3f}: the run has learned "
            "little; check the labels (dataset/check.py), or start from weights (--start-from)"
        )
    return ""


def steps_left(cfg: CFG, step: int, total: int) -> float:
    """The steps that remain after `step`, in steps that take as long as that one: time grows with the canvas's area."""
    small = total * min(cfg.train.small_epochs, cfg.train.epochs) // cfg.train.epochs
    if step >= small:
        return total - step
    return small - step + (total - small) * (3 / 2) ** 2


class Forecast:
    """Tells once, after the first steps, how long a run takes; the very first one, which warms up, is not measured."""

    def __init__(self, remark: str = "") -> None:
        self.remark, self.done, self.started = remark, 0, 0.0

    def step_done(self, left: float) -> None:
        """A step is done and `left` more of its kind are to come."""
        self.done += 1
        if self.done == 1:
            self.started = time.monotonic()
        elif self.done == 1 + MEASURED_STEPS:
            seconds = (time.monotonic() - self.started) / MEASURED_STEPS * left
            tqdm.write(f"{duration(seconds)} to go, by the time that {MEASURED_STEPS} steps took{self.remark}")


def duration(seconds: float) -> str:
    """A time in words, to about a tenth."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return f"about {minutes} min"
    if minutes < 600:
        hours, minutes = divmod(round(minutes / 10) * 10, 60)
        return f"about {hours} h" + (f" {minutes} min" if minutes else "")
    return f"about {round(minutes / 60)} h"
