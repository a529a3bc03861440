"""Of several captions the most typical one is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.config import CFG, replace
from pix2seq.infer.captioning import sampling
from pix2seq.infer.consensus import by_typicality, likeness

captions = st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=6)


def test_the_caption_that_shares_most_with_the_others_is_kept():
    said = ["a man on a horse", "two dogs in the snow", "a man rides a horse", "a man on a brown horse"]
    assert by_typicality(said)[0] == 0


def test_likeness_is_the_mean_f1_of_words_and_pairs():
    found = likeness(["a dog runs", "a dog sits here"])
    assert found[0, 1] == pytest.approx(((2 * 2 / 7) + (2 * 1 / 5)) / 2)


@given(captions)
def test_likeness_is_symmetric_and_highest_with_itself(said: list[str]):
    found = likeness(said)
    assert np.array_equal(found, found.T) and (found >= 0).all() and (found <= 1).all()
    assert np.array_equal(np.diag(found), np.ones(len(said)))


@given(captions, st.randoms())
def test_what_is_kept_does_not_depend_on_the_order_but_among_equals(said: list[str], random):
    typical = likeness(said).mean(axis=1)
    shuffled = random.sample(said, len(said))
    assert likeness(shuffled).mean(axis=1)[by_typicality(shuffled)[0]] == pytest.approx(typical.max())


def test_one_caption_is_itself():
    assert by_typicality(["anything"]) == by_typicality([""]) == [0]


def test_votes_are_sampled_and_a_single_caption_is_greedy():
    settings = CFG().infer
    assert sampling(settings)[0].greedy and sampling(settings)[1] == 1
    voting, count = sampling(replace(CFG(), caption_votes=16).infer)
    assert (voting.greedy, count, voting.top_p) == (False, 16, 1.0) and voting.temperature < 1
    nucleus, count = sampling(replace(CFG(), caption_votes=4, caption_top_p=0.8).infer)
    assert (nucleus.top_p, nucleus.temperature, count) == (0.8, settings.temperature, 4)
