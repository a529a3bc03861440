"""Optimizers and their learning rate."""

import math

import pytest
import torch

import config
from config import CFG
from train.optimizer import Optimizers, learning_rate


def test_warm_up_is_linear_from_zero():
    cfg = config.replace(CFG(), lr=1.0, warmup_steps=10)
    assert [learning_rate(step, 100, cfg) for step in (0, 1, 5, 10)] == pytest.approx([0, 0.1, 0.5, 1])


@pytest.mark.parametrize(
    "schedule, half_way, last",
    [("cosine", 0.01 + 0.99 * 0.5, 0.01), ("linear", 0.01 + 0.99 * 0.5, 0.01), ("constant", 1.0, 1.0)],
)
def test_decay_at_known_steps(schedule: str, half_way: float, last: float):
    cfg = config.replace(CFG(), lr=1.0, warmup_steps=10, schedule=schedule, end_lr_factor=0.01)
    assert [learning_rate(step, 110, cfg) for step in (60, 110, 500)] == pytest.approx([half_way, last, last])


def test_cosine_decays_slowly_at_first():
    cfg = config.replace(CFG(), lr=2.0, warmup_steps=0, end_lr_factor=0.0)
    assert learning_rate(25, 100, cfg) == pytest.approx(1 + math.cos(math.pi / 4))


def test_no_warm_up_begins_at_the_full_rate():
    assert learning_rate(0, 100, config.replace(CFG(), lr=1.0, warmup_steps=0)) == 1.0


def groups_of(optimizers: Optimizers) -> list[dict]:
    return [group for part in optimizers.parts for group in part.param_groups]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_trained_once_and_only_matrices_decay(name: str, tiny_model, tiny_model_cfg: CFG):
    cfg = config.replace(tiny_model_cfg, optimizer=name, weight_decay=0.1)
    head = torch.nn.Linear(4, 4)
    groups = groups_of(Optimizers(tiny_model, head, cfg))
    trained = [id(p) for group in groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in [*tiny_model.parameters(), *head.parameters()])
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.1}


def test_muon_has_the_transformers_matrices_alone(tiny_model, tiny_model_cfg: CFG):
    muon = Optimizers(tiny_model, None, config.replace(tiny_model_cfg, optimizer="muon")).parts[1]
    names = {id(p): name for name, p in tiny_model.named_parameters()}
    trained = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert "decoder.layers.0.mlp.up.weight" in trained and "encoder.layers.0.attention.query.weight" in trained
    assert not {name for name in trained if "embedding" in name or "positions" in name or "backbone" in name}


def test_the_backbone_has_its_own_rate(tiny_model, tiny_model_cfg: CFG):
    optimizers = Optimizers(tiny_model, None, config.replace(tiny_model_cfg, optimizer="adamw", backbone_lr_factor=0.1))
    for p in tiny_model.parameters():
        p.grad = None
    optimizers.step(1e-3)
    backbone = {id(p) for p in tiny_model.encoder.backbone.parameters()}
    for group in groups_of(optimizers):
        assert {id(p) in backbone for p in group["params"]} == {group["lr"] == pytest.approx(1e-4)}


def test_states_of_other_optimizers_are_refused(tiny_model, tiny_model_cfg: CFG):
    adamw, muon = (
        Optimizers(tiny_model, None, config.replace(tiny_model_cfg, optimizer=name)) for name in ("adamw", "muon")
    )
    with pytest.raises(ValueError):
        adamw.load_state_dict(muon.state_dict())
