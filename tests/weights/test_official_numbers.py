"""Converted official models give the numbers of the official code (`-s` shows the largest differences)."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pix2seq.models.choices import GrammarTables
from pix2seq.models.generate import generate
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights
from tests.conftest import reference_cases, reference_models

# The official code differs from itself by 1e-5; processors differ a few times as much (see tests/rounding.py).
FEATURES = {"atol": 1e-4, "rtol": 0}
LOGITS = {"atol": 1e-4, "rtol": 0}
TAGS = reference_cases(f"models/{reference_models()[0]}/inference.npz", r"greedy_prompt_(\w+)")


@pytest.fixture(scope="module")
def numbers(reference_model: Path) -> dict[str, Tensor]:
    """The official numbers by name; images as (B, 3, H, W)."""
    arrays = np.load(reference_model / "inference.npz")
    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return tensors | {"images": tensors["images"].permute(0, 3, 1, 2)}


@pytest.fixture(scope="module")
def model(converted: Weights) -> Pix2Seq:
    return converted.model


@pytest.fixture(scope="module")
def memory(model: Pix2Seq, numbers: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.encode(numbers["images"])


def inputs_of(modules: Iterable[nn.Module], records: list[Tensor]) -> list:
    """Hooks that append each module's input to `records`."""
    return [module.register_forward_pre_hook(lambda _, args: records.append(args[0])) for module in modules]


def in_order(numbers: dict[str, Tensor], prefix: str) -> list[str]:
    """The names that are `prefix` and a number, by the number; there is one at least."""
    names = [name for name in numbers if name.startswith(prefix)]
    assert names
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


def assert_near(name: str, found: Tensor, expected: Tensor, **limits: float) -> None:
    """Assert it, and print the largest difference."""
    torch.testing.assert_close(found, expected, **limits)
    print(f" {name} within {(found - expected).abs().max():.1e}")


@torch.no_grad()
def test_encoder_features(model: Pix2Seq, numbers: dict[str, Tensor], memory: Tensor):
    assert_near("encoder outputs", model.encoder(numbers["images"])[0], numbers["encoder_output"], **FEATURES)
    assert_near("encoded", memory, numbers["encoded"], **FEATURES)


@torch.no_grad()
def test_every_layer_of_the_encoder(model: Pix2Seq, numbers: dict[str, Tensor]):
    records: list[Tensor] = []
    encoder = model.encoder
    if encoder.backbone.is_patches:
        names = in_order(numbers, "encoder_layer_")
        hooks = inputs_of([*(layer.norm_attention for layer in encoder.layers), encoder.norm], records)
    else:
        names = in_order(numbers, "resnet_group_")
        groups = [getattr(encoder.backbone.net, name) for name in encoder.backbone.net.stages]
        hooks = [
            group.register_forward_hook(lambda *args: records.append(args[-1].permute(0, 2, 3, 1))) for group in groups
        ]
    encoder(numbers["images"])
    for hook in hooks:
        hook.remove()
    for name, found in zip(names, records, strict=True):
        torch.testing.assert_close(found, numbers[name], **FEATURES, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_every_layer_of_the_decoder(model: Pix2Seq, numbers: dict[str, Tensor]):
    records: list[Tensor] = []
    decoder = model.decoder
    hooks = inputs_of([*(layer.norm_self for layer in decoder.layers), decoder.norm], records)
    model(numbers["images"], numbers["tf_input_seq"], torch.arange(len(numbers["images"])))
    for hook in hooks:
        hook.remove()
    for name, found in zip(in_order(numbers, "decoder_layer_"), records, strict=True):
        torch.testing.assert_close(found, numbers[name], **FEATURES, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_teacher_forced_logits(model: Pix2Seq, numbers: dict[str, Tensor]):
    found = model(numbers["images"], numbers["tf_input_seq"], torch.arange(len(numbers["images"])))
    assert_near("logits", found, numbers["tf_logits"], **LOGITS)


@torch.no_grad()
def test_teacher_forced_logits_of_several_sequences_for_each_image(model: Pix2Seq, numbers: dict[str, Tensor]):
    sequences, index = several(numbers["tf_input_seq_multi"])
    found = model(numbers["images"], sequences, index)
    torch.testing.assert_close(found, numbers["tf_logits_multi"], **LOGITS)


def several(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences (B, L) or (B, I, L) as (S, L), and the image of each."""
    count = sequences.shape[1] if sequences.ndim == 3 else 1
    return sequences.reshape(-1, sequences.shape[-1]), torch.arange(len(sequences)).repeat_interleave(count)


@pytest.fixture
def anything(converted: Weights) -> GrammarTables:
    """A grammar that allows every token everywhere and never ends."""
    vocab_size = converted.cfg.model.vocab_size
    return GrammarTables(torch.ones(1, vocab_size, dtype=torch.bool), torch.zeros(1, vocab_size, dtype=torch.long), -1)


@pytest.mark.parametrize("tag", TAGS)
def test_greedy_tokens(model: Pix2Seq, numbers: dict[str, Tensor], memory: Tensor, anything: GrammarTables, tag: str):
    expected = numbers[f"greedy_tokens_{tag}"]
    prompts, index = several(numbers[f"greedy_prompt_{tag}"])
    found = generate(model.prepare(), memory, prompts, index, anything, expected.shape[1])
    assert torch.equal(found.tokens, expected)
    assert len(expected.unique()) > 1


def test_greedy_tokens_of_several_samples(
    model: Pix2Seq, numbers: dict[str, Tensor], memory: Tensor, anything: GrammarTables
):
    names = [re.fullmatch(r"greedy_tokens_(\w+)_num_samples(\d+)", name) for name in numbers]
    for tag, count in (name.groups() for name in names if name):
        expected = numbers[f"greedy_tokens_{tag}_num_samples{count}"]
        prompts, index = several(numbers[f"greedy_prompt_{tag}"])
        found = generate(model.prepare(), memory, prompts, index, anything, expected.shape[1], num_samples=int(count))
        assert torch.equal(found.tokens, expected)


@torch.no_grad()
@pytest.mark.parametrize("tag", TAGS)
def test_cached_logits_of_greedy_decoding(model: Pix2Seq, numbers: dict[str, Tensor], memory: Tensor, tag: str):
    tokens = numbers[f"greedy_tokens_{tag}"]
    found = cached_logits(model, memory, numbers[f"greedy_prompt_{tag}"], tokens)
    expected = numbers[f"greedy_logits_{tag}"]
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, **LOGITS)
    best = found.topk(2).values
    torch.testing.assert_close(best[..., 0] - best[..., 1], numbers[f"greedy_margin_{tag}"], **LOGITS)
    chosen = numbers[f"greedy_top8_ids_{tag}"].long()
    torch.testing.assert_close(found.gather(2, chosen), numbers[f"greedy_top8_logits_{tag}"], **LOGITS)


@torch.no_grad()
def test_cached_logits_of_imposed_tokens(model: Pix2Seq, numbers: dict[str, Tensor], memory: Tensor):
    found = cached_logits(model, memory, torch.full((len(memory), 1), 10), numbers["forced_tokens"].long())
    expected = numbers["forced_logits"]
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, **LOGITS)


def cached_logits(model: Pix2Seq, memory: Tensor, prompts: Tensor, responses: Tensor) -> Tensor:
    """Logits (S, T, V) from which the `responses` (S, T) to `prompts` were chosen, one step after the other."""
    prompts, index = several(prompts)
    decoder = model.prepare()
    cache = decoder.start(memory, index, prompts.shape[1] + responses.shape[1])
    steps = [prompts, *responses[:, :-1].split(1, dim=1)]
    return torch.stack([decoder.step(step, cache) for step in steps], dim=1)
