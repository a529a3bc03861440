"""Merging sampled lists of objects: each list has one vote on an object, in whatever order they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.infer.votes import MIN_IOU, MIN_SCORE, box_iou, merge_votes
from pix2seq.models.sampling import Sampling
from pix2seq.token_ids import CLASS_SHIFT
from pix2seq.tokenizers.detection import Detections
from pix2seq.tokenizers.vocabulary import quantize


def detections(*objects: tuple[list[float], int, float]) -> Detections:
    """A vote with (box, class, score) of each object."""
    boxes, classes, scores = (np.array(column) for column in zip(*objects, strict=True)) if objects else ([], [], [])
    return Detections(np.reshape(boxes, (-1, 4)), np.array(classes, dtype=np.int64), np.array(scores, dtype=float))


def rows(found: Detections) -> set[tuple]:
    """Its objects."""
    return {tuple(row) for row in np.column_stack([found.boxes, found.classes, found.scores]).round(9).tolist()}


# Few places, so that boxes overlap and scores tie.
place = st.integers(0, 6).map(lambda number: number / 10)
side = st.integers(1, 4).map(lambda number: number / 10)
boxes = st.tuples(place, place, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
objects = st.tuples(boxes, st.integers(1, 2), st.floats(MIN_SCORE, 1))
votes = st.lists(st.lists(objects, max_size=6).map(lambda some: detections(*some)), min_size=1, max_size=5)

WHOLE, LEFT, OTHER = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9], [0.0, 0.0, 0.2, 0.2]


@given(votes, st.randoms(use_true_random=False))
def test_the_order_of_votes_does_not_matter(some: list[Detections], random):
    merged, other = merge_votes(some), merge_votes(random.sample(some, len(some)))
    assert len(merged.scores) == len(other.scores)
    np.testing.assert_allclose(merged.scores, other.scores)
    assert rows(merged) == rows(other)


@given(votes)
def test_scores_fall_from_at_most_1_and_boxes_stay_within_those_of_the_votes(some: list[Detections]):
    merged = merge_votes(some)
    assert np.all(np.diff(merged.scores) <= 0) and np.all((merged.scores >= 0) & (merged.scores <= 1 + 1e-12))
    given_boxes = np.concatenate([vote.boxes for vote in some])
    assert set(merged.classes) == {class_id for vote in some for class_id in vote.classes}
    assert np.all(merged.boxes >= given_boxes.min(axis=0, initial=1) - 1e-9)
    assert np.all(merged.boxes <= given_boxes.max(axis=0, initial=0) + 1e-9)


@given(votes)
def test_one_vote_keeps_its_boxes_but_for_duplicates(some: list[Detections]):
    vote = some[0]
    merged = merge_votes([vote])
    assert rows(merged) <= rows(vote)
    same = (box_iou(merged.boxes, merged.boxes) >= MIN_IOU) & (merged.classes[:, None] == merged.classes)
    assert not (same & ~np.eye(len(merged.scores), dtype=bool)).any()


@given(st.lists(objects, max_size=4), st.integers(1, 6))
def test_equal_votes_give_what_one_gives(some: list, count: int):
    one, many = merge_votes([detections(*some)]), merge_votes([detections(*some)] * count)
    np.testing.assert_array_equal(one.classes, many.classes)
    np.testing.assert_allclose(one.boxes, many.boxes)
    np.testing.assert_allclose(one.scores, many.scores)


def test_a_box_that_half_of_the_votes_have_gets_half_of_its_probability():
    merged = merge_votes([detections((WHOLE, 1, 0.8)), detections()])
    assert merged.scores.tolist() == [0.4] and merged.boxes.tolist() == [WHOLE]


def test_a_box_is_the_mean_weighted_by_scores():
    merged = merge_votes([detections((WHOLE, 1, 0.9)), detections((LEFT, 1, 0.3))])
    np.testing.assert_allclose(merged.boxes, [[0, 0, 1, 0.975]])
    np.testing.assert_allclose(merged.scores, [0.6])


def test_duplicates_within_a_vote_count_once_and_other_classes_and_places_apart():
    merged = merge_votes([detections((WHOLE, 1, 0.9), (LEFT, 1, 0.8), (WHOLE, 2, 0.5), (OTHER, 1, 0.4))])
    assert merged.classes.tolist() == [1, 2, 1] and merged.scores.tolist() == [0.9, 0.5, 0.4]


def test_votes_without_objects_give_none():
    merged = merge_votes([detections(), detections()])
    assert merged.boxes.shape == (0, 4) and len(merged.classes) == len(merged.scores) == 0


def test_iou_of_known_boxes():
    found = box_iou(np.array([WHOLE, [0, 0, 0, 0]]), np.array([LEFT, OTHER, [0, 0, 0, 0]]))
    np.testing.assert_allclose(found, [[0.9, 0.04, 0], [0, 0, 0]])


# In prediction


def list_of(*objects: tuple[list[float], int]) -> list[int]:
    """The tokens of a list of (box, class)."""
    return [token for box, class_id in objects for token in (*quantize(np.array(box)), class_id + CLASS_SHIFT)] + [0]


def test_several_lists_are_merged_and_one_is_read_as_it_is(make_predictor):
    image = np.zeros((100, 100, 3), np.uint8)
    lists = {"detection": [list_of((WHOLE, 1), (OTHER, 3)), list_of((WHOLE, 1), (WHOLE, 1))]}
    found = make_predictor(lists, detection_votes=2).predict("detection", [image])[0]
    assert found.classes.tolist() == [1, 3]
    np.testing.assert_allclose(found.scores, [0.9, 0.45])
    assert make_predictor(lists).predict("detection", [image])[0].classes.tolist() == [1, 3]


def test_votes_count_for_each_class_that_a_box_may_have(make_predictor):
    predictor = make_predictor(detection_votes=3)
    encoded = predictor.encode_images([np.full((50, 60, 3), 120, np.uint8)]).first
    tokenizer = predictor.tokenizers["detection"]
    sampling = Sampling(1.0, alternatives=3)
    for response in predictor.generator.generate("detection", encoded, [tokenizer.prompt()], sampling, 3):
        chosen = tokenizer.decode(response.tokens, response.probs)
        ranked = tokenizer.decode_alternatives(response.tokens, response.alternatives, response.alternative_probs)
        assert len(ranked.scores) == 3 * len(chosen.scores)
        np.testing.assert_array_equal(ranked.classes[::3], chosen.classes)
        np.testing.assert_allclose(ranked.scores[::3], chosen.scores, rtol=1e-5)
        np.testing.assert_array_equal(ranked.boxes.reshape(-1, 3, 4), np.repeat(chosen.boxes[:, None], 3, axis=1))


@pytest.mark.parametrize("seed", [0, 1])
def test_votes_depend_on_the_seed_alone(make_predictor, seed: int):
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    first, second = (make_predictor(detection_votes=2, seed=seed).predict("detection", [image])[0] for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)
