"""Measure exported models beside PyTorch: sizes, encoding of a canvas, and decoding of one list of objects and of 16.

python infer/export_onnx.py --weights photos --output-dir exported
python bench/exported.py --weights photos exported --threads 1

Writes bench.json. The tokens of a greedy list are the same in fp32, and so is their number.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.bench.timing import machine, record, seconds, spread
from pix2seq.command_line import run_script
from pix2seq.runtime.paths import ROOT

if TYPE_CHECKING:
    from pix2seq.infer.predictor import Predictor

SEVERAL = 16  # lists that are decoded together


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["photos"], help="weights files or names, exported folders")
    parser.add_argument("--image", type=Path, default=ROOT / "images" / "demo.jpg")
    parser.add_argument("--threads", type=int, default=0, help="of both runtimes; 0: as many as they like")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder")
    options = parser.parse_args(args)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before either is imported
    import torch

    from pix2seq.config import CFG, replace
    from pix2seq.dataset.images import read_image
    from pix2seq.infer.load import load_predictor
    from pix2seq.weights.find import find_weights

    report: dict[str, Any] = {**machine(torch.device("cpu")), "rows": []}
    print(f"{report['processor']}, {report['threads']} threads")
    print(f"{'weights':<24}{'MB':>8}{'encode ms':>12}{'tokens/s':>12}{f'of {SEVERAL} lists':>14}")
    for name in options.weights:
        predictor = load_predictor(replace(CFG(device="cpu"), weights=name))
        row = {"weights": name, "mb": size_mb(find_weights(name)), **measure(predictor, read_image(options.image))}
        report["rows"].append(row)
        print(
            f"{name[-23:]:<24}{row['mb']:8.1f}{row['encode']['ms']:12.1f}{row['tokens_per_s']:12.0f}"
            f"{row['tokens_per_s_of_several']:14.0f}"
        )
    record(options.output, f"exported {options.threads} threads", report)


def size_mb(path: Path) -> float:
    """Of a file, or of all in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def measure(predictor: Predictor, image: Any) -> dict[str, Any]:
    """Figures of one runtime."""
    import torch

    from pix2seq.models.sampling import GREEDY, Sampling

    task, device = predictor.finder.name, torch.device("cpu")
    whole = predictor.with_settings(views=1)
    encoded, prompt = whole.encode_images([image]).first, predictor.tokenizers[task].prompt()
    found: dict[str, Any] = {"encode": spread(seconds(lambda: whole.encode_images([image]), device))}
    for name, sampling, count in (("", GREEDY, 1), ("_of_several", Sampling(1.0, top_p=0.7), SEVERAL)):
        responses = predictor.generator.generate(task, encoded, [prompt], sampling, count)
        steps = sum(len(response.tokens) for response in responses)
        times = spread(
            seconds(
                lambda sampling=sampling, count=count: predictor.generator.generate(
                    task, encoded, [prompt], sampling, count
                ),
                device,
            )
        )
        found |= {f"tokens_per_s{name}": 1e3 * steps / times["ms"], f"steps{name}": steps}
    return found


if __name__ == "__main__":
    run_script(main)
