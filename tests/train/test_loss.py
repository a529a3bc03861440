"""The token loss."""

import pytest
import torch

from pix2seq.token_ids import COORD_SHIFT
from pix2seq.train.loss import token_loss

V = 2100


def random_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (3, 8, V), targets and weights of which some are 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 8, V, generator=generator) * 3
    targets = torch.randint(0, V, (3, 8), generator=generator)
    weights = torch.rand(3, 8, generator=generator) * (torch.rand(3, 8, generator=generator) > 0.3)
    return logits, targets, weights


def test_the_loss_is_the_weighted_mean_of_cross_entropies():
    logits, targets, weights = random_batch()
    losses = -logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(token_loss(logits, targets, weights), (losses * weights).sum() / weights.sum())


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_tokens_without_weight_change_nothing(sigma: float):
    logits, targets, weights = random_batch()
    before = token_loss(logits, targets, weights, sigma)
    targets[weights == 0] = 1500
    logits[weights == 0] = 1e4
    torch.testing.assert_close(token_loss(logits, targets, weights, sigma), before)


def test_without_targets_the_loss_and_the_gradient_are_zero():
    logits, targets, _ = random_batch()
    loss = token_loss(logits.requires_grad_(), targets, torch.zeros(3, 8), 2.0)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def soft_targets(target: int, sigma: float) -> torch.Tensor:
    """The target distribution (V,) of the loss: softmax − gradient."""
    logits = torch.zeros(1, 1, V, dtype=torch.float32, requires_grad=True)
    token_loss(logits, torch.tensor([[target]]), torch.ones(1, 1), sigma).backward()
    return 1 / V - logits.grad[0, 0]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("coord_bin", [0, 1, 2, 7, 500, 997, 998, 999])
def test_soft_targets_are_a_distribution_over_coordinates(coord_bin: int, sigma: float):
    wanted = soft_targets(COORD_SHIFT + coord_bin, sigma)
    assert wanted.sum() == pytest.approx(1, abs=1e-4)
    assert wanted.min() > -1e-5
    outside = torch.cat([wanted[:COORD_SHIFT], wanted[COORD_SHIFT + 1000 :]])
    assert outside.abs().max() < 1e-5


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("coord_bin", [0, 1, 2, 7, 500, 997, 998, 999])
def test_the_target_bin_is_the_likeliest_soft_target(coord_bin: int, sigma: float):
    assert soft_targets(COORD_SHIFT + coord_bin, sigma).argmax() == COORD_SHIFT + coord_bin


def test_soft_targets_are_normally_distributed_around_the_target_bin():
    wanted = soft_targets(COORD_SHIFT + 500, 2.0)[COORD_SHIFT + 494 : COORD_SHIFT + 507]
    expected = torch.softmax(-0.5 * (torch.arange(-6, 7) / 2.0) ** 2, 0)
    torch.testing.assert_close(wanted, expected, atol=1e-4, rtol=0)


def test_a_near_miss_has_a_lower_loss_than_a_far_one():
    def loss(predicted: int) -> float:
        logits = torch.zeros(1, 1, V)
        logits[0, 0, predicted] = 10
        return float(token_loss(logits, torch.tensor([[1500]]), torch.ones(1, 1), 2.0))

    assert loss(1500) < loss(1501) < loss(1503) < loss(1600)


def test_smoothing_spreads_a_share_over_the_vocabulary():
    logits, targets, weights = random_batch()
    log_probs = logits.log_softmax(-1)
    losses = -0.8 * log_probs.gather(2, targets[..., None])[..., 0] - 0.2 * log_probs.mean(-1)
    found = token_loss(logits, targets, weights, label_smoothing=0.2)
    torch.testing.assert_close(found, (losses * weights).sum() / weights.sum())


def test_soft_coordinates_are_not_smoothed_again():
    logits, targets, weights = random_batch()
    weights *= (targets >= COORD_SHIFT) & (targets < COORD_SHIFT + 1000)
    smoothed, plain = token_loss(logits, targets, weights, 2.0, 0.2), token_loss(logits, targets, weights, 2.0)
    torch.testing.assert_close(smoothed, plain)


def test_only_coordinates_are_soft():
    logits, targets, weights = random_batch()
    targets %= COORD_SHIFT
    torch.testing.assert_close(token_loss(logits, targets, weights, 2.0), token_loss(logits, targets, weights))
