"""Paths are relative to the working directory, shipped files are found by name, and caches have one folder."""

from pathlib import Path

import pytest

from pix2seq.config import CFG
from pix2seq.runtime import paths
from pix2seq.runtime.paths import MOST_DEPTH, ROOT, cache_folder, folders_below, recipe_path, weights_path
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


def test_folders_below_a_folder_come_to_an_end(tmp_path: Path):
    """However deep they are, and wherever links lead."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / ".hidden").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"back_{number}").symlink_to(".")
        (tmp_path / "b" / f"up_{number}").symlink_to("..")
    found = [path.relative_to(tmp_path).as_posix() for path in folders_below(tmp_path)]
    assert found == [".", "a", "b", "b/c"]
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "a")
    assert len(list(folders_below(tmp_path, follow_links=True))) == 4
    assert list(folders_below(tmp_path / "nowhere")) == []


def test_folders_that_are_too_deep_are_left_out(tmp_path: Path):
    tmp_path.joinpath(*"d" * (MOST_DEPTH + 9)).mkdir(parents=True)
    assert len(list(folders_below(tmp_path))) == MOST_DEPTH + 1
