"""Accuracy of single tokens by role and by position, perplexity, and obedience to a grammar."""

import math

import numpy as np
import pytest
import torch

from pix2seq.evaluate.tokens import ROLES, TokenCounts, obeys, token_columns, token_numbers, token_roles
from pix2seq.token_ids import END, FAKE, INVISIBLE, SEPARATOR
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer

V = 3200
BOX = np.array([0.1, 0.2, 0.5, 0.6])


def roles(*tokens: int, text_end: int = END) -> list[str]:
    return [ROLES[index] for index in token_roles(torch.tensor([tokens]), text_end)[0]]


def test_roles_of_detection():
    assert roles(1000, 1100, 1200, 1300, 105, 1000, 1100, 1200, 1300, FAKE, END) == [
        *("y", "x", "y", "x", "class", "y", "x", "y", "x", "fake", "end")
    ]


def test_roles_of_segmentation():
    target = SegmentationTokenizer(V).encode(BOX, 1, [np.random.rand(3, 2), np.random.rand(4, 2)]).target
    found = roles(*target.tolist())
    assert found[:5] == ["y", "x", "y", "x", "class"]  # the prompt
    assert found[5:] == ["y", "x"] * 3 + ["separator"] + ["y", "x"] * 4 + ["end"]
    assert target[11] == SEPARATOR


def test_roles_of_keypoints():
    visible = np.array([True, False, True])
    target = KeypointTokenizer(V, 3, 0.3).encode(BOX, 1, np.full((3, 2), 0.5), visible).target
    assert roles(*target.tolist())[5:] == ["y", "x", "invisible", "invisible", "y", "x"]
    assert target[7] == INVISIBLE


def test_roles_of_captions():
    assert roles(3005, 3006, END) == ["text", "text", "end"]
    assert roles(3005, 3006, 3001, text_end=3001) == ["text", "text", "end"]


def certain(tokens: list[list[int]], prob: float = 1 - 1e-9) -> torch.Tensor:
    """Logits (S, L, V) that put `prob` on each token and spread the rest."""
    logits = torch.full((len(tokens), len(tokens[0]), V), math.log((1 - prob) / (V - 1)), dtype=torch.float64)
    return logits.scatter(2, torch.tensor(tokens)[:, :, None], math.log(prob))


TARGETS = [[10, 1000, 1100, 1200, 1300, 105, END], [10, 1000, 1100, 1200, 1300, 106, END]]
WEIGHTS = torch.tensor([[0.0, 1, 1, 1, 1, 1, 0.1]] * 2)


def counted(said: list[list[int]], prob: float = 1 - 1e-9) -> TokenCounts:
    counts = TokenCounts()
    counts.add(certain(said, prob), torch.tensor(TARGETS), WEIGHTS)
    return counts


def test_accuracy_by_role_and_by_position():
    said = [[99, 1000, 1100, 1201, 1300, 107, END], [99, 1000, 1100, 1200, 1301, 106, 105]]
    counts = counted(said)
    assert counts.accuracy == {"y": 3 / 4, "x": 3 / 4, "class": 1 / 2, "end": 1 / 2}
    assert counts.accuracy_by_position == [1, 1, 0.5, 0.5, 0.5, 0.5]


def test_tokens_without_weight_do_not_count():
    assert counted([[99, *row[1:]] for row in TARGETS]).accuracy == dict.fromkeys(("y", "x", "class", "end"), 1.0)


def test_perplexity_is_the_number_of_equal_choices():
    assert counted(TARGETS, prob=1 / 8).perplexity == pytest.approx(8, rel=1e-5)


def test_counts_of_parts_add_up():
    said = [[10, 1000, 1100, 1201, 1300, 107, END], [10, 1000, 1100, 1200, 1301, 106, 105]]
    whole, parts = counted(said, 0.5), [TokenCounts(), TokenCounts()]
    for row, part in enumerate(parts):
        part.add(certain([said[row]], 0.5), torch.tensor([TARGETS[row]]), WEIGHTS[:1])
    total = parts[0] + parts[1]
    assert total.accuracy == whole.accuracy and total.accuracy_by_position == whole.accuracy_by_position
    assert total.perplexity == pytest.approx(whole.perplexity)


def test_names_of_numbers_are_known_beforehand():
    numbers = token_numbers({"detection": counted(TARGETS), "captioning": TokenCounts()})
    assert numbers.keys() == {f"accuracy/detection/{role}" for role in ("y", "x", "class", "end")} | {
        "perplexity/detection"
    }
    assert numbers.keys() <= set(token_columns(("detection", "captioning")))


def test_what_obeys_a_grammar():
    grammar = DetectionTokenizer(V, (1, 3), 0.1, 1.0).grammar()
    one = [1000, 1100, 1200, 1300, 101]
    assert obeys([*one, END], grammar) and obeys([END], grammar)
    assert obeys([*one, 1000, 1100], grammar)  # cut, not wrong
    assert obeys([*one, END, END, 17], grammar)  # what follows the end is not read
    assert not obeys([*one[:4], 102, END], grammar)  # no such class
    assert not obeys([*one[:3], END], grammar)
