"""Measure the four tasks end to end on one picture: from its pixels to results, with the weights that are shipped.

python bench/tasks.py
python bench/tasks.py --device cuda --weights runs/mine/best.safetensors

Writes bench.json. Masks, keypoints and the caption include what they need of detection.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pix2seq.bench.timing import computed_by, machine, record, seconds, spread
from pix2seq.command_line import run_script
from pix2seq.runtime.paths import ROOT

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="photos")
    parser.add_argument("--image", type=Path, default=ROOT / "images" / "demo.jpg")
    parser.add_argument("--quick", action="store_true", help="fp32 alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args()
    from pix2seq.api import Model
    from pix2seq.runtime.device import pick_device

    device = pick_device(options.device)
    report: dict[str, Any] = {**machine(device), "weights": options.weights, "rows": []}
    print(f"{report['processor']}, {report['instructions']}, {report['threads']} threads; {options.image.name}")
    known = computed_by(device, PRECISIONS)
    for precision in known[: 1 if options.quick else None]:
        model = Model.load(options.weights, options.device, precision=precision)
        for names in [*([task] for task in model.tasks), list(model.tasks)]:
            times = spread(seconds(lambda model=model, names=names: model(options.image, names), device))
            report["rows"].append({"precision": precision, "tasks": names, **times})
            spent = f"{times['ms']:8.0f} ms ({times['low']:.0f} to {times['high']:.0f})"
            print(f"{precision:<6}{', '.join(names):<52}{spent}")
    record(options.output, "tasks", report)


if __name__ == "__main__":
    run_script(main)
