"""Measure the speed of encoding, decoding and training with the model and data that the flags describe.

python bench/benchmark.py
python bench/benchmark.py --preset deit3-small --device cuda --batch-size 16
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pix2seq.bench.timing import finish
from pix2seq.command_line import Uses, command_line, names_of
from pix2seq.config import CFG, replace

if TYPE_CHECKING:
    from torch import Tensor

    from pix2seq.dataset.batches import Batch
    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.train.engine import Trainer

RESPONSE_TOKENS = 128
TRAIN_STEPS = 12
REPEATS = 5


def main(cfg: CFG) -> None:
    import torch

    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.runtime.device import image_format, pick_device

    torch.manual_seed(cfg.seed)
    device = pick_device(cfg.device)
    model = Pix2Seq(cfg.model).eval().to(device, memory_format=image_format(device))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{device}, {torch.get_num_threads()} threads; {millions:.1f} M parameters, {cfg.model.image_size} px")
    with torch.inference_mode():
        benchmark_inference(model, cfg)
    benchmark_training(cfg)


def benchmark_inference(model: Pix2Seq, cfg: CFG) -> None:
    """Time encoding and decoding, for one image and for a batch of images."""
    import torch

    for count in dict.fromkeys((1, cfg.infer.eval_batch_size)):
        images = torch.rand(count, 3, cfg.model.image_size, cfg.model.image_size, device=model.device)
        memory = model.encode(images)
        encoding_s = fastest(lambda images=images: model.encode(images), model)
        report(f"encode, {count} at a time", 1e3 * encoding_s / count, "ms per image")
        length = min(RESPONSE_TOKENS, cfg.model.max_tokens)
        cached_s = fastest(lambda memory=memory, length=length: decode_cached(model, memory, length), model)
        report(f"decode, {count} at a time", 1e3 * cached_s / length, "ms per step")
        report(f"decode, {count} at a time", count * length / cached_s, "tokens/s")
        if count == 1:
            uncached_s = fastest(lambda memory=memory, length=length: decode_uncached(model, memory, length), model, 1)
            report("decode without a cache", 1e3 * uncached_s / length, "ms per step")
            report("the cache makes decoding", uncached_s / cached_s, f"times as fast over {length} tokens")


def decode_cached(model: Pix2Seq, memory: Tensor, length: int) -> None:
    """Greedily decode `length` tokens for each image of `memory` (B, N, D)."""
    import torch

    tokens = torch.full((len(memory), 1), 10, device=model.device)
    decoder = model.prepare()
    cache = decoder.start(memory, torch.arange(len(memory), device=model.device), length)
    for _ in range(length):
        tokens = decoder.step(tokens, cache).argmax(-1, keepdim=True)


def decode_uncached(model: Pix2Seq, memory: Tensor, length: int) -> None:
    """Decode the same tokens, with the whole sequence processed again for each token."""
    import torch

    tokens = torch.full((len(memory), 1), 10, device=model.device)
    which = torch.arange(len(memory), device=model.device)
    for _ in range(length):
        logits = model.decoder(tokens, model.decoder.project_memory(memory), which)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)


def benchmark_training(cfg: CFG) -> None:
    """Time steps of the training loop on real batches, and how long they wait for the data."""
    from pix2seq.dataset.sources import open_split
    from pix2seq.tasks import choose_tasks
    from pix2seq.train.engine import Trainer

    open_split(cfg, cfg.data.train_split, choose_tasks(cfg.tasks))  # draws synthetic scenes now, not in the steps
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            replace(cfg, run_dir=folder, steps_per_epoch=TRAIN_STEPS + 1, small_epochs=0, pretrained=False)
        )
        trainer.begin_epoch(0)
        trainer.model.train()
        batches = iter(trainer.loader)
        train = partial(train_once, trainer)
        train(next(batches))
        started, waited, steps = time.perf_counter(), 0.0, len(trainer.sampler) - 1
        for _ in range(steps):
            requested = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - requested
            train(batch)
        spent = time.perf_counter() - started
    report(f"train, {cfg.train.batch_size} at a time", steps * cfg.train.batch_size / spent, "images/s")
    report("train, share of waiting for data", 100 * waited / spent, "%")


def train_once(trainer: Trainer, batch: Batch) -> None:
    """Take one optimizer step and wait until the device has finished it."""
    losses, _ = trainer.train_step(batch.to(trainer.device), 1e-6)
    next(iter(losses.values())).item()


def fastest(work: Callable[[], object], model: Pix2Seq, repeats: int = REPEATS) -> float:
    """Seconds that the fastest of `repeats` calls of `work` takes, after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        finish(model.device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def report(what: str, value: float, unit: str) -> None:
    print(f"{what:<34} {value:10.2f} {unit}")


if __name__ == "__main__":
    uses = Uses(
        essential=(
            "preset",
            "device",
            "image_size",
            "backbone",
            "transformer",
            "batch_size",
            "eval_batch_size",
            "workers",
        ),
        others=("task", "seed", *names_of("model", "data", "train")),
        trains=True,
    )
    uses = uses.without(
        "shard_size",
        "run_dir",
        "resume",
        "overwrite",
        "start_from",
        "pretrained",
        "epochs",
        "limit_minutes",
        "eval_every",
        "store",
    )
    command_line(main, __doc__, uses, scenes_train=640, scenes_val=32)
