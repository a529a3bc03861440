"""Paths are relative to the working directory, shipped files are found by name, and caches have one folder."""

from pathlib import Path

import pytest

from pix2seq.config import CFG
from pix2seq.runtime import paths
from pix2seq.runtime.paths import ROOT, cache_folder, recipe_path, weights_path
from pix2seq.scenes.root import scenes_root
from pix2seq.weights.official_fetch import official_folder


def test_shipped_files_are_found_by_name_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert weights_path("scenes") == ROOT / "weights" / "scenes.safetensors"
    assert recipe_path("scenes") == ROOT / "recipes" / "scenes.yaml"
    assert weights_path(CFG().infer.weights).is_file()


@pytest.mark.parametrize("path", ["weights/scenes.safetensors", "scenes.safetensors", "./scenes.yaml", "/a/b", "other"])
def test_a_path_is_relative_to_the_working_directory(path: str):
    assert weights_path(path) == recipe_path(path) == Path(path)


def test_caches_are_in_the_folder_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert scenes_root(0) == tmp_path / "scenes_seed0_v1"
    assert official_folder() == tmp_path / "official"


def test_caches_are_in_a_checkout_s_data_folder_or_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PIX2SEQ_CACHE", raising=False)
    assert (cache_folder(), official_folder()) == (ROOT / "data", ROOT / "weights" / "official")
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # an installed package has no pyproject.toml
    assert cache_folder() == Path.home() / ".cache" / "pix2seq"
    assert official_folder() == Path.home() / ".cache" / "pix2seq" / "official"
    (tmp_path / "pyproject.toml").touch()
    assert cache_folder() == tmp_path / "data"
    monkeypatch.setattr(paths.os, "access", lambda path, mode: False)
    assert cache_folder() == Path.home() / ".cache" / "pix2seq"
