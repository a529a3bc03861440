"""The loading benchmark measures full decoding, reduced decoding, the cache, and what puts images together."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pix2seq import config
from pix2seq.bench.timing import figures
from pix2seq.config import CFG
from pix2seq.dataset import coco
from pix2seq.errors import UserError
from tests.dataset.test_voc import thing, write_voc


@pytest.fixture
def loading(bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = bench("loading")
    for name, value in (("IMAGES", 3), ("ROUNDS", 2)):
        monkeypatch.setattr(module, name, value)
    return module


def test_each_way_of_reading_is_measured(
    loading: ModuleType, tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path))
    read, shrinks = coco.read_reduced, []
    monkeypatch.setattr(
        coco, "read_reduced", lambda path, shrink, **others: shrinks.append(shrink) or read(path, shrink, **others)
    )
    loading.main(config.replace(tiny_cfg, task="detection", cache_gb=1.0, output_dir=str(tmp_path / "bench")))
    warming, rounds = shrinks[:36], shrinks[36:]
    assert warming == [1] * 12 + [4] * 24  # all images once, 320 px for a canvas of 64; the others share the cache
    assert rounds == 2 * ([1] * 3 + [4] * 3)  # the cache reads no file
    printed = capsys.readouterr().out
    names = [line.split("  ")[0] for line in printed.splitlines()[1:]]
    composed = ["copy-paste 0.5", "mosaic 0.5", "copy-paste and mosaic 0.5"]
    assert names == ["full decoding", "reduced decoding", "cache", *composed]
    assert [row["way"] for row in figures(tmp_path / "bench")["loading"]["rows"]] == names


def test_pasting_is_not_measured_without_masks(
    loading: ModuleType, tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path))
    folder = write_voc(tmp_path / "own", {"1": thing()}, {"train": ["1"]})
    changes = {"data_root": str(folder), "train_split": "train", "task": "detection", "cache_gb": 1.0}
    loading.main(config.replace(tiny_cfg, **changes, output_dir=str(tmp_path / "bench")))
    printed = capsys.readouterr().out
    assert "copy-paste is not measured: --copy-paste 0.5 needs objects with masks" in printed
    assert "mosaic 0.5" in printed


def test_without_room_there_is_no_cache_to_measure(loading: ModuleType, tiny_cfg: CFG):
    with pytest.raises(UserError, match="--cache-gb"):
        loading.main(tiny_cfg)
