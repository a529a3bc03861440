"""A step of one sequence on a processor is computed by numpy, or compiled, with the results of all other steps."""

import pytest
import torch

from pix2seq.config import CFG, replace
from pix2seq.models.choices import Part
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime.device import has_numba
from tests.conftest import FP16

ROUNDING = 1e-4  # of logits, in float32
needs_numba = pytest.mark.skipif(not has_numba(torch.device("cpu")), reason="numba is not here: the extra [fast]")


@pytest.mark.parametrize("transformer", ["standard", "llama"])
@pytest.mark.parametrize("precision", ["fp32", FP16, "int8"])
def test_one_sequence_has_the_logits_that_it_has_among_others(tiny_model_cfg: CFG, transformer: str, precision: str):
    torch.manual_seed(0)
    model = Pix2Seq(replace(tiny_model_cfg, transformer=transformer).model).eval()
    decoder, part = model.prepare(precision), Part(torch.arange(1000, 2000))
    memory, tokens = torch.randn(1, 9, model.cfg.decoder_width), torch.tensor([[10, 12, 1005, 1200, 110]])
    one, two = (decoder.start(memory, torch.zeros(count, dtype=torch.long), 8) for count in (1, 2))
    for column in tokens.split([2, 1, 1, 1], dim=1):
        alone, among = decoder.step(column, one, part), decoder.step(column.expand(2, -1), two, part)
        torch.testing.assert_close(alone, among[:1], rtol=0, atol=0.05 if precision == "int8" else ROUNDING)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)])
def test_steps_of_one_sequence_alone_are_computed_so(
    tiny_model: Pix2Seq, monkeypatch: pytest.MonkeyPatch, compiled: bool
):
    decoder, calls = tiny_model.prepare(compiled=compiled), []
    monkeypatch.setattr(decoder, "single", lambda *given: calls.append(given) or decoder.embedding[0].numpy())
    memory = torch.randn(2, 9, tiny_model.cfg.decoder_width)
    for images, sequences in ((1, 1), (1, 2), (2, 1), (2, 2)):
        cache = decoder.start(memory[:images], torch.arange(sequences) % images, 4)
        decoder.step(torch.full((sequences, 1), 10), cache)
    assert len(calls) == 1


@needs_numba
@torch.no_grad()
@pytest.mark.parametrize("transformer", ["standard", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_compiled_steps_have_the_logits_of_others(tiny_model_cfg: CFG, transformer: str, precision: str):
    """Also where passes of several tokens, or a step of several sequences, write and read the same caches."""
    torch.manual_seed(0)
    model = Pix2Seq(replace(tiny_model_cfg, transformer=transformer).model).eval()
    exact, compiled = model.prepare(), model.prepare(precision, compiled=True)
    memory, tokens = torch.randn(1, 9, model.cfg.decoder_width), torch.randint(1, 3200, (2, 12))
    caches = [decoder.start(memory, torch.zeros(2, dtype=torch.long), 12) for decoder in (exact, compiled)]
    for place, column in zip(
        (0, 2, 3, 4, 5, 6, 9, 10, 11), tokens.split([2, 1, 1, 1, 1, 3, 1, 1, 1], dim=1), strict=True
    ):
        if place == 3:  # the first sequence has ended
            for cache in caches:
                cache.keep(torch.tensor([1]))
        column = column if place < 3 else column[1:]
        expected, found = exact.step(column, caches[0]), compiled.step(column, caches[1])
        bound = ROUNDING if precision == "fp32" else 0.15 * float(expected.std())
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@needs_numba
@torch.no_grad()
def test_compiled_steps_choose_the_same_tokens(tiny_model: Pix2Seq):
    memory, found = torch.randn(1, 9, tiny_model.cfg.decoder_width), []
    for decoder in (tiny_model.prepare(), tiny_model.prepare(compiled=True)):
        cache, tokens = decoder.start(memory, torch.zeros(1, dtype=torch.long), 40), [10]
        for _ in range(40):
            tokens.append(int(decoder.step(torch.tensor([tokens[-1:]]), cache).argmax()))
        found.append(tokens)
    assert found[0] == found[1]


@needs_numba
def test_what_is_compiled_computes_the_functions_that_it_names():
    from pix2seq.models import compiled

    x = torch.cat([torch.linspace(-90, 90, 5000), torch.linspace(-3, 3, 1000)])
    gelu, gate = x.numpy().copy(), x.numpy().copy()
    compiled.gelu(gelu)
    compiled.gate(gate, torch.ones_like(x).numpy())
    torch.testing.assert_close(torch.from_numpy(gelu), torch.nn.functional.gelu(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(gate), torch.nn.functional.silu(x), rtol=1e-6, atol=1e-6)
