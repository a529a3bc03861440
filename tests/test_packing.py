"""Packed sequences: the same logits and gradients as padded ones, in whatever lengths and about whatever images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.packing import BUCKETS, Packing, pack

ROUNDING = {"atol": 1e-4, "rtol": 1e-4}

Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def part_of(lengths: list[int], images: list[int], seed: int = 0) -> Part:
    """Padded sequences of these lengths about these images, a prompt of one token without a weight before each."""
    generator = torch.Generator().manual_seed(seed)
    tokens, targets = torch.randint(1, 3000, (2, len(lengths), max(lengths)), generator=generator)
    inside = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
    weights = torch.rand(tokens.shape, generator=generator) + 0.1
    weights[:, 0] = 0
    return tokens * inside, targets * inside, weights * inside, torch.tensor(images)


parts = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=12).map(
        lambda rows: part_of(*map(list, zip(*rows, strict=True)))
    ),
    max_size=3,
)


@given(parts)
def test_every_token_has_its_place(found: list[Part]):
    packing = pack(found)
    for buckets, rows in ((packing.by_sequence, packing.sequences), (packing.by_image, None)):
        rows = packing.image_index[packing.sequences] if rows is None else rows
        number = torch.arange(len(packing.tokens))
        assert len(buckets.slots) <= BUCKETS
        assert torch.equal(buckets.collect(buckets.spread(number)), number)
        expected = iter(buckets.rows)
        for slots in buckets.slots:
            for row in slots:
                inside = row[row < len(number)]
                assert set(rows[inside].tolist()) == {int(next(expected))}
                assert inside.tolist() == sorted(inside.tolist()) and torch.equal(row[: len(inside)], inside)


@given(parts)
def test_what_is_scored_are_the_tokens_with_a_weight(found: list[Part]):
    packing = pack(found)
    expected = [tokens[weights > 0] for tokens, _, weights, _ in found]
    assert torch.equal(packing.tokens[packing.scored], torch.cat([torch.zeros(0, dtype=torch.long), *expected]))
    for part, tokens in zip(packing.by_part(packing.tokens[packing.scored]), expected, strict=True):
        assert torch.equal(part, tokens)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_buckets_pad_less_than_any_equal_cut(lengths: list[int]):
    def padded(packing: Packing) -> int:
        return sum(slots.numel() for slots in packing.by_sequence.slots)

    ones = torch.ones(len(lengths), max(lengths), dtype=torch.long)
    inside = ones * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    found = padded(pack([(ones, ones, inside, torch.zeros(len(lengths), dtype=torch.long))]))
    groups = np.array_split(np.sort(lengths), BUCKETS)
    assert sum(lengths) <= found <= sum(len(group) * group.max() for group in groups if len(group))


LENGTHS, IMAGES = [5, 12, 3, 9, 12, 7], [2, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("style", ["standard", "llama"])
def test_packed_logits_and_gradients_are_those_of_padded_sequences(tiny_model_cfg: CFG, style: str):
    torch.manual_seed(0)
    model = Pix2Seq(config.replace(tiny_model_cfg, transformer=style).model)
    part = tokens, _, weights, index = part_of(LENGTHS, IMAGES)
    images = torch.rand(4, 3, 64, 64)  # the last one has no sequence
    memory = model.eval().encode(images).detach().requires_grad_()
    results = []
    for packed in (False, True):
        model.zero_grad()
        memory.grad = None
        if packed:
            logits = model.score(memory, pack([part]))
        else:
            logits = model.decode_groups(memory, [(tokens, index)])[0][weights > 0]
        (logits.square().mean(1) * weights[weights > 0]).sum().backward()
        gradients = {name: p.grad for name, p in model.decoder.named_parameters() if p.grad is not None}
        results.append((logits.detach(), memory.grad, gradients))
    torch.testing.assert_close(results[1][0], results[0][0], **ROUNDING)
    torch.testing.assert_close(results[1][1], results[0][1], **ROUNDING)
    assert results[1][2].keys() == results[0][2].keys()
    for name, gradient in results[1][2].items():
        torch.testing.assert_close(gradient, results[0][2][name], **ROUNDING, msg=name)


def test_without_sequences_every_parameter_has_a_gradient_of_zero(tiny_model: Pix2Seq):
    tiny_model.zero_grad()
    logits = tiny_model.score(tiny_model.encode(torch.rand(2, 3, 64, 64)), pack([]))
    assert logits.shape == (0, tiny_model.cfg.vocab_size)
    logits.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in tiny_model.decoder.parameters())
    tiny_model.zero_grad()


def test_whole_sequences_skip_a_layer(tiny_model_cfg: CFG):
    """With drop path nearly 1 a sequence's tokens are all as they entered the layer, or none is."""
    layer = Pix2Seq(config.replace(tiny_model_cfg, drop_path=0.5).model).decoder.layers[0].train()
    packing = pack([part_of([9] * 40, [0] * 40)])
    torch.manual_seed(0)
    branch = layer._drop(torch.ones(len(packing.tokens), 32), packing).reshape(40, 9, 32)
    kept = branch[:, 0, 0]
    assert torch.equal(branch, kept[:, None, None].expand_as(branch))
    assert set(kept.tolist()) == {0.0, 2.0}
