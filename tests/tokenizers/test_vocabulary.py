"""The token ids that all tasks share, and the sequences and grammars built from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pix2seq.token_ids import COORD_BINS, COORD_SHIFT, is_coord
from pix2seq.tokenizers.vocabulary import (
    Grammar,
    TokenSequence,
    dequantize,
    instance_prompt,
    prompted_box,
    quantize,
    until_end,
)

HALF_BIN = 0.5 / (COORD_BINS - 1)


@given(hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(0, 1)))
def test_a_coordinate_is_recovered_within_half_a_bin(fractions: np.ndarray):
    assert np.all(np.abs(dequantize(quantize(fractions)) - fractions) <= HALF_BIN + 1e-6)


def test_the_edges_of_the_canvas_are_recovered_exactly():
    assert dequantize(quantize([0.0, 1.0])).tolist() == [0.0, 1.0]


@given(hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e6, 1e6)))
def test_coordinates_off_the_canvas_are_clipped_to_coordinates(fractions: np.ndarray):
    assert is_coord(quantize(fractions)).all()


@given(hnp.arrays(np.int64, st.integers(0, 30), elements=st.integers(COORD_SHIFT, COORD_SHIFT + COORD_BINS - 1)))
def test_every_coordinate_token_is_recovered(tokens: np.ndarray):
    assert np.array_equal(quantize(dequantize(tokens)), tokens)


def test_quantize_equals_the_official_code(reference):
    data = reference("quantize.npz")
    assert np.array_equal(quantize(data["coords_1000"]) - COORD_SHIFT, data["quantized_1000"])


def test_dequantize_equals_the_official_code(reference):
    data = reference("quantize.npz")
    np.testing.assert_allclose(dequantize(data["tokens_1000"] + COORD_SHIFT), data["dequantized_1000"], atol=1e-7)


@pytest.mark.parametrize("tokens, before", [([], []), ([0], []), ([7, 8], [7, 8]), ([7, 0, 8, 0], [7]), ([0, 0], [])])
def test_until_end_cuts_at_the_first_end(tokens: list[int], before: list[int]):
    assert until_end(np.array(tokens, dtype=np.int64)).tolist() == before


def test_the_response_is_trained_and_the_prompt_is_not():
    sequence = TokenSequence.from_response(np.array([11, 12]), np.array([21, 22, 0]), np.array([1.0, 0.5, 0.25]))
    assert sequence.input.tolist() == [11, 12, 21, 22]
    assert sequence.target.tolist() == [12, 21, 22, 0]
    assert sequence.weight.tolist() == [0, 1, 0.5, 0.25]
    assert sequence.response(prompt_length=2).tolist() == [21, 22, 0]


def test_an_instance_prompt_names_task_box_and_class():
    prompt = instance_prompt(12, np.array([0.0, 0.25, 0.5, 1.0]), 1)
    assert prompt.tolist() == [12, 1000, 1250, 1500, 1999, 101]
    box, class_id = prompted_box(prompt)
    assert np.all(np.abs(box - [0, 0.25, 0.5, 1]) <= HALF_BIN + 1e-6) and class_id == 1


def test_after_the_end_only_end_tokens_are_allowed():
    grammar = Grammar(1, 50)
    assert np.flatnonzero(grammar.allowed[grammar.end]).tolist() == [0]
    assert grammar.next_state[grammar.end, 0] == grammar.end


def test_a_grammar_accepts_allowed_tokens_up_to_the_end():
    grammar = Grammar(2, 50)
    grammar.allow(0, 7, 1)
    grammar.allow(1, 8, grammar.end)
    assert all(map(grammar.accepts, ([], [7], [7, 8], [7, 8, 0, 0], [7, 8, 9])))
    assert not any(map(grammar.accepts, ([8], [0], [7, 7], [7, 0])))


@given(hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(0, 49)))
def test_an_unconstrained_grammar_accepts_everything(tokens: np.ndarray):
    grammar = Grammar.unconstrained(50)
    assert grammar.accepts(tokens)
    assert grammar.next_state[0].tolist() == [grammar.end, *[0] * 49]
