"""Measure the time and memory that an official architecture needs to detect 100 objects, with random weights.

python bench/official_detection.py --preset vit-b --image-size 1024 --precision bf16 --compile
python bench/official_detection.py --preset vit-l --image-size 1024 --device cuda
"""

from __future__ import annotations

import sys
import time

from pix2seq.command_line import Uses, command_line, names_of
from pix2seq.config import CFG

try:
    import resource
except ImportError:  # Windows
    resource = None

NUM_CLASSES = 90


def main(cfg: CFG) -> None:
    import numpy as np
    import torch

    from pix2seq.infer.load import predictor_of
    from pix2seq.models.pix2seq import Pix2Seq
    from pix2seq.models.weights import Weights
    from pix2seq.runtime.device import pick_device
    from pix2seq.tokenizers.captioning import UNKNOWN, WordVocabulary

    torch.manual_seed(cfg.seed)
    started = time.perf_counter()
    model = Pix2Seq(cfg.model).eval()
    names = {number: f"class {number}" for number in range(1, NUM_CLASSES + 1)}
    weights = Weights(model, cfg, names, WordVocabulary([UNKNOWN]).describe())
    predictor = predictor_of(weights, cfg)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{cfg.preset}: {millions:.1f} M parameters, {cfg.model.image_size} px, {pick_device(cfg.device)}")
    print(f"build     {time.perf_counter() - started:8.2f} s")
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for run in ("first", "second"):
        started = time.perf_counter()
        encoded = predictor.encode_images([image], ["detection"])
        encoding_s = time.perf_counter() - started
        started = time.perf_counter()
        predictor.predict("detection", [image], encoded=encoded)
        decoding_s = time.perf_counter() - started
        tokens = 5 * cfg.model.max_objects
        print(f"{run:<7} encode {encoding_s:6.2f} s, decode {decoding_s:6.2f} s, {tokens / decoding_s:7.1f} tokens/s")
    if resource:
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB")


if __name__ == "__main__":
    uses = Uses(
        essential=("preset", "image_size", "max_objects", "device", "precision", "compile", "seed"),
        others=(*names_of("model"), "end_threshold", "detection_top_p", "temperature"),
    )
    command_line(main, __doc__, uses, only="detection")
