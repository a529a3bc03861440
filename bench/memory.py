"""Count the memory that a training step needs, by preset and images of a batch, on a device that need not be there.

python bench/memory.py
python bench/memory.py --presets "resnet50;vit-b" --images 1 2 4 --precision fp32

Writes bench.json. The step runs with fake tensors, which have shapes and no numbers, in bf16 as on a GPU and with
sequences as long as any can be. Counted are all tensors at the worst moment: weights, their average, moments, gradients
and what is kept for the backward pass. CUDA itself and the libraries' own buffers come on top, about 1 GB of a GPU.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from pix2seq.bench.timing import record
from pix2seq.bench.training import apart, listed
from pix2seq.command_line import run_script
from pix2seq.config import PRESETS

IMAGES = (1, 4, 16)
WAYS = ("as shipped", "recompute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", type=listed, default=list(PRESETS), help="some of the presets")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES, help="of a batch")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args()
    import torch

    from pix2seq.bench.counting import needed_mb

    report: dict[str, Any] = {"torch": torch.__version__, "rows": []}
    for preset, images, way in itertools.product(options.presets, options.images, WAYS):
        peak = apart(needed_mb, preset, images, way, options.precision)
        report["rows"].append(
            {"model": preset, "images": images, "way": way, "precision": options.precision, "counted_mb": peak}
        )
        print(f"{preset:<14}{images:>3}  {options.precision}  {way:<12}{peak:9.0f} MB", flush=True)
        record(options.output, "counted memory", report, ("model", "images", "way", "precision"))


if __name__ == "__main__":
    run_script(main)
