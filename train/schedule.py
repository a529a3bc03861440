"""How long a run is: the batch, passes, warm-up, logging and evaluation that fit the number of images."""

from __future__ import annotations

import math

from pix2seq.config import CFG, flag, replace, value_of

LEAST_STEPS = 500  # of a run whose length is chosen here; what fewer teach is measured in docs/data.md
TOO_FEW_STEPS = 100  # of any run
LEAST_BATCH, BATCHES = 8, 32  # images of the smallest batch, and batches of a pass that a larger one leaves
FEW_IMAGES = 2000  # with as many photographs and no weights to start from, box AP is 0.011 (docs/training.md)
LOGGED = 50  # rows of metrics, at least
WARMED = 10  # the warm-up is at most this part of a run
FITTED = ("batch_size", "passes_per_epoch", "warmup_steps", "log_steps", "eval_every")
EVALUATED_IMAGES = 300  # most validation images that are evaluated unasked, after the last epoch


def fit_to_data(cfg: CFG, images: int, validation: int, processes: int = 1) -> CFG:
    """`cfg` with the settings that nobody gave fitted to `images` in a pass and to the number of validation images.

    Few images come in smaller batches, and often enough that there are LEAST_STEPS steps, each time with another
    augmentation.
    """
    given = cfg.given

    def choose(**values: int) -> CFG:
        return replace(cfg, **{name: value for name, value in values.items() if name not in given})

    cfg = choose(batch_size=min(cfg.train.batch_size, max(LEAST_BATCH, _power_of_two(images // processes // BATCHES))))
    if not {"epochs", "steps_per_epoch"} & given:
        seen = LEAST_STEPS * cfg.train.batch_size * processes
        cfg = choose(passes_per_epoch=math.ceil(seen / (cfg.train.epochs * images)))
    steps = total_steps(cfg, images, processes)
    cfg = choose(warmup_steps=min(cfg.train.warmup_steps, steps // WARMED))
    cfg = choose(log_steps=min(cfg.train.log_steps, max(steps // LOGGED, 1)))
    if cfg.train.passes_per_epoch > 1 and validation <= EVALUATED_IMAGES:
        cfg = choose(eval_every=cfg.train.eval_every or cfg.train.epochs)
    return cfg


def total_steps(cfg: CFG, images: int, processes: int = 1) -> int:
    """The optimizer steps of a run with `images` in a pass."""
    train = cfg.train
    epoch = max(images * train.passes_per_epoch // (train.batch_size * processes), 1)
    return train.epochs * (min(epoch, train.steps_per_epoch) if train.steps_per_epoch else epoch)


def describe_choice(before: CFG, after: CFG, images: int, steps: int) -> str:
    """What `fit_to_data` changed, and whether the steps or images of a run are too few; empty if nothing of this."""
    changed = [f"{flag(n)} {value_of(after, n)}" for n in FITTED if value_of(after, n) != value_of(before, n)]
    lines = [f"chosen for {images} images: {' '.join(changed)}"] if changed else []
    if steps < TOO_FEW_STEPS:
        lines.append(f"{steps} steps are too few to learn from: raise --epochs, or lower --batch-size")
    if images < FEW_IMAGES and not after.train.start_from:
        lines.append(
            f"{images} images teach little from scratch: --start-from photos begins with what other images taught"
        )
    return "\n".join(lines)


def _power_of_two(number: int) -> int:
    """The largest one that is at most `number`, and at least 1."""
    return 1 << max(number.bit_length() - 1, 0)
