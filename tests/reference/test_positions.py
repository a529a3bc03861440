"""Position codes, and which tokens a token may attend to, equal those of the official code."""

import numpy as np
import pytest
import torch

from pix2seq.models.layers import full_circle, sincos_1d, sincos_2d
from pix2seq.models.pix2seq import Pix2Seq
from tests.conftest import reference_cases

FILE = "tasks/position_codes_and_masks.npz"
CODES = {"atol": 1e-5, "rtol": 0}  # of sines of up to thousands: float32's angles have five digits


def sides(case: str) -> list[int]:
    return [int(number) for number in case.split("_")]


@pytest.mark.parametrize("case", reference_cases(FILE, r"pos1d_(\d+_\d+)"))
def test_a_line_has_the_same_code(reference, case: str):
    (length, width), data = sides(case), reference("position_codes_and_masks.npz")
    expected = torch.from_numpy(data[f"pos1d_{case}"][0])
    torch.testing.assert_close(sincos_1d(full_circle(length), width), expected, **CODES)


@pytest.mark.parametrize("case", reference_cases(FILE, r"pos1d_raw_(\d+_\d+)"))
def test_positions_that_are_not_scaled_to_a_circle_have_the_same_code(reference, case: str):
    (length, width), data = sides(case), reference("position_codes_and_masks.npz")
    expected = torch.from_numpy(data[f"pos1d_raw_{case}"][0])
    torch.testing.assert_close(sincos_1d(torch.arange(length), width), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", reference_cases(FILE, r"pos2d_(\d+_\d+_\d+)"))
def test_a_grid_has_the_same_code(reference, case: str):
    data = reference("position_codes_and_masks.npz")
    expected = torch.from_numpy(data[f"pos2d_{case}"][0]).flatten(0, 1)
    torch.testing.assert_close(sincos_2d(*sides(case)), expected, **CODES)


@pytest.mark.parametrize("case", reference_cases(FILE, r"pos2d_raw_(\d+_\d+_\d+)"))
def test_rows_and_columns_are_coded_apart(reference, case: str):
    (height, width, channels), data = sides(case), reference("position_codes_and_masks.npz")
    rows, columns = (sincos_1d(torch.arange(count), channels // 2) for count in (height, width))
    found = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
    torch.testing.assert_close(found, torch.from_numpy(data[f"pos2d_raw_{case}"][0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", reference_cases(FILE, r"vis_pos_emb_(\d+_\d+_\d+)"))
def test_a_grid_of_one_line_has_the_code_of_a_line(reference, case: str):
    expected = torch.from_numpy(reference("position_codes_and_masks.npz")[f"vis_pos_emb_{case}"])
    torch.testing.assert_close(sincos_2d(*sides(case)), expected, **CODES)


@torch.no_grad()
@pytest.mark.parametrize("length", reference_cases(FILE, r"ar_mask_(\d+)"))
@pytest.mark.parametrize("cached", [False, True])
def test_a_token_attends_to_the_same_tokens(reference, tiny_model: Pix2Seq, length: str, cached: bool):
    """A changed token changes the logits of just those positions whose row of the mask lets it through."""
    count = min(int(length), tiny_model.cfg.max_tokens)
    blocked = reference("position_codes_and_masks.npz")[f"ar_mask_{length}"][0, 0, :count, :count]
    tokens = torch.randint(1, 3000, (1, count), generator=torch.Generator().manual_seed(0)).repeat(count + 1, 1)
    tokens[1:].diagonal().add_(7)  # sequence i + 1 has another token i
    memory, index = tiny_model.encode(torch.rand(1, 3, 64, 64)), torch.zeros(count + 1, dtype=torch.long)
    if cached:
        decoder = tiny_model.prepare()
        cache = decoder.start(memory, index, count)
        logits = torch.stack([decoder.step(tokens[:, place : place + 1], cache) for place in range(count)], dim=1)
    else:
        logits = tiny_model.decode_groups(memory, [(tokens, index)])[0]
    changed = (logits[1:] - logits[:1]).abs().amax(dim=-1) > 1e-3  # (changed token, position)
    assert np.array_equal(changed.T.numpy(), blocked == 0)
