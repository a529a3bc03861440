"""Schedules, losses and weight updates equal those of the official code."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.train.loss import token_loss
from pix2seq.train.optimizer import Optimizers, learning_rate
from tests.conftest import reference_cases, reference_models

DECAY = {"adamw": "all", "adamw_legacy": "kernels"}  # official optimizer to our `decay`
# What an official variable is called, and ours that are of its kind.
KINDS = {
    "kernel": ("encoder.backbone.net.model.conv1.weight", "encoder.layers.0.mlp.up.weight", "projection.dense.weight"),
    "bias": ("encoder.layers.0.attention.query.bias", "decoder.layers.0.mlp.down.bias"),
    "gamma": ("encoder.backbone.net.model.bn1.weight", "encoder.norm.weight", "decoder.layers.1.norm_mlp.weight"),
    "beta": ("encoder.backbone.net.model.bn1.bias", "encoder.norm.bias"),
    "ar_decoder.Stoken_embedding": ("decoder.embedding.weight",),
    "ar_decoder.Sseq_pos_embedding": ("decoder.positions",),
    "ar_decoder.Soutp_bias": ("decoder.bias",),
}


# Schedules


SCHEDULES = {
    "linear": {"schedule": "linear"},
    "cosine": {"schedule": "cosine"},
    "cosine@0.5": {"schedule": "cosine", "cosine_share": 0.5},
    "exp@0.9": {"schedule": "exponential", "end_lr_factor": 0.9},
    "none": {"schedule": "constant"},
}


def schedule_cfg(case: dict) -> CFG:
    """Our settings for an official case, whose learning rate may be scaled by the batch size."""
    scale = {"none": 1, "linear": case["batch_size"] / 256, "sqrt": math.sqrt(case["batch_size"])}
    names = ("warmup_steps", "tail_steps", "end_lr_factor")
    settings = {name: case[name] for name in names} | SCHEDULES[case["schedule"]]
    return config.replace(CFG(), lr=case["base_learning_rate"] * scale[case["learning_rate_scaling"]], **settings)


def test_learning_rates(reference_json):
    cases = reference_json("tasks/lr_schedules.json")
    for case in cases:
        cfg = schedule_cfg(case)
        found = [learning_rate(step, case["total_steps"], cfg) for step in case["steps"]]
        peak = max(case["lr_float_step"])
        # In the tail and after the run our rate stays as it is; the official one then falls on in these two schedules.
        end = case["total_steps"] - case["tail_steps"] if case["schedule"] in ("cosine@0.5", "exp@0.9") else math.inf
        compared = [place for place, step in enumerate(case["steps"]) if step <= end]
        assert compared
        for name in ("lr_float_step", "lr_int64_step"):
            expected = np.array(case[name])[compared]
            np.testing.assert_allclose(
                np.array(found)[compared], expected, rtol=1e-6, atol=1e-6 * peak, err_msg=str(case)
            )


# Losses


@pytest.mark.parametrize("name", reference_cases("tasks/losses.npz", r"loss_(xent(?:@[\d.]+)?)"))
def test_losses(reference, name: str):
    smoothing = float(name.partition("@")[2] or 0)
    data = {key: torch.from_numpy(np.asarray(values)) for key, values in reference("losses.npz").items()}
    logits, labels, weights = data["logits"], data["labels"], data["weights"]
    found = torch.empty_like(weights)
    for position in np.ndindex(*weights.shape):  # one token alone has the loss of that token
        alone = torch.zeros_like(weights)
        alone[position] = 1
        found[position] = token_loss(logits, labels, alone, label_smoothing=smoothing)
    torch.testing.assert_close(found, data[f"loss_{name}"], rtol=1e-5, atol=1e-5)
    whole = token_loss(logits, labels, weights, label_smoothing=smoothing)
    torch.testing.assert_close(whole, data[f"scalar_{name}"], rtol=1e-5, atol=0)


# Updates


class Three(nn.Module):
    """A model with the three tensors of the official test."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(*reversed(start["layer/kernel"].shape))
        self.norm = nn.LayerNorm(len(start["ln/gamma"]), bias=False)
        self.encoder = SimpleNamespace(backbone=nn.Identity())
        self.decoder = SimpleNamespace()
        for name, p in self.tensors().items():
            p.data = start[name].clone()

    def tensors(self) -> dict[str, nn.Parameter]:
        return {"layer/kernel": self.layer.weight, "layer/bias": self.layer.bias, "ln/gamma": self.norm.weight}


def as_ours(values: np.ndarray) -> Tensor:
    """Kernels are (in, out) there and (out, in) here."""
    return torch.from_numpy(values.T.copy())


@pytest.mark.parametrize("clip", ["", "_clip1"])
@pytest.mark.parametrize("name", DECAY)
def test_updates(reference, name: str, clip: str):
    data = reference("optimizer_steps.npz")
    model = Three({key.removeprefix("init:"): as_ours(data[key]) for key in data if key.startswith("init:")})
    cfg = config.replace(CFG(), optimizer="adamw", decay=DECAY[name], weight_decay=0.05, beta2=0.95)
    optimizers = Optimizers(model, None, cfg)
    for step, rate in enumerate(data["lr"]):
        for key, p in model.tensors().items():
            p.grad = as_ours(data[f"grad{step}:{key}"])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0 if clip else math.inf)
        optimizers.step(float(rate))
        for key, p in model.tensors().items():
            expected = as_ours(data[f"{name}{clip}_step{step}:{key}"])
            torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_name", reference_models())
@pytest.mark.parametrize("optimizer", DECAY)
def test_what_decays(reference_json, tiny_model: Pix2Seq, tiny_model_cfg: CFG, model_name: str, optimizer: str):
    variables = reference_json(f"models/{model_name}/variables.json")["model_variables"]
    trained = [variable for variable in variables if variable["trainable"]]
    cfg = config.replace(tiny_model_cfg, optimizer="adamw", decay=DECAY[optimizer])
    groups = Optimizers(tiny_model, None, cfg).parts[0].param_groups
    decay = {id(p): group["weight_decay"] > 0 for group in groups for p in group["params"]}
    parameters = dict(tiny_model.named_parameters())
    for variable in trained:
        kind = variable["key"].removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").rpartition("/")[2]
        for ours in KINDS[kind]:
            assert decay[id(parameters[ours])] == variable[f"decay_{optimizer}"], (variable["key"], ours)
