"""Coordinates in sines and cosines, and back."""

import pytest
import torch

from pix2seq.models.auxiliary_head import fourier, from_fourier


def test_a_code_is_read_back_exactly():
    places = torch.linspace(0, 1, 1001).reshape(7, 11, 13)
    torch.testing.assert_close(from_fourier(fourier(places)), places, atol=1e-5, rtol=0)


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_noisy_code_is_read_nearly(noise: float):
    places = torch.linspace(0.05, 0.95, 500)
    code = fourier(places)
    found = from_fourier(code + noise * torch.randn(code.shape, generator=torch.Generator().manual_seed(0)))
    assert (found - places).abs().quantile(0.95) < 0.1 * noise + 0.005


def test_octaves_that_say_nothing_move_nothing():
    code = fourier(torch.tensor([0.3]))
    code[:, 2:6] = code[:, 8:] = 0  # the mean over all places of the finer octaves
    assert abs(from_fourier(code).item() - 0.3) < 1e-5
