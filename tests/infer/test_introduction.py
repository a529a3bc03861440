"""What weights are good for is said once, and where they find nothing."""

from pathlib import Path

import pytest

from pix2seq.infer.introduction import DRAWN, KNOWN, description, introduce


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file, and an empty cache."""
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "dogs.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_file_is_introduced_once_until_it_changes(file: Path, capsys: pytest.CaptureFixture):
    assert introduce(file, "photographs of dogs")
    line = capsys.readouterr().err
    assert line.startswith("dogs.safetensors: photographs of dogs; stronger weights: --weights ")
    assert line.count("\n") == 1
    assert not introduce(file, "photographs of dogs")
    assert capsys.readouterr().err == ""
    file.write_bytes(b"other weights")
    assert introduce(file, "photographs of dogs")


def test_weights_without_a_domain_say_that_they_know_drawings_only():
    assert description("", "", data_root="") == DRAWN
    assert description("", "", data_root="coco") == ""
    assert description("photographs", "MIT", data_root="") == "photographs (licence: MIT)"


def test_a_known_file_is_introduced_again_where_it_found_nothing(file: Path, capsys: pytest.CaptureFixture):
    introduce(file, "photographs of dogs")
    assert introduce(file, "photographs of dogs", again=True)
    assert capsys.readouterr().err.count("photographs") == 2


def test_a_file_that_says_nothing_is_not_introduced(file: Path, capsys: pytest.CaptureFixture):
    assert introduce(file, "") and introduce(file, "", again=True)
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_no_error(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(file))  # no folder
    assert introduce(file, "photographs of dogs")


def test_a_damaged_cache_is_no_error(file: Path, tmp_path: Path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / KNOWN).write_bytes(b"\xff\xfe")
    assert introduce(file, "photographs of dogs")
