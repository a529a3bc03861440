"""Muon in float32 is torch's Muon without the rounding of bfloat16."""

import pytest
import torch

from pix2seq.train.muon import Float32Muon, make_muon, orthogonalize

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_its_updates_are_those_of_torch(shape: tuple[int, int], nesterov: bool):
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(shape, generator=generator), torch.randn(4, *shape, generator=generator)
    moved = []
    for kind in (torch.optim.Muon, Float32Muon):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.1, weight_decay=0.05, nesterov=nesterov, adjust_lr_fn="match_rms_adamw")
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        moved.append(weight.detach() - start)
    assert moved[0].abs().mean() > 0.03
    torch.testing.assert_close(moved[1], moved[0], atol=0.01, rtol=0)  # bfloat16 has 8 bits


def test_its_state_is_that_of_torch():
    weights = [torch.nn.Parameter(torch.randn(4, 6)) for _ in range(2)]
    ours, theirs = (kind([weight]) for kind, weight in zip((Float32Muon, torch.optim.Muon), weights, strict=True))
    for optimizer, weight in zip((ours, theirs), weights, strict=True):
        weight.grad = torch.randn(4, 6)
        optimizer.step()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.state[weights[1]]["momentum_buffer"], ours.state[weights[0]]["momentum_buffer"])


def test_a_parameter_without_a_gradient_stays():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    Float32Muon([weight], weight_decay=0.5).step()
    assert torch.equal(weight.detach(), torch.ones(2, 3))


def test_an_orthogonalized_update_has_singular_values_near_one():
    update = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(update, COEFFICIENTS, 5, 1e-7))
    assert values.min() > 0.5 and values.max() < 1.5


@pytest.mark.parametrize("computes", [True, False])
def test_the_processor_decides_which_muon_is_used(computes: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pix2seq.train.muon.computes_bf16", lambda device: computes)
    optimizer = make_muon([{"params": [torch.nn.Parameter(torch.ones(2, 3))]}], 0.1, torch.device("cpu"))
    assert isinstance(optimizer, Float32Muon) != computes
