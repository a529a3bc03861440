"""Fitting the decoding settings: what is tried, and what comes to stand in the weights file."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.evaluate import fit
from pix2seq.evaluate.detection import score
from pix2seq.evaluate.predictions import ImagePredictions
from pix2seq.infer.calibration import calibrate
from pix2seq.infer.results import Instances
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.runtime.paths import ROOT


@pytest.fixture
def weights_path(random_weights: Weights, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, random_weights)
    return path


@pytest.fixture
def run(weights_path: Path, scenes_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the script on the few images of the test with some flags."""
    monkeypatch.setattr(fit, "MIN_IMAGES", 4)

    def run(*flags: str, weights: str = str(weights_path), data_root: Path = scenes_root) -> None:
        named = ["--weights", weights, "--data-root", str(data_root), "--device", "cpu", "--workers", "0"]
        monkeypatch.setattr(sys, "argv", ["fit_decoding.py", *named, *flags])
        runpy.run_path(str(ROOT / "evaluate" / "fit_decoding.py"), run_name="__main__")

    return run


def test_settings_and_calibration_are_written_and_tables_printed(run, weights_path: Path, capsys):
    run("--detection-votes", "2", "--score-threshold", "0.2")
    decoding = load_weights(weights_path).decoding
    assert decoding["detection_votes"] == 2 and decoding["detection_top_p"] in fit.NUCLEI
    assert decoding["score_threshold"] == 0.2 and {"calibration_slope", "calibration_offset"} <= decoding.keys()
    out = capsys.readouterr().out
    assert out.count("expected calibration error") == 4 and "other images, after calibration" in out
    assert "detection_votes 2, detection_top_p 0.5" in out and "wrote these settings into" in out


def test_a_shipped_file_stays_as_it_is(run, capsys):
    with pytest.raises(SystemExit):
        run(weights="scenes")
    assert "copy" in capsys.readouterr().err
    with safe_open(ROOT / "weights" / "scenes.safetensors", framework="numpy") as file:
        assert "decoding" not in file.metadata()


def test_few_images_are_refused_and_the_file_stays(weights_path: Path, run, monkeypatch, capsys):
    monkeypatch.setattr(fit, "MIN_IMAGES", 7)
    before = weights_path.read_bytes()
    with pytest.raises(SystemExit):
        run("--detection-votes", "1", "--end-threshold", "0")
    assert "6 images to fit to, at least 7" in capsys.readouterr().err and weights_path.read_bytes() == before


def test_images_that_cannot_be_read_are_reported(run, damaged_root: Path, capsys):
    run("--detection-votes", "1", "--end-threshold", "0", data_root=damaged_root)
    printed = capsys.readouterr().out
    assert "is not there, left out" in printed and "cannot be read completely, left out" in printed


def test_what_is_given_is_not_searched():
    everything = fit.candidates(CFG(), ends=True)
    assert {one["detection_votes"] for one in everything} == {1, fit.VOTES}
    assert len(fit.candidates(CFG(), ends=False)) == 1 + len(fit.NUCLEI)
    votes = fit.candidates(config.replace(CFG(), detection_votes=16), ends=True)
    assert [one["detection_top_p"] for one in votes] == list(fit.NUCLEI)
    assert {one["detection_votes"] for one in votes} == {16}
    assert len(fit.candidates(config.replace(CFG(), detection_votes=1, end_threshold=0.25), ends=True)) == 1


def test_calibration_changes_no_average_precision(split):
    rng = np.random.default_rng(0)
    raw = []
    for index in range(len(split)):
        example = split[index]
        boxes = np.concatenate([example.boxes, example.boxes + rng.normal(0, 8, example.boxes.shape)])
        classes, scores = np.tile(example.classes, 2), rng.uniform(0.05, 0.95, len(boxes))
        raw.append(ImagePredictions(index, example.image_id, Instances(boxes, classes, scores)))
    calibrated = [
        ImagePredictions(each.index, each.image_id, Instances(found.boxes, found.classes, scores))
        for each in raw
        for found in [each.found]
        for scores in [calibrate(found.scores, 0.6, -0.8)]
    ]
    before, after = (score(predictions, split, CFG().infer) for predictions in (raw, calibrated))
    assert before.metrics == pytest.approx(after.metrics)
    assert before.reliability.right != after.reliability.right


def test_a_calibration_is_for_the_settings_that_it_was_fitted_with():
    decoding = {"detection_votes": 8, "calibration_slope": 0.5, "top_k": 3}
    cfg = config.replace(CFG(), detection_votes=8)
    assert config.with_decoding(cfg, decoding).infer.calibration_slope == 0.5
    other = config.with_decoding(config.replace(CFG(), detection_votes=1), decoding).infer
    assert (other.calibration_slope, other.top_k) == (1.0, 3)
