"""Many images through one process take no more memory than few."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.infer import output
from pix2seq.infer import run as script
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, save_weights

STATUS = Path("/proc/self/statm")
IMAGES, EARLY = 2000, 100
KEYPOINTS = dict(names=("n", "l", "r"), flip=(0, 2, 1), bones=((0, 1),), class_ids=(1,), sigmas=(0.1, 0.1, 0.1))


def resident_bytes() -> int:
    return int(STATUS.read_text(encoding="utf-8").split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="this system does not say how much memory a process has")
def test_two_thousand_images_take_the_memory_of_a_hundred(
    tiny_model: Pix2Seq, tiny_model_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rng, folder, used = np.random.default_rng(0), tmp_path / "images", []
    folder.mkdir()
    for number in range(IMAGES):
        side = 32 + 16 * (number % 12)
        pixels = rng.integers(0, 256, (side, 240 - side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.{('jpg', 'png', 'gif', 'webp')[number % 4]}")
    described = {1: "person", 2: "cup"}, {"words": ["<unk>", "a", "cup"]}, KEYPOINTS
    short = config.replace(tiny_model_cfg, max_objects=1, max_points=4, max_words=4)  # answers of few tokens
    save_weights(tmp_path / "w.safetensors", Weights(tiny_model, short, *described))
    cfg = config.replace(short, weights=str(tmp_path / "w.safetensors"), output_dir=str(tmp_path / "out"))
    cfg = config.replace(cfg, image=(str(folder),), num_samples=1, score_threshold=0.0)
    write = output.write_result

    def write_and_measure(*arguments: object) -> list[Path]:
        used.append(resident_bytes())
        return write(*arguments)

    monkeypatch.setattr(output, "write_result", write_and_measure)
    with contextlib.redirect_stdout(io.StringIO()):
        script.run(cfg)
    assert len(used) == IMAGES and len(list((tmp_path / "out").glob("*/result.json"))) == IMAGES
    print(f"resident after {EARLY} images {used[EARLY - 1] / 1e6:.1f} MB, after {IMAGES} {used[-1] / 1e6:.1f} MB")
    assert used[-1] < 1.05 * used[EARLY - 1]
