"""Measure the four tasks end to end on one picture: from its pixels to results, with the weights that are shipped.

python bench/tasks.py
python bench/tasks.py --device cuda --compile --weights runs/mine/best.safetensors

Writes bench.json, in parts if you name precisions. Masks, keypoints and the caption include what they need of
detection.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pix2seq.bench.timing import computed_by, describe, machine, names, record, require, seconds, spread
from pix2seq.command_line import run_script
from pix2seq.runtime.paths import ROOT

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="photos")
    parser.add_argument("--image", type=Path, default=ROOT / "images" / "demo.jpg")
    parser.add_argument("--quick", action="store_true", help="fp32 alone")
    parser.add_argument("--precisions", type=names, default=[], help="some of the precisions of weights")
    parser.add_argument("--compile", action="store_true", help="compiled steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args()
    from pix2seq.api import Model
    from pix2seq.runtime.device import pick_device

    device = pick_device(options.device)
    require(options.precisions, PRECISIONS, "--precisions")
    report: dict[str, Any] = {**machine(device), "weights": options.weights, "rows": []}
    print(f"{describe(report)}; {options.image.name}")
    known = [way for way in computed_by(device, PRECISIONS) if way != "fp16" or not options.compile]
    for precision in options.precisions or known[: 1 if options.quick else None]:
        model = Model.load(options.weights, options.device, precision=precision, compile=options.compile)
        way = f"{precision}, compiled" if options.compile else precision
        for asked in [*([task] for task in model.tasks), list(model.tasks)]:
            times = spread(seconds(lambda model=model, asked=asked: model(options.image, asked), device))
            report["rows"].append({"precision": way, "tasks": ", ".join(asked), **times})
            spent = f"{times['ms']:8.1f} ms ({times['low']:.1f} to {times['high']:.1f})"
            print(f"{way:<16}{', '.join(asked):<52}{spent}", flush=True)
            record(options.output, "tasks", report, ("precision", "tasks"))


if __name__ == "__main__":
    run_script(main)
