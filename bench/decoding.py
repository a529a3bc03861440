"""Measure a decoding step beside other algorithms and beside the time that reading its weights and caches takes.

python bench/decoding.py --quick
python bench/decoding.py --models resnet50,vit-b
python bench/decoding.py --device cuda --output results/bench

Writes bench.json, in parts if you name models; plot.py draws it. Models are of real sizes with random weights. All
figures of a model are from one run, medians with quartiles; those with a busy process share the processor with one that
never waits. Limits are those of this run's bandwidth, and for encoding of its matrix products.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.bench.timing import bandwidth, computed_by, machine, matmul_rate, operations, record, seconds, spread
from pix2seq.command_line import run_script
from pix2seq.config import PRESETS, replace

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.models.step import StepDecoder

MODELS = {"demo": 192, "deit3-small": 384, "resnet50": 640, "vit-b": 640, "vit-b-1024": 1024}  # image sizes
PRESET = {"vit-b-1024": "vit-b"}
QUICK = ("deit3-small", "resnet50", "vit-b")
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # of a weight
SEQUENCES, LENGTH, COORDINATES = (1, 8, 64), 250, range(1000, 2000)
MOST_BYTES = 3e9  # of caches and weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three models, one sequence")
    parser.add_argument("--models", type=lambda text: text.split(","), default=[], help="some of the models")
    parser.add_argument("--compile", action="store_true", help="compiled steps, too (extra [fast])")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args()
    import torch

    from pix2seq.runtime.device import pick_device

    device = pick_device(options.device)
    torch.manual_seed(0)
    for name in options.models or (QUICK if options.quick else MODELS):
        speed = {"read_gb_s": bandwidth(device), "gflops": matmul_rate(device) / 1e9}
        report: dict[str, Any] = {**machine(device), **speed, "rows": []}
        print(
            f"{report['processor']}, {report['instructions']}, {report['threads']} threads; "
            f"reads {speed['read_gb_s']:.1f} GB/s, multiplies at {speed['gflops']:.0f} GFLOP/s"
        )
        for row in measure(name, device, SEQUENCES[:1] if options.quick else SEQUENCES, options.compile):
            row["limit_ms"] = row["bytes"] / speed["read_gb_s"] / 1e6 + row["operations"] / speed["gflops"] / 1e6
            report["rows"].append(row)
            times = f"{row['ms']:9.2f} ms ({row['low']:.2f} to {row['high']:.2f})"
            about = f"{row['model']:<16}{row['sequences']:>3}  {row['way']:<34}{times:<34}"
            print(f"{about}limit {row['limit_ms']:.2f}", flush=True)
        record(options.output, "decoding", report, ("model",))


def measure(name: str, device: torch.device, counts: tuple[int, ...], compiled: bool) -> Iterator[dict[str, Any]]:
    """The figures of a model."""
    import torch

    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.runtime import threads
    from pix2seq.runtime.device import has_numba

    cfg = replace(PRESETS[PRESET.get(name, name)], image_size=MODELS[name]).model
    model = Pix2Seq(cfg).eval().to(device)
    decoders = {way: model.prepare(way) for way in computed_by(device, BYTES)}
    decoders |= {f"{way}, compiled": model.prepare(way, True) for way in ("fp32", "bf16", "int8") if compiled}
    for count in counts:
        images = torch.rand(1, 3, cfg.image_size, cfg.image_size, device=device)
        with torch.inference_mode():
            memory = model.encode(images).expand(count, -1, -1)

        def row(
            way: str, work: Callable[[], object], read: float, count: int = count, memory: Tensor = memory
        ) -> dict[str, Any]:
            about = {"model": name, "image_size": cfg.image_size, "sequences": count, "memory": memory.shape[1]}
            return {**about, "way": way, "bytes": read, "operations": 0, **spread(seconds(work, device))}

        size = bytes_of(decoders["fp32"], memory)
        if size > MOST_BYTES:
            continue
        fp32 = step_of(decoders["fp32"], memory)
        if count == 1:
            work = partial(encode, model, images)
            yield row("encode", work, 0) | {"operations": operations(work)}
            yield row("seed: the image at each token", lambda images=images: seed_step(model, images), size)
        yield row("input cache", input_cache_step(model, memory), size)
        yield row("fp32, whole vocabulary", step_of(decoders["fp32"], memory, whole=True), size)
        for way, decoder in decoders.items():
            if count > 1 and way.endswith("compiled") and has_numba(device):
                continue  # numba's steps are those of one sequence
            yield row(way, step_of(decoder, memory), bytes_of(decoder, memory))
        if device.type != "cpu":
            continue
        usual = threads.ONE_THREAD
        if count == 1:
            with busy_process():
                yield row("fp32, busy process", fp32, size)
                threads.ONE_THREAD = 0
                yield row("fp32, all threads, busy process", fp32, size)
        for way, limit in (("all threads", 0), ("one thread", math.inf)):
            threads.ONE_THREAD = limit
            yield row(f"fp32, {way}", fp32, size)
        threads.ONE_THREAD = usual


def step_of(decoder: StepDecoder, memory: Tensor, whole: bool = False) -> Callable[[], object]:
    """A step of one token for each image, in the middle of a response of LENGTH, that chooses a coordinate."""
    import torch

    from pix2seq.models.choices import Part

    part = None if whole else Part(torch.tensor(COORDINATES, device=memory.device))
    cache = decoder.start(memory, torch.arange(len(memory), device=memory.device), LENGTH)
    tokens = torch.full((len(memory), 1), 10, device=memory.device)

    def work() -> object:
        cache.length = LENGTH // 2
        return decoder.step(tokens, cache, part).argmax(-1)

    return work


def bytes_of(decoder: StepDecoder, memory: Tensor) -> float:
    """What a step reads: weights of layers, rows of the output, keys and values."""
    weights = decoder.multiplications * BYTES[decoder.precision]
    width = decoder.embedding.shape[1]
    kept = 2 * len(memory) * (memory.shape[1] + LENGTH // 2) * width * len(decoder.layers)
    return weights + len(COORDINATES) * width * decoder.embedding.itemsize + kept * decoder.dtype.itemsize


def encode(model: Pix2Seq, images: Tensor) -> Tensor:
    """The memory of the images."""
    import torch

    with torch.inference_mode():
        return model.encode(images)


def seed_step(model: Pix2Seq, images: Tensor) -> Tensor:
    """A token without any cache: the image is encoded again, and all tokens so far are read again."""
    import torch

    with torch.inference_mode():
        tokens = torch.full((len(images), LENGTH // 2), 10, device=images.device)
        return model(images, tokens, torch.arange(len(images), device=images.device))[:, -1].argmax(-1)


def input_cache_step(model: Pix2Seq, memory: Tensor) -> Callable[[], object]:
    """A token where the inputs of layers are kept: keys and values, of the memory too, are projected at each step."""
    import torch
    import torch.nn.functional as F

    decoder = model.decoder
    past = [memory.new_zeros(len(memory), LENGTH // 2, memory.shape[2]) for _ in decoder.layers]
    tokens = torch.full((len(memory), 1), 10, device=memory.device)

    @torch.inference_mode()
    def work() -> object:
        x = decoder.embedding(tokens)
        for layer, inputs in zip(decoder.layers, past, strict=True):
            own, cross = layer.self_attention, layer.cross_attention
            y = layer.norm_self(torch.cat([inputs, x], dim=1))
            x = x + own(own.queries(y[:, -1:]), *own.keys_values(y))
            x = x + cross(cross.queries(layer.norm_cross(x)), *cross.keys_values(memory))
            x = layer.feed_forward(x)
        return F.softmax(decoder.logits(x[:, -1]), -1).argmax(-1)

    return work


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Within this context another process computes without a pause."""
    process = multiprocessing.get_context("spawn").Process(target=_compute, daemon=True)
    process.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _compute() -> None:
    while True:
        pass


if __name__ == "__main__":
    run_script(main)
