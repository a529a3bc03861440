"""A step of one sequence on a processor is computed by numpy, with the results of all other steps."""

import pytest
import torch

from pix2seq.config import CFG, replace
from pix2seq.models.choices import Part
from pix2seq.models.pix2seq import Pix2Seq
from tests.conftest import FP16

ROUNDING = 1e-4  # of logits, in float32


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


def test_numpy_computes_the_steps_of_one_sequence_alone(tiny_model: Pix2Seq, monkeypatch: pytest.MonkeyPatch):
    decoder, calls = tiny_model.prepare(), []
    monkeypatch.setattr(decoder, "single", lambda *given: calls.append(given) or decoder.embedding[0].numpy())
    memory = torch.randn(2, 9, tiny_model.cfg.decoder_width)
    for images, sequences in ((1, 1), (1, 2), (2, 1), (2, 2)):
        cache = decoder.start(memory[:images], torch.arange(sequences) % images, 4)
        decoder.step(torch.full((sequences, 1), 10), cache)
    assert len(calls) == 1


@pytest.mark.parametrize("transformer", ["standard", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_compiled_steps_have_the_logits_of_others(tiny_model_cfg: CFG, transformer: str, precision: str):
    pytest.importorskip("numba", reason="the extra [fast] is not installed")
    torch.manual_seed(0)
    model = Pix2Seq(replace(tiny_model_cfg, transformer=transformer).model).eval()
    memory, tokens = torch.randn(1, 9, model.cfg.decoder_width), torch.tensor([[10, 12, 1005, 1200, 110, 1999, 1000]])
    exact, compiled = model.prepare(), model.prepare(precision, compiled=True)
    caches = [decoder.start(memory, torch.zeros(1, dtype=torch.long), 8) for decoder in (exact, compiled)]
    for column in tokens.split([2, 1, 1, 1, 1, 1], dim=1):
        expected, found = exact.step(column, caches[0]), compiled.step(column, caches[1])
        bound = ROUNDING if precision == "fp32" else 0.1 * float(expected.std())
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)
