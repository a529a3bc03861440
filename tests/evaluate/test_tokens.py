"""Accuracy of single tokens by role and by position, perplexity, and validity without a grammar."""

import math

import numpy as np
import pytest
import torch

from pix2seq.dataset.coco import CocoDataset
from pix2seq.evaluate.evaluation import ask
from pix2seq.evaluate.tokens import (
    ROLES,
    TokenCounts,
    UnconstrainedGenerator,
    token_columns,
    token_numbers,
    token_roles,
)
from pix2seq.infer.predictor import Predictor
from pix2seq.models.sampling import Sampling
from pix2seq.tasks import TASKS
from pix2seq.token_ids import END, FAKE, INVISIBLE, SEPARATOR
from pix2seq.tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer

V = 3200
BOX = np.array([0.1, 0.2, 0.5, 0.6])
DETECTION = DetectionTokenizer(V, (1, 3), max_objects=20, end_weight=0.1, noise_weight=1.0)
CAPTIONING = CaptioningTokenizer(V, WordVocabulary(["<unk>", "a"]), max_words=8, end_weight=1.0)


def roles(*tokens: int, text_end: int = END) -> list[str]:
    return [ROLES[index] for index in token_roles(torch.tensor([tokens]), text_end)[0]]


def test_roles_of_detection():
    assert roles(1000, 1100, 1200, 1300, 105, 1000, 1100, 1200, 1300, FAKE, END) == [
        *("y", "x", "y", "x", "class", "y", "x", "y", "x", "fake", "end")
    ]


def test_roles_of_segmentation():
    target = SegmentationTokenizer(V, 24).encode(BOX, 1, [np.random.rand(3, 2), np.random.rand(4, 2)]).target
    found = roles(*target.tolist())
    assert found[:5] == ["y", "x", "y", "x", "class"]  # the prompt
    assert found[5:] == ["y", "x"] * 3 + ["separator"] + ["y", "x"] * 4 + ["end"]
    assert target[11] == SEPARATOR


def test_roles_of_keypoints():
    visible = np.array([True, False, True])
    target = KeypointTokenizer(V, 3, 0.1).encode(BOX, 1, np.full((3, 2), 0.5), visible).target
    assert roles(*target.tolist())[5:] == ["y", "x", "invisible", "invisible", "y", "x"]
    assert target[7] == INVISIBLE


def test_roles_of_captions():
    assert roles(3005, 3006, END) == ["text", "text", "end"]
    assert roles(3005, 3006, 3001, text_end=3001) == ["text", "text", "end"]


def certain(tokens: list[list[int]], prob: float = 1 - 1e-9) -> torch.Tensor:
    """Logits (n, V) that put `prob` on each token that has a weight, and spread the rest."""
    weighted = torch.tensor(tokens)[WEIGHTS[: len(tokens)] > 0]
    logits = torch.full((len(weighted), V), math.log((1 - prob) / (V - 1)), dtype=torch.float64)
    return logits.scatter(1, weighted[:, None], math.log(prob))


TARGETS = [[10, 1000, 1100, 1200, 1300, 105, END], [10, 1000, 1100, 1200, 1300, 106, END]]
WEIGHTS = torch.tensor([[0.0, 1, 1, 1, 1, 1, 0.1]] * 2)


def counted(predicted: list[list[int]], prob: float = 1 - 1e-9) -> TokenCounts:
    counts = TokenCounts()
    counts.add(certain(predicted, prob), torch.tensor(TARGETS), WEIGHTS)
    return counts


def test_accuracy_by_role_and_by_position():
    predicted = [[99, 1000, 1100, 1201, 1300, 107, END], [99, 1000, 1100, 1200, 1301, 106, 105]]
    counts = counted(predicted)
    assert counts.accuracy == {"y": 3 / 4, "x": 3 / 4, "class": 1 / 2, "end": 1 / 2}
    assert counts.accuracy_by_position == [1, 1, 0.5, 0.5, 0.5, 0.5]


def test_tokens_without_weight_do_not_count():
    assert counted([[99, *row[1:]] for row in TARGETS]).accuracy == dict.fromkeys(("y", "x", "class", "end"), 1.0)


def test_perplexity_is_the_number_of_equally_likely_tokens():
    assert counted(TARGETS, prob=1 / 8).perplexity == pytest.approx(8, rel=1e-5)


def test_counts_of_parts_add_up():
    predicted = [[10, 1000, 1100, 1201, 1300, 107, END], [10, 1000, 1100, 1200, 1301, 106, 105]]
    whole, parts = counted(predicted, 0.5), [TokenCounts(), TokenCounts()]
    for row, part in enumerate(parts):
        part.add(certain([predicted[row]], 0.5), torch.tensor([TARGETS[row]]), WEIGHTS[:1])
    total = parts[0] + parts[1]
    assert total.accuracy == whole.accuracy and total.accuracy_by_position == whole.accuracy_by_position
    assert total.perplexity == pytest.approx(whole.perplexity)


def test_names_of_metrics_are_known_in_advance():
    numbers = token_numbers({"detection": counted(TARGETS), "captioning": TokenCounts()})
    assert numbers.keys() == {f"accuracy/detection/{role}" for role in ("y", "x", "class", "end")} | {
        "perplexity/detection"
    }
    assert numbers.keys() <= set(token_columns({"detection": DETECTION, "captioning": CAPTIONING}))


def test_responses_that_a_grammar_accepts():
    grammar = DETECTION.grammar()
    one = [1000, 1100, 1200, 1300, 101]
    assert grammar.accepts([*one, END]) and grammar.accepts([END])
    assert grammar.accepts([*one, 1000, 1100])  # cut, not wrong
    assert grammar.accepts([*one, END, END, 17])  # what follows the end is not read
    assert not grammar.accepts([*one[:4], 102, END])  # no such class
    assert not grammar.accepts([*one[:3], END])


# Without a grammar

SAMPLED = dict(
    detection_top_p=1.0, num_samples=3, temperature=1.0, top_p=1.0, keypoint_votes=2, suppress_invisible=True
)


def prompts_of(predictor: Predictor, task: str, count: int) -> list[np.ndarray]:
    tokenizer = predictor.tokenizers[task]
    if TASKS[task].is_prompted:
        return [tokenizer.prompt(BOX + 0.1 * number, 1) for number in range(count)]
    return [tokenizer.prompt()] * count


@pytest.mark.parametrize("task", TASKS)
def test_unconstrained_responses_are_greedy_even_where_sampling_is_requested(make_predictor, task: str):
    predictor: Predictor = make_predictor(**SAMPLED)
    free = UnconstrainedGenerator(predictor.generator)
    encoded = predictor.encode_images(
        [np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)] * 2
    ).first
    prompts = prompts_of(predictor, task, 2)
    greedy = [response.tokens for response in free.generate(task, encoded, prompts, Sampling(), 1)]
    wild = free.generate(task, encoded, prompts, Sampling(temperature=50.0), 3)
    assert [response.tokens.tolist() for response in wild] == [row.tolist() for row in greedy for _ in range(3)]
    held = predictor.generator.generate(task, encoded, prompts, Sampling(temperature=50.0), 1)
    assert [response.tokens.tolist() for response in held] != [row.tolist() for row in greedy]
    memory, model = encoded.memory, predictor.generator.model
    with torch.inference_mode():
        tokens = torch.from_numpy(np.stack(prompts))
        first = model.decode_groups(memory, [(tokens, torch.arange(2))])[0][:, -1].argmax(-1)
    assert first.tolist() == [row[0] for row in greedy]  # the likeliest of all tokens


@pytest.mark.parametrize("task", TASKS)
def test_unconstrained_predictions_do_not_depend_on_the_seed(make_predictor, split: CocoDataset, task: str):
    """Neither a nucleus for coordinates nor sampled polygons make them random."""
    tokens = []
    for seed in (0, 1):
        free = RecordingGenerator(make_predictor(**SAMPLED, seed=seed))
        predictor = make_predictor(**SAMPLED, seed=seed).with_generator(free)
        ask(predictor, [task], {0: split[0]}, about_detected=False)
        tokens.append(free.tokens)
    assert tokens[0] and tokens[0] == tokens[1]


class RecordingGenerator(UnconstrainedGenerator):
    """A generator that records the tokens of all responses."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor.generator)
        self.tokens: list[list[int]] = []

    def generate(self, *question):
        responses = super().generate(*question)
        self.tokens += [response.tokens.tolist() for response in responses]
        return responses


def test_each_prompt_is_counted_once_for_any_number_of_samples(make_predictor):
    predictor: Predictor = make_predictor(**SAMPLED)
    free = UnconstrainedGenerator(predictor.generator)
    encoded = predictor.encode_images([np.zeros((40, 60, 3), np.uint8)]).first.take([0, 0])
    free.generate("segmentation", encoded, prompts_of(predictor, "segmentation", 2), Sampling(temperature=1.0), 3)
    assert free.total == {"detection": 0, "segmentation": 2, "keypoint": 0, "captioning": 0}
    assert 0 <= free.valid["segmentation"] <= 2


def test_an_unconstrained_generator_does_not_change_the_original(make_predictor, split: CocoDataset):
    predictor: Predictor = make_predictor()
    image, grammar = split[0].image, predictor.tokenizers["keypoint"].grammar()
    encoded, prompts = predictor.encode_images([image]).first, prompts_of(predictor, "keypoint", 1)
    free = UnconstrainedGenerator(predictor.generator)
    found = [
        generator.generate("keypoint", encoded, prompts, Sampling(), 1)[0] for generator in (free, predictor.generator)
    ]
    assert [grammar.accepts(response.tokens) for response in found] == [False, True]
    assert free.valid["keypoint"] == 0 and free.total["keypoint"] == 1
