"""The benchmark of a folder measures both ways."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, save_weights


def test_both_ways_find_the_same(
    bench: Callable[[str], ModuleType],
    tiny_model: Pix2Seq,
    tiny_model_cfg: CFG,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    save_weights(tmp_path / "w.safetensors", Weights(tiny_model, tiny_model_cfg, {1: "cat"}, {"words": ["<unk>", "a"]}))
    cfg = config.replace(tiny_model_cfg, image=(str(tmp_path),), weights=str(tmp_path / "w.safetensors"))
    bench("folder").main(config.replace(cfg, task="captioning"))
    first, alone, together = capsys.readouterr().out.splitlines()
    assert first.startswith("3 images, captioning")
    assert alone.startswith("one by one") and together.startswith("32 at a time")
