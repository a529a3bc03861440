"""What a weights file says about decoding is used, unless a user says otherwise."""

import dataclasses
from pathlib import Path

import pytest

import pix2seq
from pix2seq import config
from pix2seq.config import CFG
from pix2seq.infer.load import load_predictor
from pix2seq.models.weights import load_weights, save_weights


@pytest.fixture
def fitted(weights_path: Path, tmp_path: Path) -> str:
    """A weights file with decoding settings of its own."""
    path = tmp_path / "fitted.safetensors"
    decoding = {"end_threshold": 0.25, "coord_window": 3}
    save_weights(path, dataclasses.replace(load_weights(weights_path), decoding=decoding))
    return str(path)


def test_decoding_settings_of_the_file_are_used_where_none_are_given(fitted: str):
    cfg = config.replace(CFG(device="cpu"), weights=fitted, coord_window=0)
    settings = load_predictor(cfg).settings
    assert (settings.end_threshold, settings.coord_window) == (0.25, 0)


def test_a_setting_that_the_file_s_settings_leave_without_effect_is_reported(
    weights_path: Path, tmp_path: Path, capsys
):
    path = tmp_path / "votes.safetensors"
    decoding = {"detection_votes": 8, "calibration_slope": 0.5}
    save_weights(path, dataclasses.replace(load_weights(weights_path), decoding=decoding))
    load_predictor(config.replace(CFG(device="cpu"), weights=str(path), end_threshold=0.5))
    assert capsys.readouterr().err.startswith("note: --end-threshold has no effect where")
    load_predictor(config.replace(CFG(device="cpu"), weights=str(path), detection_votes=1))
    assert capsys.readouterr().err.startswith("note: scores are not calibrated")
    load_predictor(config.replace(CFG(device="cpu"), weights=str(path)))
    assert capsys.readouterr().err == ""


def test_the_front_door_s_settings_win_too(fitted: str):
    settings = pix2seq.load(fitted, device="cpu", end_threshold=0.97).predictor.settings
    assert (settings.end_threshold, settings.coord_window) == (0.97, 3)
