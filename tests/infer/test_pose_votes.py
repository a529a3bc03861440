"""Several poses of an instance vote for each of its points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.config import CFG, replace
from pix2seq.infer.keypoint import sampling
from pix2seq.infer.pose_votes import BANDWIDTH, merge_points
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.results import Prompt

AREA = 10_000.0  # one standard deviation is 10 px


def votes(*places: tuple[float, float]) -> np.ndarray:
    """(N, 1, 2)."""
    return np.array(places, dtype=float)[:, None]


def everyone(points: np.ndarray) -> np.ndarray:
    return np.ones(points.shape[:2], bool)


def test_the_point_is_where_most_samples_put_it():
    points = votes((50, 50), (51, 49), (49, 51), (90, 10), (10, 90))
    found, agreement = merge_points(points, everyone(points), AREA)
    np.testing.assert_allclose(found, [[50, 50]], atol=0.1)
    assert agreement == pytest.approx(3 / 5, abs=0.02)


def test_agreement_is_the_mean_likeness_in_oks_s_form():
    points = votes((0, 0), (10, 0))
    _, agreement = merge_points(points, everyone(points), AREA)
    assert agreement == pytest.approx((1 + np.exp(-0.5)) / 2)
    assert BANDWIDTH * AREA**0.5 == 10


def test_samples_without_the_point_have_no_vote_and_lower_the_agreement():
    points, counted = votes((0, 0), (0, 0), (40, 40)), np.array([[False], [False], [True]])
    found, agreement = merge_points(points, counted, AREA)
    np.testing.assert_allclose(found, [[40, 40]])
    assert agreement == pytest.approx(1 / 3)
    assert merge_points(points, np.zeros((3, 1), bool), AREA)[1] == 0


coordinates = st.floats(0, 300).map(lambda value: round(value, 2))


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8), st.floats(0, 1e5))
def test_a_point_lies_among_its_votes(places: list[tuple[float, float]], area: float):
    points = votes(*places)
    found, agreement = merge_points(points, everyone(points), area)
    assert (found[0] >= points[:, 0].min(axis=0) - 1e-6).all() and (found[0] <= points[:, 0].max(axis=0) + 1e-6).all()
    assert 0 < agreement[0] <= 1 + 1e-9


def test_votes_are_sampled_and_a_single_pose_is_greedy():
    assert sampling(CFG().infer)[0].greedy and sampling(CFG().infer)[1] == 1
    voting, count = sampling(replace(CFG(), keypoint_votes=8, suppress_invisible=True).infer)
    assert (voting.greedy, count, voting.coords_too) == (False, 8, True) and 0 < voting.top_p < 1
    assert sampling(replace(CFG(), keypoint_votes=8, keypoint_top_p=0.3).infer)[0].top_p == 0.3


@pytest.mark.parametrize("suppress", [False, True])
def test_a_voted_pose_depends_on_the_seed_alone_and_lies_in_the_image(make_predictor, suppress: bool):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    prompts = [Prompt(0, np.array([10.0, 5, 60, 55]), 1)] * 2
    poses = []
    for seed in (0, 0, 1):
        predictor: Predictor = make_predictor(keypoint_votes=5, suppress_invisible=suppress, seed=seed)
        poses.append(predictor.predict("keypoint", [image], prompts)[0])
    assert np.array_equal(poses[0].keypoints, poses[1].keypoints) and poses[0].score == poses[1].score
    assert not np.array_equal(poses[0].keypoints, poses[2].keypoints)
    assert (poses[0].keypoints[:, :2] >= 0).all() and (poses[0].keypoints[:, :2] <= [80, 60]).all()
    assert 0 < poses[0].score <= 1
