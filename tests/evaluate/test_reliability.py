"""Scores say how often predictions are right, at the latest when they are calibrated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.evaluate.reliability import HIGH, LOW, Reliability, fit_calibration
from pix2seq.evaluate.voc_metrics import matches
from pix2seq.infer.calibration import calibrate

slopes = st.floats(0.2, 5)
offsets = st.floats(-3, 3)


@given(st.lists(st.integers(1, 99).map(lambda n: n / 100), min_size=2, max_size=50, unique=True), slopes, offsets)
def test_calibration_keeps_the_order_and_the_range(scores: list[float], slope: float, offset: float):
    ordered = np.sort(scores)
    found = calibrate(ordered, slope, offset)
    assert np.all(np.diff(found) > 0) and np.all((found > 0) & (found < 1))


def test_certain_scores_stay_and_the_identity_changes_nothing():
    scores = np.array([0.0, 0.3, 1.0])
    np.testing.assert_array_equal(calibrate(scores, 2.0, -1.0)[[0, 2]], [0, 1])
    assert calibrate(scores, 1, 0) is scores
    np.testing.assert_allclose(calibrate(np.array([0.5]), 3.0, 0.0), 0.5)


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1.0), (2.0, 0.5), (1.0, 0.0)])
def test_the_map_that_made_scores_wrong_is_found_and_undone(slope: float, offset: float):
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.01, 0.99, 20000)
    right = rng.random(20000) < calibrate(scores, slope, offset)
    found = fit_calibration(scores, right)
    np.testing.assert_allclose(found, (slope, offset), atol=0.1)
    before, after = (Reliability.of(values, right).error for values in (scores, calibrate(scores, *found)))
    assert after < 0.02 and (after < before / 3 or slope == 1)


@pytest.mark.parametrize("right", [[True] * 4, [False] * 4, [False, False, True, True], [True, True, False, False]])
def test_few_predictions_give_a_finite_map_that_keeps_the_order(right: list[bool]):
    slope, offset = fit_calibration(np.array([0.0, 0.2, 0.8, 1.0]), np.array(right))
    assert LOW <= slope <= HIGH and abs(offset) < HIGH


def test_a_reliability_table_of_known_scores():
    scores, right = np.array([0.05, 0.55, 0.55, 1.0]), np.array([False, True, False, True])
    table = Reliability.of(scores, right)
    assert table.count == [1, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert table.right[5] == 0.5 and table.mean_score[9] == 1.0 and table.right[1] is None
    assert table.error == pytest.approx((0.05 + 0.1 + 0) / 4)
    assert "0.5 … 0.6      2       0.550  0.500" in table.text()
    assert Reliability.of(np.zeros(0), np.zeros(0, bool)).error == 0


def test_a_prediction_is_right_once_and_those_of_ignored_objects_do_not_count():
    box, far = [0, 0, 10, 10], [50, 50, 10, 10]
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0},
        {"image_id": 1, "category_id": 2, "bbox": far, "iscrowd": 1},
    ]
    results = [
        {"image_id": 1, "category_id": category, "bbox": place, "score": score}
        for category, place, score in ((1, box, 0.9), (1, box, 0.8), (1, far, 0.7), (2, far, 0.6))
    ]
    scores, right = matches(annotations, results, [1], [1, 2])
    assert dict(zip(scores, right, strict=True)) == {0.9: True, 0.8: False, 0.7: False}
