"""Measure a decoding step beside other algorithms and beside the time that reading its weights and caches takes.

python bench/decoding.py --quick
python bench/decoding.py --models resnet50,vit-b
python bench/decoding.py --device cuda --compile --sequences 1,64 --output results/bench_cuda

Writes bench.json, in parts if you name models; plot.py draws it. Models are of real sizes with random weights. All
figures of a model are from one run, medians with quartiles; those with a busy process share the processor with one that
never waits. Limits are those of this run's bandwidth, and for encoding of its matrix products in the same type; what a
cache holds is read faster. "First" are the calls before those that are measured, in which code is compiled or a CUDA
graph recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import time
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.bench.timing import (
    bandwidth,
    computed_by,
    describe,
    kind,
    machine,
    matmul_rate,
    names,
    operations,
    record,
    require,
    seconds,
    spread,
)
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
COMPILED = ("fp32", "bf16", "int8")
SEQUENCES, LENGTH, COORDINATES = (1, 8, 64), 250, range(1000, 2000)
ENCODED = {"cpu": 1, "gpu": 8}  # images at a time, at most: a processor takes as long for each of them as for one
MOST_BYTES = 3e9  # of caches and weights on a processor; a third of the memory of a GPU
WARM_UP = {"cpu": 1, "gpu": 4}  # calls: in the first ones libraries choose kernels, and CUDA graphs are recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three models, one sequence")
    parser.add_argument("--models", type=names, default=[], help="some of the models")
    parser.add_argument("--sequences", type=names, default=[], help="some of the numbers of sequences")
    parser.add_argument("--precisions", type=names, default=[], help="some of those of weights, beside fp32")
    parser.add_argument("--compile", action="store_true", help="compiled steps, too (a processor's: extra [fast])")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args()
    import torch

    from pix2seq.runtime.device import pick_device

    device = pick_device(options.device)
    torch.manual_seed(0)
    require(options.models, MODELS, "--models")
    require(options.precisions, BYTES, "--precisions")
    counts = [int(count) for count in options.sequences] or SEQUENCES[: 1 if options.quick else None]
    ways = ways_on(device, {"fp32", *(options.precisions or BYTES)}, options.compile)
    for name in options.models or (QUICK if options.quick else MODELS):
        rates = {way: matmul_rate(device, dtype) for way, dtype in encoded_in(device).items()}
        speed = {"read_gb_s": bandwidth(device), "gflops": {way: rate / 1e9 for way, rate in rates.items()}}
        report: dict[str, Any] = {**machine(device), **speed, "rows": []}
        multiplies = ", ".join(f"{rate:.0f} in {way}" for way, rate in speed["gflops"].items())
        print(f"{describe(report)}; reads {speed['read_gb_s']:.1f} GB/s, multiplies at {multiplies} GFLOP/s")
        for row in measure(name, device, counts, ways):
            computing = row["operations"] / rates.get(row["way"].removeprefix("encode, "), math.inf)
            row["limit_ms"] = row["bytes"] / speed["read_gb_s"] / 1e6 + 1e3 * computing
            report["rows"].append(row)
            times = f"{row['ms']:9.3f} ms ({row['low']:.3f} to {row['high']:.3f})"
            about = f"{row['model']:<16}{row['sequences']:>3}  {row['way']:<34}{times:<34}"
            print(f"{about}first {row['first_s']:6.2f} s  limit {row['limit_ms']:.3f}", flush=True)
            record(options.output, "decoding", report, ("model",))


def encoded_in(device: torch.device) -> dict[str, torch.dtype]:
    """The types that images are encoded in, which depend on the precision of weights."""
    import torch

    from pix2seq.runtime.device import computes_bf16

    return {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if computes_bf16(device) else {})


def ways_on(device: torch.device, precisions: Container[str], compiled: bool) -> list[tuple[str, bool]]:
    """The precisions of weights that a device has, and those in which steps can be compiled."""
    from pix2seq.runtime.device import compiles_steps

    known = [way for way in computed_by(device, BYTES) if way in precisions]
    compiled = compiled and compiles_steps(device)
    chosen = [way for way in known if compiled and way in COMPILED]
    return [(way, False) for way in known] + [(way, True) for way in chosen]


def most_bytes(device: torch.device) -> float:
    """Of caches and weights of a step that is measured: other ways keep their weights, and some compute more."""
    import torch

    return torch.cuda.mem_get_info(device)[1] / 3 if device.type == "cuda" else MOST_BYTES


def measure(
    name: str, device: torch.device, counts: Sequence[int], ways: Sequence[tuple[str, bool]]
) -> Iterator[dict[str, Any]]:
    """The figures of a model."""
    import torch

    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.runtime import threads
    from pix2seq.runtime.device import has_numba, image_format

    if device.type != "cuda" and not has_numba(device):
        torch.compiler.reset()  # torch compiles a function a few times only, and those of other models count
    cfg = replace(PRESETS[PRESET.get(name, name)], image_size=MODELS[name]).model
    model = Pix2Seq(cfg).eval().to(device, memory_format=image_format(device))
    decoders = {f"{way}, compiled" if compiled else way: model.prepare(way, compiled) for way, compiled in ways}
    for count in counts:
        images = torch.rand(min(count, ENCODED[kind(device)]), 3, cfg.image_size, cfg.image_size, device=device)
        with torch.inference_mode():
            memory = model.encode(images[:1]).expand(count, -1, -1)

        def row(
            way: str, work: Callable[[], object], read: float, count: int = count, memory: Tensor = memory
        ) -> dict[str, Any]:
            started = time.perf_counter()
            times = seconds(work, device, WARM_UP[kind(device)])
            about = {"model": name, "image_size": cfg.image_size, "sequences": count, "memory": memory.shape[1]}
            first = time.perf_counter() - started - sum(times)
            return {**about, "way": way, "bytes": read, "operations": 0, **spread(times), "first_s": first}

        size = bytes_of(decoders["fp32"], memory)
        if size > most_bytes(device):
            continue
        if count == len(images):
            for way, dtype in encoded_in(device).items():
                work = partial(encode, model, images, dtype)
                yield row(f"encode, {way}", work, 0) | {"operations": operations(work)}
        if count == 1:
            yield row("seed: the image at each token", lambda images=images: seed_step(model, images), size)
        yield row("input cache", input_cache_step(model, memory), size)
        yield row("fp32, whole vocabulary", step_of(decoders["fp32"], memory, whole=True), size)
        for way, decoder in decoders.items():
            if count > 1 and way.endswith("compiled") and has_numba(device):
                continue  # numba's steps are those of one sequence
            yield row(way, step_of(decoder, memory), bytes_of(decoder, memory))
        if device.type != "cpu":
            continue
        fp32, usual = step_of(decoders["fp32"], memory), threads.ONE_THREAD
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


def encode(model: Pix2Seq, images: Tensor, dtype: torch.dtype) -> Tensor:
    """The memory of the images, with products in a type."""
    import torch

    is_narrow = dtype == torch.bfloat16
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=is_narrow):
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
