"""Optimizers, their learning rate, and the average of the weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.train.optimizer import Optimizers, learning_rate, moving_average


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


def test_a_short_run_warms_up_for_a_third_of_it():
    cfg = config.replace(CFG(), lr=1.0, warmup_steps=300, end_lr_factor=0.0)
    assert [learning_rate(step, 90, cfg) for step in (0, 15, 30, 60, 90)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_no_warm_up_begins_at_the_full_rate():
    assert learning_rate(0, 100, config.replace(CFG(), lr=1.0, warmup_steps=0)) == 1.0


def test_a_tail_has_the_last_rate():
    cfg = config.replace(CFG(), lr=1.0, warmup_steps=10, schedule="linear", end_lr_factor=0.1, tail_steps=20)
    assert [learning_rate(step, 130, cfg) for step in (60, 110, 120, 130)] == pytest.approx([0.55, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    "values, last",
    [
        ({"schedule": "cosine"}, 0.1),
        ({"schedule": "cosine", "cosine_share": 0.5}, 0.1 + 0.9 * 0.5),
        ({"schedule": "linear"}, 0.1),
        ({"schedule": "exponential"}, 0.1),
        ({"schedule": "constant"}, 1.0),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_every_schedule_keeps_its_last_rate_through_the_tail(values: dict, last: float):
    cfg = config.replace(CFG(), lr=1.0, warmup_steps=10, end_lr_factor=0.1, tail_steps=20, **values)
    assert [learning_rate(step, 130, cfg) for step in (110, 111, 120, 129)] == pytest.approx([last] * 4)


schedules = st.builds(
    lambda schedule, share, end, warmup, tail: config.replace(
        CFG(),
        lr=2.0,
        schedule=schedule,
        cosine_share=share,
        end_lr_factor=end,
        warmup_steps=warmup,
        tail_steps=tail,
    ),
    st.sampled_from(["cosine", "linear", "exponential", "constant"]),
    *[st.floats(0, 1)] * 2,
    *[st.integers(0, 150)] * 2,
)


@given(schedules, st.integers(1, 120))
def test_rates_rise_in_the_warm_up_then_fall_to_the_tail_and_never_below_the_end(cfg: CFG, total: int):
    rates = [learning_rate(step, total, cfg) for step in range(total)]
    train = cfg.train
    warmup = min(train.warmup_steps, total // 3)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == pytest.approx(train.lr)
    assert min(rates[warmup:]) >= train.lr * train.end_lr_factor * (1 - 1e-9)
    tail = rates[max(total - train.tail_steps, warmup + 1) :]
    assert len(set(tail)) <= 1


def test_a_share_of_the_cosine_ends_on_its_way():
    cfg = config.replace(CFG(), lr=1.0, warmup_steps=0, end_lr_factor=0.0, cosine_share=0.5)
    assert [learning_rate(step, 100, cfg) for step in (50, 100)] == pytest.approx([0.5 + 0.5**1.5, 0.5])


def test_exponential_decay_falls_by_the_same_factor_everywhere():
    cfg = config.replace(CFG(), lr=1.0, warmup_steps=0, schedule="exponential", end_lr_factor=0.01)
    assert [learning_rate(step, 100, cfg) for step in (0, 50, 100)] == pytest.approx([1, 0.1, 0.01])


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


def decaying(model: Pix2Seq, head: torch.nn.Module | None, cfg: CFG) -> set[str]:
    """Names of the parameters that decay."""
    groups = groups_of(Optimizers(model, head, config.replace(cfg, optimizer="adamw", weight_decay=0.1)))
    ids = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    return {name for part in (model, head) if part for name, p in part.named_parameters() if id(p) in ids}


def test_all_parameters_decay_with_decay_all(tiny_model, tiny_model_cfg: CFG):
    head = torch.nn.Linear(4, 4)
    names = {name for part in (tiny_model, head) for name, _ in part.named_parameters()}
    assert decaying(tiny_model, head, config.replace(tiny_model_cfg, decay="all")) == names


def test_kernels_are_those_of_linear_layers_and_convolutions(tiny_model_cfg: CFG):
    cfg = config.replace(tiny_model_cfg, decay="kernels", shared_embedding=False)
    model, head = Pix2Seq(cfg.model), torch.nn.Linear(4, 4)
    matrices = decaying(model, head, config.replace(cfg, decay="matrices"))
    tables = {"decoder.embedding.weight", "decoder.output.weight", "decoder.positions"}
    assert tables < matrices
    assert decaying(model, head, cfg) == matrices - tables


@pytest.mark.parametrize("resumed_at", [0, 2])
def test_eps_joins_the_uncorrected_moment(resumed_at: int, tiny_model_cfg: CFG):
    cfg = config.replace(tiny_model_cfg, optimizer="adamw", weight_decay=0.0, backbone_lr_factor=1.0)
    model = Pix2Seq(cfg.model)
    weight, size = model.decoder.bias, 1e-9  # a gradient far below eps, where torch's own formula is five times as fast
    optimizers = Optimizers(model, None, cfg)
    expected, first, second = weight.detach().double().clone(), 0.0, 0.0
    for t in range(1, 5):
        weight.grad = torch.full_like(weight, size * t)
        first, second = 0.9 * first + 0.1 * size * t, 0.95 * second + 0.05 * (size * t) ** 2
        rate = 1e-3 * math.sqrt(1 - 0.95**t) / (1 - 0.9**t)
        expected -= rate * first / (math.sqrt(second) + 1e-8)
        if t == resumed_at:
            states = optimizers.state_dict()
            optimizers = Optimizers(model, None, cfg)
            optimizers.load_state_dict(states, cfg)
        optimizers.step(1e-3)
    assert expected.abs().min() > 1e-5
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-4, atol=0)


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
        adamw.load_state_dict(muon.state_dict(), tiny_model_cfg)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("step, weight", [(0, 0.9), (10, 9 / 20), (10**6, 0.0005)])
def test_averaged_weights_and_statistics_follow_a_decay_that_grows(step: int, weight: float, foreach: bool):
    model = torch.nn.BatchNorm1d(2)
    average = moving_average(model, decay=0.9995, foreach=foreach)
    before = {name: value.clone() for name, value in average.module.state_dict().items()}
    torch.nn.init.normal_(model.weight)
    for _ in range(3):
        model(torch.randn(8, 2) + 5)
    average.update(model, step)
    found = average.module.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(found[name], before[name].lerp(model.state_dict()[name], weight))
    assert found["num_batches_tracked"] == 3


def test_the_average_soon_forgets_the_initial_weights():
    model = torch.nn.Linear(2, 2)
    average = moving_average(model, decay=0.9995)
    torch.nn.init.ones_(model.weight)
    for step in range(100):
        average.update(model, step)
    torch.testing.assert_close(average.module.weight, model.weight, atol=1e-3, rtol=0)
