"""Decoding: greedy or sampled, many prompts on one encoding, always within the grammar."""

import dataclasses

import numpy as np
import pytest
import torch

from pix2seq.config import ModelCFG
from pix2seq.models import decoder
from pix2seq.models import generate as generate_module
from pix2seq.models.choices import GrammarTables, Part
from pix2seq.models.generate import choose, choose_likeliest, generate, truncate_logits
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.sampling import Sampling
from pix2seq.models.step import StepDecoder
from pix2seq.tasks import TASKS
from pix2seq.token_ids import COORDS, END, FAKE, INVISIBLE
from pix2seq.tokenizers import vocabulary
from pix2seq.tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import Grammar
from tests.exact_model import ExactCache, ExactModel

VOCAB_SIZE = 3200
ROUNDING = 1e-4  # of logits up to ten, in float32
keep = ExactCache.keep
SAMPLED = Sampling(temperature=1.0, top_p=0.95)
BOX = np.array([0.1, 0.1, 0.8, 0.7])

tokenizers = {
    "detection": DetectionTokenizer(VOCAB_SIZE, (1, 3, 18), max_objects=20, end_weight=0.1, noise_weight=1.0),
    "segmentation": SegmentationTokenizer(VOCAB_SIZE, max_points=24),
    "keypoint": KeypointTokenizer(VOCAB_SIZE, num_points=17, invisible_weight=0.1),
    "captioning": CaptioningTokenizer(VOCAB_SIZE, WordVocabulary(["<unk>", *"abcdefgh"]), max_words=64, end_weight=1.0),
}


def on_device(grammar: Grammar) -> GrammarTables:
    tables = torch.from_numpy(grammar.allowed), torch.from_numpy(grammar.next_state)
    return GrammarTables(*tables, grammar.end, grammar.greedy_states, grammar.unreported, grammar.scored_states)


def tables(task: str) -> GrammarTables:
    return on_device(tokenizers[task].grammar())


def prompts(task: str, count: int) -> torch.Tensor:
    """Prompts (count, P), all different if the task is prompted with instances."""
    if task in ("detection", "captioning"):
        rows = [tokenizers[task].prompt()] * count
    else:
        rows = [tokenizers[task].prompt(BOX + 0.02 * row, 1) for row in range(count)]
    return torch.from_numpy(np.stack(rows))


def accepts(grammar: GrammarTables, tokens: torch.Tensor) -> bool:
    state = 0
    for token in tokens.tolist():
        if not grammar.allowed[state, token]:
            return False
        state = int(grammar.next_state[state, token])
    return True


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers for sampling."""
    return torch.rand(shape, generator=seeded(seed))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=seeded())


@pytest.fixture(scope="module")
def memory(tiny_model: Pix2Seq, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tiny_model.encode(images)


@pytest.fixture(scope="module")
def prepared(tiny_model: Pix2Seq) -> StepDecoder:
    return tiny_model.prepare()


@pytest.fixture(scope="module")
def exact() -> ExactModel:
    return ExactModel(ModelCFG(vocab_size=VOCAB_SIZE))


@pytest.fixture(scope="module")
def exact_memory(exact: ExactModel, images: torch.Tensor) -> torch.Tensor:
    return exact.encode(images)


def are_likeliest(tokens: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether no logit (S, V) is higher than those of the tokens (S,), up to rounding."""
    return bool((logits.gather(1, tokens[:, None])[:, 0] >= logits.amax(1) - ROUNDING).all())


INDEX = torch.tensor([0, 1, 1])


@torch.inference_mode()
@pytest.mark.parametrize("task", TASKS)
def test_greedy_decoding_equals_uncached_argmax(tiny_model: Pix2Seq, prepared: StepDecoder, images, memory, task: str):
    grammar, asked = tables(task), prompts(task, 3)
    found = generate(prepared, memory, asked, INDEX, grammar, 12)
    state, sequence = torch.zeros(3, dtype=torch.long), asked
    for step in range(found.tokens.shape[1]):
        logits = tiny_model(images, sequence, INDEX)[:, -1]
        token = found.tokens[:, step]
        assert are_likeliest(token, logits.masked_fill(~grammar.allowed[state], -torch.inf))
        if grammar.scored_states is None or state[0] in grammar.scored_states:
            probability = logits.softmax(-1).gather(1, token[:, None])[:, 0]
            torch.testing.assert_close(found.probs[:, step], probability, atol=1e-5, rtol=1e-4)
        else:
            assert found.probs[:, step].isnan().all()
        state, sequence = grammar.next_state[state, token], torch.cat([sequence, token[:, None]], dim=1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "sampling", [Sampling(), SAMPLED, Sampling(temperature=5.0)], ids=["greedy", "nucleus", "wild"]
)
def test_random_weights_still_obey_the_grammar(prepared: StepDecoder, memory, task: str, sampling: Sampling):
    grammar = tables(task)
    found = generate(prepared, memory, prompts(task, 3), INDEX, grammar, 60, sampling, 3, draws(9, 60))
    assert all(accepts(grammar, row) for row in found.tokens)


@pytest.mark.parametrize("task", TASKS)
def test_rows_do_not_limit_each_other(exact: ExactModel, exact_memory, task: str):
    asked, grammar = prompts(task, 3), tables(task)
    together = generate(exact, exact_memory, asked, INDEX, grammar, 20)
    for row in range(3):
        alone = generate(exact, exact_memory, asked[row : row + 1], INDEX[row : row + 1], grammar, 20)
        length = min(alone.tokens.shape[1], together.tokens.shape[1])
        assert torch.equal(together.tokens[row, :length], alone.tokens[0, :length])
        assert not together.tokens[row, length:].any()


def test_greedy_samples_of_a_prompt_are_equal_and_adjacent(exact: ExactModel, exact_memory):
    asked, grammar = prompts("segmentation", 3), tables("segmentation")
    once = generate(exact, exact_memory, asked, INDEX, grammar, 16)
    thrice = generate(exact, exact_memory, asked, INDEX, grammar, 16, num_samples=3)
    assert torch.equal(thrice.tokens, once.tokens.repeat_interleave(3, 0))


def test_samples_of_a_prompt_differ(prepared: StepDecoder, memory):
    sampling = Sampling(temperature=1.0)
    found = generate(
        prepared,
        memory,
        prompts("segmentation", 1),
        INDEX[:1],
        tables("segmentation"),
        16,
        sampling,
        4,
        draws(4, 16),
    )
    assert len({tuple(row) for row in found.tokens.tolist()}) == 4


def test_the_same_seed_samples_the_same(exact: ExactModel, exact_memory):
    asked, grammar = prompts("keypoint", 3), tables("keypoint")
    first, second, other = (
        generate(exact, exact_memory, asked, INDEX, grammar, 34, SAMPLED, 2, draws(6, 34, seed=seed)).tokens
        for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_sampled_response_does_not_depend_on_the_other_prompts(exact: ExactModel, exact_memory):
    asked, numbers, grammar = prompts("segmentation", 3), draws(6, 20), tables("segmentation")
    together = generate(exact, exact_memory, asked, INDEX, grammar, 20, SAMPLED, 2, numbers).tokens
    last = generate(exact, exact_memory, asked[2:], INDEX[2:], grammar, 20, SAMPLED, 2, numbers[4:]).tokens
    length = min(together.shape[1], last.shape[1])
    assert torch.equal(together[4:, :length], last[:, :length])
    assert not torch.equal(together[4], together[5])


def test_greedy_states_choose_the_likeliest_token_even_when_others_are_sampled(
    tiny_model: Pix2Seq, prepared: StepDecoder, images, memory
):
    grammar = Grammar(2, VOCAB_SIZE, greedy_states=(1,))
    grammar.allow(0, slice(1000, 2000), 1)
    grammar.allow(1, slice(100, 1000), 0)
    wild, asked = Sampling(temperature=50.0), prompts("detection", 1)
    found = generate(prepared, memory, asked, INDEX[:1], on_device(grammar), 2, wild, 12, draws(12, 2))
    assert len(set(found.tokens[:, 0].tolist())) > 6
    with torch.inference_mode():
        sequences = torch.cat([asked.expand(12, -1), found.tokens[:, :1]], dim=1)
        logits = tiny_model(images, sequences, INDEX[:1].expand(12))[:, -1]
    assert are_likeliest(found.tokens[:, 1] - 100, logits[:, 100:1000])
    likeliest = logits.softmax(-1).gather(1, found.tokens[:, 1:])[:, 0]
    torch.testing.assert_close(found.probs[:, 1], likeliest, atol=1e-6, rtol=1e-4)


class Recorder:
    """A model with the same `logits` (V,) at every step, which keeps the tokens that it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.read = logits, []

    def start(self, memory: torch.Tensor, image_index: torch.Tensor, length: int) -> ExactCache:
        return ExactCache(image_index)

    def step(self, tokens: torch.Tensor, cache: ExactCache, part: Part | None = None) -> torch.Tensor:
        self.read.append(tokens)
        logits = self.logits.expand(len(tokens), -1)
        return logits if part is None else logits[:, part.ids]


@pytest.mark.parametrize(
    ("sampling", "drawn"),
    [
        (Sampling(1.0, read_drawn=True), {FAKE, 101, 103, 118}),
        (Sampling(1.0, top_p=0.4, read_drawn=True), {FAKE}),
        (Sampling(read_drawn=True), {FAKE}),
        (Sampling(1.0), {103}),
        (Sampling(), {103}),
    ],
)
def test_what_is_drawn_is_read_and_the_likeliest_class_is_reported(sampling: Sampling, drawn: set[int]):
    logits = torch.zeros(VOCAB_SIZE)
    logits[FAKE], logits[103], logits[[101, 118]] = 8.0, 7.5, 7.0
    recorder, tokenizer = Recorder(logits), dataclasses.replace(tokenizers["detection"], full=True)
    asked, grammar = prompts("detection", 1), on_device(tokenizer.grammar())
    found = generate(recorder, torch.zeros(1, 1, 1), asked, INDEX[:1], grammar, 20, sampling, 40, draws(40, 20))
    read = torch.cat(recorder.read, dim=1)
    assert torch.equal(read[:, :1], asked.expand(40, 1))
    assert (found.tokens[:, 4::5] == 103).all()
    torch.testing.assert_close(found.probs[:, 4::5], logits.softmax(-1)[103].expand(40, 4))
    assert set(read[:, 5::5].ravel().tolist()) == drawn
    coords = np.arange(1, 20)[np.arange(1, 20) % 5 > 0]
    assert torch.equal(read[:, coords], found.tokens[:, coords - 1])


def test_decoding_stops_soon_after_all_have_ended(prepared: StepDecoder, memory):
    grammar = Grammar(3, VOCAB_SIZE)  # exactly three tokens, then the end
    for state in range(3):
        grammar.allow(state, slice(1000, 2000), state + 1)
    found = generate(prepared, memory, prompts("detection", 2), INDEX[:2], on_device(grammar), 100)
    assert found.tokens.shape[1] == 4
    assert found.tokens[:, 3].tolist() == [END, END]


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "nucleus"])
def test_tokens_are_the_same_where_no_probabilities_are_wanted(exact: ExactModel, exact_memory, sampling: Sampling):
    asked, grammar = prompts("detection", 3), tables("detection")
    every = dataclasses.replace(grammar, scored_states=None)
    some, all_ = (
        generate(exact, exact_memory, asked, INDEX, each, 30, sampling, 2, draws(6, 30)) for each in (grammar, every)
    )
    assert torch.equal(some.tokens, all_.tokens)
    assert torch.equal(some.probs[:, 4::5], all_.probs[:, 4::5])


def test_a_part_of_the_vocabulary_has_the_logits_of_the_whole(prepared: StepDecoder, memory):
    part, asked = Part(torch.tensor([0, 41, 1000, 1001, 3100])), prompts("keypoint", 3)
    some, whole = (prepared.step(asked, prepared.start(memory, INDEX, 6), each) for each in (part, None))
    torch.testing.assert_close(some, whole[:, part.ids], atol=ROUNDING, rtol=0)


def test_choices_are_what_the_grammar_can_reach():
    choices = [choice for choice, _ in zip(tables("detection").choices(), range(10), strict=False)]
    assert choices[0].part.tokens == [END, *range(1000, 2000)]
    assert choices[4].part.tokens == [END, FAKE, 101, 103, 118]  # the fake class may be drawn
    assert [choice.whole for choice in choices] == [False, False, False, False, True] * 2
    assert choices[9] is choices[4] and choices[1].part is choices[0].part


def test_tokens_after_the_end_are_padding(prepared: StepDecoder, memory):
    grammar = Grammar(2, VOCAB_SIZE)  # as many tokens as wanted, of which one ends it
    grammar.allow(0, slice(1000, 1004), 1)
    grammar.allow(1, slice(1000, 1004), 1)
    grammar.allow(1, END, grammar.end)
    wild = Sampling(temperature=100.0)
    tokens = generate(
        prepared,
        memory,
        prompts("detection", 1),
        INDEX[:1],
        on_device(grammar),
        60,
        wild,
        20,
        draws(20, 60),
    ).tokens
    lengths = (tokens != END).sum(1)
    assert len(set(lengths.tolist())) > 3
    assert all(row[:length].all() for row, length in zip(tokens, lengths.tolist(), strict=True))


def test_dropping_ended_rows_changes_no_response(exact: ExactModel, exact_memory, monkeypatch):
    grammar = Grammar(40, VOCAB_SIZE)  # an even coordinate counts once, an odd one five times: 8 to 40 tokens
    for state in range(40):
        grammar.allow(state, slice(1000, 2000, 2), state + 1)
        grammar.allow(state, slice(1001, 2000, 2), min(state + 5, grammar.end))
    many = torch.randint(1000, 2000, (24, 3), generator=seeded())
    index = torch.arange(24) % 2
    kept = []
    monkeypatch.setattr(ExactCache, "keep", lambda cache, rows: kept.append(len(rows)) or keep(cache, rows))
    together = generate(exact, exact_memory, many, index, on_device(grammar), 60).tokens
    assert kept, "no row was dropped: the test needs responses of different lengths"
    for row in range(24):
        alone = generate(exact, exact_memory, many[[row]], index[[row]], on_device(grammar), 60).tokens[0]
        assert torch.equal(together[row, : len(alone)], alone[: together.shape[1]])
        assert not together[row, len(alone) :].any()


def test_no_prompts_give_no_responses(prepared: StepDecoder, memory):
    found = generate(
        prepared,
        memory,
        prompts("keypoint", 3)[:0],
        INDEX[:0],
        tables("keypoint"),
        34,
        SAMPLED,
        4,
        draws(0, 34),
    )
    assert found.tokens.shape[0] == found.probs.shape[0] == 0


def test_probabilities_are_those_before_grammar_and_temperature(
    tiny_model: Pix2Seq, prepared: StepDecoder, images, memory
):
    asked = prompts("keypoint", 1)
    found = generate(prepared, memory, asked, INDEX[:1], tables("keypoint"), 1, Sampling(3.0), 1, draws(1, 1))
    with torch.inference_mode():
        expected = tiny_model(images, asked, INDEX[:1])[:, -1].softmax(-1)
    torch.testing.assert_close(found.probs[0, 0], expected[0, found.tokens[0, 0]], atol=1e-6, rtol=1e-4)


# Truncation


def test_a_nucleus_holds_no_more_than_its_probability():
    logits = torch.randn(50, 300, generator=seeded()) * 3
    kept = truncate_logits(logits, 0, 0.7).isfinite()
    mass = (logits.softmax(-1) * kept).sum(-1)
    assert torch.all((mass <= 0.7 + 1e-5) | (kept.sum(-1) == 1))


def test_top_k_keeps_the_k_likeliest():
    logits = torch.randn(10, 300, generator=seeded())
    kept = truncate_logits(logits, 7, 1.0).isfinite()
    assert torch.equal(kept.nonzero()[:, 1].view(10, 7), logits.topk(7).indices.sort().values)


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}])
def test_three_ways_to_be_greedy(changes: dict):
    logits = torch.randn(20, 100, generator=seeded())
    sampling = dataclasses.replace(Sampling(temperature=1.0), **changes)
    assert torch.equal(choose(logits, sampling, draws(20), Part(torch.arange(100))), logits.argmax(-1))


def test_sampling_follows_the_softmax():
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3)
    chosen = choose(logits, Sampling(temperature=1.0), draws(20_000), Part(torch.arange(3)))
    counts = torch.bincount(chosen, minlength=3) / 20_000
    torch.testing.assert_close(counts, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


def test_tokens_that_the_grammar_forbids_are_never_sampled():
    logits = torch.randn(500, 100, generator=seeded())
    logits[:, ::2] = -torch.inf
    for sampling in (
        Sampling(temperature=1.0),
        Sampling(temperature=9.0, top_k=80),
        Sampling(temperature=1.0, top_p=0.4),
    ):
        chosen = choose(logits, sampling, draws(500), Part(torch.arange(100)))
        assert torch.all(chosen % 2 == 1)
        among = choose(logits[:, 1::2], sampling, draws(500), Part(torch.arange(1, 100, 2)))
        assert torch.equal(chosen, 2 * among + 1)


ALL = Part(torch.arange(VOCAB_SIZE))


# Greedy choices of a model that was trained with soft targets


def logits_of(probs: dict[int, float]) -> torch.Tensor:
    """Logits (1, V) of a few tokens; all others are forbidden."""
    logits = torch.full((1, VOCAB_SIZE), -torch.inf)
    for token, prob in probs.items():
        logits[0, token] = np.log(prob)
    return logits


@pytest.mark.parametrize(("token", "threshold"), [(END, "end_threshold"), (INVISIBLE, "invisible_threshold")])
def test_what_is_no_coordinate_is_chosen_only_if_it_is_probable_enough(token: int, threshold: str):
    logits = logits_of({token: 0.4, **{1100 + 10 * place: 0.06 for place in range(10)}})  # likeliest, but not likely
    assert choose_likeliest(logits, Sampling(), ALL).item() == token
    assert choose_likeliest(logits, Sampling(**{threshold: 0.5}), ALL).item() != token
    assert choose_likeliest(logits, Sampling(**{threshold: 0.3}), ALL).item() == token
    assert logits[0, token] > -torch.inf  # the caller's are untouched


@pytest.mark.parametrize(("token", "threshold"), [(END, "end_threshold"), (INVISIBLE, "invisible_threshold")])
def test_what_alone_is_allowed_is_chosen(token: int, threshold: str):
    assert choose_likeliest(logits_of({token: 1e-6}), Sampling(**{threshold: 0.9}), ALL).item() == token


def test_a_greedy_coordinate_is_the_mean_of_its_neighbors():
    logits = logits_of({1500: 0.4, 1503: 0.3, 1504: 0.3, 1900: 0.39})
    assert choose_likeliest(logits, Sampling(), ALL).item() == 1500
    assert choose_likeliest(logits, Sampling(coord_window=20), ALL).item() == 1502
    assert choose_likeliest(logits, Sampling(coord_window=3), ALL).item() == 1501


def test_windows_end_at_the_first_and_the_last_bin():
    sampling = Sampling(coord_window=30)
    assert choose_likeliest(logits_of({1000: 0.9, 999: 0.8, 1001: 0.1}), sampling, ALL).item() == 1000
    assert choose_likeliest(logits_of({1999: 0.9, 2000: 0.8, 1998: 0.1}), sampling, ALL).item() == 1999
    assert choose_likeliest(logits_of({104: 0.9, 105: 0.8}), sampling, ALL).item() == 104  # classes have no neighbors


def test_models_and_tokenizers_agree_on_the_vocabulary():
    """Both take these numbers from `token_ids`."""
    assert generate_module.END == vocabulary.END == END
    assert decoder.COORDS == COORDS == slice(vocabulary.COORD_SHIFT, vocabulary.COORD_SHIFT + vocabulary.COORD_BINS)
