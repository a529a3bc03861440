"""Measure training steps with and without each switch, and the memory that a step needs.

python bench/training.py --quick
python bench/training.py --presets resnet50 --ways "as shipped;all switches off"
python bench/training.py --device cuda --presets "resnet50;vit-b" --compile
python bench/training.py --device cuda --memory --presets demo --images 1 4

Writes bench.json, in parts if you name presets or ways. Steps are those of the training loop, on batches of synthetic
scenes that are prepared before the clock runs (`loading.py` measures that). On a processor each way has a process of
its own, whose memory is what it takes on top of an idle one with torch; on a GPU memory is what torch allocates there
at most. With `--memory` it is that of two steps with sequences as long as any can be, which `memory.py` counts.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.bench.timing import describe, kind, machine, record, require, seconds, spread
from pix2seq.command_line import run_script
from pix2seq.config import PRESETS, replace
from pix2seq.runtime.memory import lacks_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pix2seq.dataset.batches import Batch
    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.train.engine import Trainer

PADDED, FIRST, NOT_FUSED = "padded sequences, all tokens scored", "channels first", "AdamW that is not fused"
# Changes of the settings by name, or what `changed` does to the trainer.
WAYS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    PADDED: {},
    "no layer frozen": {"frozen_stages": 0},
    FIRST: {},
    NOT_FUSED: {},
    "recompute": {"recompute": True},
    "accumulate 4": {"accumulate": 4},
    "compile": {"compile": True},
    "all switches off": {"frozen_stages": 0},
}
# Images of a batch, by kind of device.
SPEED = {"cpu": {"demo": 8, "resnet50": 2}, "gpu": {"demo": 64, "resnet50": 8, "vit-b": 8}}
MEMORY = ("demo", "deit3-small", "resnet50", "vit-b", "vit-l")
BATCHES = (1, 2, 4, 8)
PREPARED = 4  # batches
WARM_UP = {"cpu": 1, "gpu": PREPARED}  # steps: a GPU's libraries choose and allocate by the shapes of each batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the demo model alone")
    parser.add_argument("--presets", type=listed, default=[], help="some of the presets")
    parser.add_argument("--ways", type=listed, default=[], help="some of the ways")
    parser.add_argument("--images", type=int, nargs="+", default=[], help="of a batch")
    parser.add_argument("--memory", action="store_true", help="the peak memory of presets and batches, not the speed")
    parser.add_argument("--compile", action="store_true", help="steps by torch.compile, too, which takes minutes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args()
    from pix2seq.runtime.device import pick_device

    device = pick_device(options.device)
    require(options.presets, PRESETS, "--presets")
    require(options.ways, WAYS, "--ways")
    report: dict[str, Any] = {**machine(device), "rows": []}
    print(describe(report))
    for case in cases(options, kind(device)):
        try:
            row = (alone if device.type == "cuda" else apart)(measure, *case, str(device), options.memory)
        except Exception as error:
            if not lacks_memory(error):
                raise
            print("{:<12}{:>3}  {:<36}does not fit".format(*case), flush=True)
            continue
        report["rows"].append(row)
        speed = (
            ""
            if options.memory
            else f"{row['images_s']:8.2f} images/s{row['ms']:9.1f} ms ({row['low']:.1f} to {row['high']:.1f})"
        )
        print(f"{row['model']:<12}{row['images']:>3}  {row['way']:<36}{speed}{row['peak_mb']:8.0f} MB", flush=True)
        record(options.output, "memory" if options.memory else "training", report, ("model", "images", "way"))


def cases(options: argparse.Namespace, where: str) -> Iterator[tuple[str, int, str]]:
    """Preset, images of a batch, and way, on a kind of device."""
    usual = SPEED[where]
    presets = options.presets or list(MEMORY if options.memory else usual)[: 1 if options.quick else None]
    if options.memory:
        yield from itertools.product(presets, options.images or BATCHES, options.ways or ("as shipped", "recompute"))
        return
    ways = options.ways or [way for way in WAYS if way != "compile" or options.compile]
    for preset in presets:
        yield from itertools.product([preset], options.images or [usual.get(preset, 1)], ways)


def listed(text: str) -> list[str]:
    """Names that are separated by semicolons."""
    return text.split(";")


def apart(work: Callable[..., Any], *case: Any) -> Any:
    """What `work` makes of a case in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, case)


def alone(work: Callable[..., Any], *case: Any) -> Any:
    """What `work` makes of a case in this process, where nothing of other cases is left."""
    import torch

    gc.collect()
    torch.compiler.reset()
    torch.cuda.empty_cache()
    return work(*case)


def measure(preset: str, size: int, way: str, device: str, once: bool) -> dict[str, Any]:
    """The figures of one way; of two steps, the second with moments, where memory alone counts."""
    import torch

    from pix2seq.train.preflight import longest_batch

    idle, times = idle_mb(torch.device(device)), {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(preset, size, way, device, folder)
        batches = [longest_batch(trainer)] if once else list(itertools.islice(trainer.loader, PREPARED))
        following = itertools.cycle([batch.to(trainer.device) for batch in batches])

        def step() -> None:
            losses, _ = trainer.train_step(next(following), 1e-6)
            next(iter(losses.values())).item()

        with changed(trainer, way):
            if once:
                step()
                step()
            else:
                times = spread(seconds(step, trainer.device, WARM_UP[kind(trainer.device)]))
                times["images_s"] = 1e3 * size / times["ms"]
        trainer.close()
    return {"model": preset, "images": size, "way": way, "peak_mb": peak_mb(trainer.device) - idle, **times}


def idle_mb(device: torch.device) -> float:
    """Memory in use, in MB; the peak is that from here on."""
    import torch

    if device.type != "cuda":
        return resident_mb("VmRSS")
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / 1e6


def peak_mb(device: torch.device) -> float:
    """The most memory that was in use, in MB."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else resident_mb("VmHWM")


def resident_mb(name: str) -> float:
    """Memory of this process that the kernel counts under a name, in MB; nan where it does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1.024e-3 for line in lines if line.startswith(name)), float("nan"))


def prepare(preset: str, size: int, way: str, device: str, folder: str) -> Trainer:
    """A trainer at the begin of an epoch."""
    from pix2seq.train.engine import Trainer

    cfg = replace(
        PRESETS[preset],
        **{"device": device, "batch_size": size, "run_dir": folder, "pretrained": False, "workers": 0},
        **{"scenes_train": PREPARED * size, "scenes_val": 1, "small_epochs": 0, "captions_per_image": 1},
        **WAYS[way],
    )
    with contextlib.redirect_stdout(io.StringIO()):  # what it announces
        trainer = Trainer(cfg)
    trainer.begin_epoch(0)
    trainer.model.train()
    return trainer


@contextlib.contextmanager
def changed(trainer: Trainer, way: str) -> Iterator[None]:
    """Within this context steps are made in a way that no setting may describe."""
    import torch

    from pix2seq.train import learner

    everything, packed = way == "all switches off", learner.batch_losses
    if way == FIRST or everything:
        trainer.model.to(memory_format=torch.contiguous_format)
    if way == NOT_FUSED or everything:
        for group in trainer.optimizers.parts[0].param_groups:
            group["fused"] = None  # torch chooses: a loop over tensors, on a GPU some kernels for many at once
    if way == PADDED or everything:
        learner.batch_losses = padded_losses
    try:
        yield
    finally:
        learner.batch_losses = packed


def padded_losses(
    model: Pix2Seq, batch: Batch, train: Any, head: Any, totals: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """`batch_losses` where sequences are padded to the longest of their task, and every token has logits."""
    from pix2seq.train.auxiliary_loss import auxiliary_loss
    from pix2seq.train.loss import token_loss

    memory = model.encode(batch.images)
    parts = {task: part.to(memory.device) for task, part in batch.tasks.items()}
    logits = model.decode_groups(memory, [(part.tokens, part.image_index) for part in parts.values()])
    losses = {
        task: token_loss(found, part.targets, part.weights, train.coord_sigma, train.label_smoothing, totals[task])
        for (task, part), found in zip(parts.items(), logits, strict=True)
    }
    if head:
        losses["auxiliary"] = auxiliary_loss(head, memory, batch.objects, totals["canvases"], totals["places"])
    return losses, logits[0].flatten(0, 1)


if __name__ == "__main__":
    run_script(main)
