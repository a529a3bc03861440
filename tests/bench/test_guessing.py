"""Tokens that are guessed ahead change no response, and save passes where the guesses are right."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from pix2seq.config import CFG, replace
from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.encoded import Encoded
from pix2seq.infer.generator import ModelGenerator
from pix2seq.infer.responses import Response
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.sampling import Sampling
from pix2seq.tokenizers.detection import DetectionTokenizer

OBJECTS = 4
GREEDY = Sampling(end_threshold=0.5, coord_window=5)
NUCLEUS = Sampling(temperature=1.0, top_p=0.9, alternatives=3)


@pytest.fixture
def generator(tiny_model: Pix2Seq) -> ModelGenerator:
    tokenizer = DetectionTokenizer(tiny_model.cfg.vocab_size, (1, 3, 18), OBJECTS, end_weight=0.1, noise_weight=1.0)
    return ModelGenerator(tiny_model, {"detection": tokenizer}, torch.device("cpu"))


def responses(
    guessing: ModuleType, generator: ModelGenerator, memory: torch.Tensor, sampling: Sampling, ahead: int
) -> tuple[list[Response], list[int]]:
    """Three responses about each of the memories, and the passes of each."""
    encoded = Encoded(memory, [Geometry.letterbox(64, 64, 64)] * len(memory), np.arange(len(memory)))
    asked = guessing.GuessingGenerator(generator, ahead, bins=0)
    return asked.generate("detection", encoded, [np.array([10])] * len(memory), sampling, 3), asked.passes


@pytest.mark.parametrize("sampling", [GREEDY, NUCLEUS], ids=["greedy", "nucleus"])
def test_responses_stay_the_same(
    bench: Callable[[str], ModuleType], generator: ModelGenerator, tiny_model: Pix2Seq, sampling: Sampling
):
    guessing = bench("guessing")
    seeded = torch.Generator().manual_seed(0)
    memory = torch.randn(1, 16, tiny_model.cfg.decoder_width, generator=seeded, dtype=torch.float64)
    generator.model = copy.deepcopy(tiny_model).double()  # without near ties
    found, passes = responses(guessing, generator, memory, sampling, 0)
    grammar = generator.tokenizers["detection"].grammar()
    for ahead in (4, 9):
        others, fewer = responses(guessing, generator, memory, sampling, ahead)
        for response, other in zip(found, others, strict=True):
            assert grammar.accepts(other.tokens)
            np.testing.assert_array_equal(response.tokens, other.tokens)
            np.testing.assert_allclose(response.probs, other.probs, rtol=1e-5)
        assert all(few <= many for few, many in zip(fewer, passes, strict=True))


def test_passes_are_saved_where_guesses_are_right(bench: Callable[[str], ModuleType], generator: ModelGenerator):
    guessing, cfg = bench("guessing"), generator.model.cfg
    table = torch.rand(100, cfg.vocab_size, generator=torch.Generator().manual_seed(0))
    table[:, 0] = -1  # never the end

    def decoder(tokens: torch.Tensor, pairs: object, image_index: torch.Tensor) -> torch.Tensor:
        return table[None, : tokens.shape[1]]  # the same at a place whatever stands before it

    decoder.project_memory = lambda memory: []
    generator.model = SimpleNamespace(cfg=cfg, decoder=decoder)
    found, passes = responses(guessing, generator, torch.zeros(1, 4, 4), Sampling(), 9)
    assert len(found[0].tokens) == 5 * OBJECTS + 1
    assert passes == [4]  # of 21 tokens: one pass fills in 9 guesses and gives 1 token, the next gives 10


def test_every_way_is_reported(
    bench: Callable[[str], ModuleType],
    scenes_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    guessing = bench("guessing")
    monkeypatch.setattr(guessing, "SECONDS", 0.0)
    cfg = replace(CFG(), weights="scenes", task="detection", data_root=str(scenes_root), max_images=2, workers=0)
    guessing.main(cfg)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(int(row[0]), int(row[1])) for row in rows] == list(guessing.WAYS)
    assert float(rows[0][3]) > float(rows[1][3]) > float(rows[2][3])  # passes
