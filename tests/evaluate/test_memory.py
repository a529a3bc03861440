"""What an auxiliary head reads from the memory is scored like the decoder's detections."""

import dataclasses
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.evaluate.memory import MemoryGenerator, read_head
from pix2seq.models.auxiliary_head import AuxiliaryHead, fourier
from pix2seq.models.weights import Weights, save_weights
from pix2seq.runtime.checkpoint import CHECKPOINT, save_checkpoint
from pix2seq.runtime.paths import ROOT

BOX = torch.tensor([0.25, 0.125, 0.75, 1.0])
CPU = torch.device("cpu")


@pytest.fixture
def head(random_weights: Weights) -> AuxiliaryHead:
    """Sees in every cell the same object of class 1."""
    head = AuxiliaryHead(random_weights.cfg.model.decoder_width, max(random_weights.class_names) + 1, 17)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.classify.bias[1] = 9.0
        head.locate.bias.view(head.num_coords, -1)[:4] = fourier(BOX)
    return head


@pytest.fixture
def run_folder(random_weights: Weights, head: AuxiliaryHead, tmp_path: Path) -> Path:
    """The files that a run leaves, of step 7."""
    save_weights(tmp_path / "last.safetensors", dataclasses.replace(random_weights, step=7))
    trained = torch.nn.ModuleList([random_weights.model, head]).state_dict()
    save_checkpoint(tmp_path / CHECKPOINT, {"trained": trained, "step": 7})
    return tmp_path


def test_cells_that_see_the_same_object_find_it_once(make_predictor, head: AuxiliaryHead):
    predictor = make_predictor()
    predictor = predictor.with_generator(MemoryGenerator(predictor.generator, head))
    images = [np.zeros((100, 100, 3), np.uint8), np.ones((50, 100, 3), np.uint8)]
    for found, width in zip(predictor.predict("detection", images), (100, 100), strict=True):
        assert found.classes.tolist() == [1] and found.scores[0] > 0.9
        np.testing.assert_allclose(found.boxes[0, [0, 2]], [width / 8, width], atol=0.2)


def test_the_head_of_a_checkpoint_is_read(run_folder: Path, head: AuxiliaryHead):
    memory = torch.rand(2, 9, head.classify.in_features)
    for found, expected in zip(read_head(run_folder, 7, CPU)(memory), head(memory), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_checkpoint_of_another_step_or_without_a_head_is_refused(run_folder: Path, random_weights: Weights):
    with pytest.raises(UserError, match="of step 7, the weights beside it of step 8"):
        read_head(run_folder, 8, CPU)
    trained = torch.nn.ModuleList([random_weights.model]).state_dict()
    save_checkpoint(run_folder / CHECKPOINT, {"trained": trained, "step": 7})
    with pytest.raises(UserError, match="no auxiliary head"):
        read_head(run_folder, 7, CPU)


def test_the_script_prints_figures_by_class(run_folder: Path, tiny_cfg: CFG, capsys, monkeypatch):
    flags = ["--run-dir", str(run_folder), "--data-root", tiny_cfg.data.data_root, "--device", "cpu", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["evaluate_memory.py", *flags])
    runpy.run_path(str(ROOT / "evaluate" / "evaluate_memory.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(r"^detection +AP50 +\d\.\d{3}$", out, re.MULTILINE) and "person" in out
