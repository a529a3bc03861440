"""Decoding in numpy, for exported models, against decoding in torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pix2seq.infer.exported.decoding import Chooser, decode
from pix2seq.models.choices import GrammarTables, Part
from pix2seq.models.generate import generate
from pix2seq.models.sampling import GREEDY, LEAVING, Sampling
from pix2seq.token_ids import COORDS, END, INVISIBLE
from pix2seq.tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import Tokenizer

VOCAB, LENGTH, PROMPTS, EACH = 3010, 12, 3, 4
WORDS = WordVocabulary(["<unk>", "a", "dog", "runs", "here"])
TOKENIZERS = {
    "detection": DetectionTokenizer(VOCAB, [1, 3, 18], 20, 1.0, 1.0),
    "segmentation": SegmentationTokenizer(VOCAB, 24),
    "keypoint": KeypointTokenizer(VOCAB, 6, 1.0),
    "captioning": CaptioningTokenizer(VOCAB, WORDS, 10, 1.0),
}
SAMPLED = Sampling(1.0, top_p=0.8)
SAMPLINGS = {
    "greedy": GREEDY,
    "thresholds and a window": Sampling(end_threshold=0.9, invisible_threshold=0.6, coord_window=20),
    "nucleus": SAMPLED,
    "the k likeliest": Sampling(0.7, top_k=5),
    "both": Sampling(1.3, top_k=50, top_p=0.5),
    "votes": replace(SAMPLED, alternatives=3),
    "drawn classes are read": replace(SAMPLED, read_drawn=True),
    "drawn classes are read, greedily": Sampling(read_drawn=True, coord_window=5),
    "coordinates of what is invisible": replace(SAMPLED, coords_too=True),
}


class Told:
    """A decoder whose logits are told by the last token, the place and the sequence: in torch and in numpy."""

    def __init__(self) -> None:
        chosen = np.random.default_rng(0)
        self.of_place = chosen.normal(0, 2, (LENGTH + 10, VOCAB)).astype(np.float32)
        self.of_sequence = chosen.normal(0, 2, (PROMPTS * EACH, VOCAB)).astype(np.float32)
        self.of_place[:, COORDS] += np.cos(np.arange(1000) / 40) * 2  # neighbors are alike
        self.of_place[:, [END, INVISIBLE]] += 5
        self.rows, self.place = np.arange(PROMPTS * EACH), 0

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """(S, V) after the next `tokens` (S,)."""
        self.place += 1
        return np.roll(self.of_place[self.place], 3) + self.of_sequence[self.rows] + (tokens % 7)[:, None] * 0.01


class ToldInTorch(Told):
    """What `generate` decodes with."""

    leaving = LEAVING

    def start(self, memory: torch.Tensor, image_index: torch.Tensor, max_length: int) -> "ToldInTorch":
        return self

    def keep(self, rows: torch.Tensor) -> None:
        self.rows = self.rows[rows.numpy()]

    def step(self, tokens: torch.Tensor, cache: "ToldInTorch", part: Part | None = None) -> torch.Tensor:
        for column in tokens.numpy().T:
            logits = torch.from_numpy(self.logits(column).astype(np.float32))
        return logits if part is None else logits[:, part.ids]


class ToldInNumpy(Told):
    """What `decode` decodes with."""

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        return self.logits(tokens.reshape(-1)).astype(np.float32).reshape(*tokens.shape, VOCAB)

    def keep(self, rows: np.ndarray) -> None:
        self.rows = self.rows.reshape(-1, EACH)[rows].reshape(-1)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_numpy_decodes_as_torch_does(tokenizer: Tokenizer, sampling: Sampling):
    grammar = tokenizer.grammar()
    prompts = np.random.default_rng(1).integers(1000, 2000, (PROMPTS, tokenizer.prompt_length))
    draws = np.random.default_rng(2).random((PROMPTS, EACH, LENGTH), dtype=np.float32)
    found = decode(ToldInNumpy(), prompts, Chooser(grammar), sampling, draws).parts
    tables = (torch.from_numpy(table) for table in (grammar.allowed, grammar.next_state))
    expected = generate(
        ToldInTorch(),
        torch.zeros(PROMPTS, 1, 1),
        torch.from_numpy(prompts),
        torch.arange(PROMPTS),
        GrammarTables(*tables, grammar.end, grammar.greedy_states, grammar.unreported, grammar.scored_states),
        LENGTH,
        sampling,
        EACH,
        torch.from_numpy(draws).flatten(0, 1),
    )
    length = found["tokens"].shape[2]
    assert not expected.tokens[:, length:].any()
    np.testing.assert_array_equal(found["tokens"].reshape(-1, length), expected.tokens[:, :length])
    if grammar.scored_states:
        classes = slice(4, length, 5)  # the other places of detection have no probability, whatever its value
        probs, others = found["probs"].reshape(-1, length)[:, classes], expected.probs[:, :length][:, classes]
        np.testing.assert_allclose(probs, others, atol=1e-6)
        if sampling.alternatives:
            best = found["alternatives"].reshape(-1, length, sampling.alternatives)[:, classes]
            there = probs > 0
            np.testing.assert_array_equal(best[there], expected.alternatives[:, :length][:, classes][there])


def test_without_prompts_there_is_nothing_to_decode():
    tokenizer = TOKENIZERS["keypoint"]
    nothing = np.zeros((0, EACH, LENGTH), np.float32)
    found = decode(ToldInNumpy(), np.zeros((0, 6), np.int64), Chooser(tokenizer.grammar()), GREEDY, nothing)
    assert found.parts["tokens"].shape == (0, EACH, LENGTH)
