"""A multi-task checkpoint of the published size: what is fetched of it, and how long it takes (`-m slow -s` tells)."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pix2seq.runtime.paths import ROOT
from tests.server import Server
from tests.weights.bundle_writer import VALUE, Array, write_checkpoint

NAME, FOLDER = "multi-vit-b-640", "/multi_task/ckpt/vit_b_640x640"
TEXT_MODEL = "/multi_task/data/c4_en_32k_spm.model"
VOCAB_SIZE = 35_000
SLOTS = "{}/.OPTIMIZER_SLOT/optimizer/{}"  # legacy: beside each variable
VARIABLES = "optimizer/_variables/{}"


def random(shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Small random numbers, made when they are written."""
    return lambda: np.random.default_rng(0).normal(size=shape, scale=0.02).astype(np.float32)


@pytest.fixture(scope="module")
def shapes(reference_json: Callable) -> dict[str, tuple[int, ...]]:
    """The variables of the published multi-task ViT-B, by path."""
    listing = reference_json("real_config_variables/vit-b.json")["variables"]
    found = {entry["key"].removeprefix("model/").removesuffix(VALUE): tuple(entry["shape"]) for entry in listing}
    words = {path: (VOCAB_SIZE, *shape[1:]) for path, shape in found.items() if shape[0] == 3000}
    return found | words


def optimizer(layout: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Two moments for each variable, where the official optimizers keep them."""
    if layout == "adamw":
        return {VARIABLES.format(number): random(shape) for number, shape in enumerate([*shapes.values()] * 2)}
    return {SLOTS.format(f"model/{path}", kind): random(shape) for path, shape in shapes.items() for kind in "mv"}


@pytest.fixture(params=["adamw", "adamw_legacy"])
def published(
    request: pytest.FixtureRequest, server: Server, shapes: dict, text_model_path: Path, tmp_path: Path
) -> Iterator[Path]:
    """The folder of the checkpoint, 1.6 GB, which the server has."""
    folder = tmp_path / "published"
    folder.mkdir()
    write_checkpoint(
        folder / "ckpt-9", {path: random(shape) for path, shape in shapes.items()}, optimizer(request.param, shapes)
    )
    server.files = {f"{FOLDER}/{path.name}": path for path in folder.iterdir()}
    server.files |= {f"{FOLDER}/checkpoint": b'model_checkpoint_path: "ckpt-9"\n', TEXT_MODEL: text_model_path}
    yield folder
    for path in folder.iterdir():
        path.unlink()


def measured(command: list[str | Path]) -> str:
    """Time, that of processors, and the most memory of a command that must succeed, in words."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return f"{time.monotonic() - started:.1f} s, {errors.rsplit('used ', 1)[1].strip()}"


PROGRAM = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"used {used.ru_utime + used.ru_stime:.1f} s of processors, {used.ru_maxrss / 1e6:.2f} GB", file=sys.stderr)
"""


@pytest.mark.slow
def test_the_first_photograph(published: Path, server: Server, cache: Path, tmp_path: Path) -> None:
    flags = ["--image", ROOT / "images" / "demo.jpg", "--output-dir", tmp_path / "out", "--device", "cpu"]
    command = [sys.executable, "-c", PROGRAM, ROOT / "infer" / "infer_single_image_multi_task.py", "--weights", NAME]
    for kind in ("empty cache", "second call"):
        sent, requests = server.sent, len(server.requests)
        costs = measured([*command, *flags])
        sent, requests = server.sent - sent, len(server.requests) - requests
        print(f"\n{kind}: {costs}, {requests} requests, {sent / 1e6:.1f} MB", end="")
    whole = sum(path.stat().st_size for path in published.iterdir())
    print(f" of {whole / 1e6:.1f} MB, in {len(server.data_ranges())} ranges")
    assert (sent, requests) == (0, 0) and server.sent < 0.36 * whole
    assert (cache / f"{NAME}.safetensors").stat().st_size == pytest.approx(4 * 131.6e6, rel=0.01)


@pytest.mark.slow
def test_conversion(published: Path, tmp_path: Path) -> None:
    convert = [ROOT / "weights" / "convert_official.py", published, tmp_path / "out.safetensors", "--image-size", "640"]
    blind = "import pix2seq.weights.tensor_bundle as t\nt.Bundle._is_intact = lambda *_: True\n"
    unchecked = PROGRAM.replace("runpy.run_path", f"{blind}runpy.run_path", 1)
    for kind, program in (("with checksums", PROGRAM), ("without", unchecked)):
        print(f"\n{kind}: {measured([sys.executable, '-c', program, *convert])}")
        os.unlink(tmp_path / "out.safetensors")
