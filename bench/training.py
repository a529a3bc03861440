"""Measure training steps with and without each switch, and the memory that a step needs.

python bench/training.py --quick
python bench/training.py --presets resnet50 --ways "as shipped;all switches off"
python bench/training.py --device cuda --compile
python bench/training.py --memory

Writes bench.json, in parts if you name presets or ways. Steps are those of the training loop, on batches of synthetic
scenes that are prepared before the clock runs (`loading.py` measures that). Each way has a process of its own, whose
memory is what it takes on top of an idle one with torch: on a GPU what torch has allocated there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.bench.timing import machine, record, seconds, spread
from pix2seq.command_line import run_script
from pix2seq.config import PRESETS, replace

if TYPE_CHECKING:
    from torch import Tensor

    from pix2seq.dataset.batches import Batch
    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.train.engine import Trainer

PADDED, FIRST, NOT_FUSED = "padded sequences, all tokens scored", "channels first", "AdamW that is not fused"
# Changes of the settings by name, or what `_change` does to the trainer.
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
SPEED = {"demo": 8, "resnet50": 2}  # images of a batch
MEMORY = ("demo", "deit3-small", "resnet50", "vit-b", "vit-l")
BATCHES = (1, 2, 4, 8)
PREPARED = 4  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the demo model alone")
    parser.add_argument("--presets", type=listed, default=[], help="some of the presets")
    parser.add_argument("--ways", type=listed, default=[], help="some of the ways")
    parser.add_argument("--memory", action="store_true", help="the peak memory of presets and batches, not the speed")
    parser.add_argument("--compile", action="store_true", help="steps by torch.compile, too, which takes minutes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args()
    from pix2seq.runtime.device import pick_device

    report: dict[str, Any] = {**machine(pick_device(options.device)), "rows": []}
    print(f"{report['processor']}, {report['instructions']}, {report['threads']} threads")
    for preset, size, way in cases(options):
        row = apart(measure, preset, size, way, options.device, options.memory)
        report["rows"].append(row)
        speed = (
            ""
            if options.memory
            else f"{row['images_s']:8.2f} images/s{row['ms']:9.0f} ms ({row['low']:.0f} to {row['high']:.0f})"
        )
        print(f"{preset:<12}{size:>3}  {way:<36}{speed}{row['peak_mb']:8.0f} MB", flush=True)
        record(options.output, "memory" if options.memory else "training", report, ("model", "images", "way"))


def cases(options: argparse.Namespace) -> Iterator[tuple[str, int, str]]:
    """Preset, images of a batch, and way."""
    presets = options.presets or list(MEMORY if options.memory else SPEED)[: 1 if options.quick else None]
    if options.memory:
        yield from itertools.product(presets, BATCHES, options.ways or ("as shipped", "recompute"))
        return
    ways = options.ways or [way for way in WAYS if way != "compile" or options.compile]
    yield from ((preset, SPEED[preset], way) for preset in presets for way in ways)


def listed(text: str) -> list[str]:
    """Names that are separated by semicolons."""
    return text.split(";")


def apart(work: Callable[..., Any], *case: Any) -> Any:
    """What `work` makes of a case in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, case)


def measure(preset: str, size: int, way: str, device: str, once: bool) -> dict[str, Any]:
    """The figures of one way; of a single step where memory alone counts."""
    import torch

    idle = resident_mb("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(preset, size, way, device, folder)
        batches = [batch.to(trainer.device) for batch in itertools.islice(trainer.loader, PREPARED)]
        following = itertools.cycle(batches)

        def step() -> None:
            losses, _ = trainer.train_step(next(following), 1e-6)
            next(iter(losses.values())).item()

        if once:
            step()
            times = {}
        else:
            times = spread(seconds(step, trainer.device))
            times["images_s"] = 1e3 * size / times["ms"]
        trainer.close()
    on_gpu = trainer.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else resident_mb("VmHWM") - idle
    return {"model": preset, "images": size, "way": way, "peak_mb": peak, **times}


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
    _change(trainer, way)
    return trainer


def _change(trainer: Trainer, way: str) -> None:
    """The ways that no setting describes."""
    import torch

    from pix2seq.train import learner

    everything = way == "all switches off"
    if way == FIRST or everything:
        trainer.model.to(memory_format=torch.contiguous_format)
    if way == NOT_FUSED or everything:
        for group in trainer.optimizers.parts[0].param_groups:
            group["fused"] = False
    if way == PADDED or everything:
        learner.batch_losses = padded_losses


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
