"""Views: whatever a model says about a mirrored, larger or smaller canvas lies where it belongs in the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.config import InferCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.infer import keypoint
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Prompt
from pix2seq.infer.views import MOST, SCALES
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.vocabulary import quantize

SETTINGS = InferCFG(suppress_invisible=False)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_each_view_shows_every_image(make_predictor, count: int):
    images = [noise(40, 60), noise(60, 30)]
    views = make_predictor(views=count, detection_votes=MOST).encode_images(images)
    assert (len(views), views.count) == (2, count)
    geometries = [each.geometry(query) for each in views.encoded for query in range(len(each))]
    assert len(geometries) == 2 * count
    sizes = {geometry.size for geometry in geometries}
    assert len(sizes) == len(SCALES[: (count + 1) // 2])
    for number, geometry in enumerate(geometries):
        height, width = images[number % 2].shape[:2]
        corners = geometry.apply([[0, 0], [width, height]])
        assert geometry.is_mirrored == (number // 2 % 2 == 1)
        np.testing.assert_allclose(np.sort(corners, axis=0)[0], 0, atol=1e-9)  # in the canvas's upper left corner
        assert corners.max() == pytest.approx(geometry.size)


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_fewer_views_are_the_first_ones_and_queries_can_be_chosen(make_predictor, count: int):
    predictor = make_predictor(views=MOST, detection_votes=MOST)
    images = [noise(40, 60), noise(60, 30), noise(50, 50)]
    views = predictor.encode_images(images)
    fewer = views.at_most(count)
    assert fewer.count == count
    chosen = fewer.take([2, 0])
    assert (len(chosen), chosen.count) == (2, count)
    expected = [
        each.geometry(query).matrix for each in fewer.encoded for query in range(len(each)) if query % 3 in (0, 2)
    ]
    found = [each.geometry(query).matrix for each in chosen.encoded for query in range(len(each))]
    for one, other in zip(expected, [found[number ^ 1] for number in range(len(found))], strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_view_is_encoded_that_no_task_uses(make_predictor):
    predictor = make_predictor(views=4, detection_votes=8, num_samples=1, keypoint_votes=5, caption_votes=3)
    images, prompts = [noise(40, 60)], [Prompt(0, np.array([2.0, 3, 25, 30]), 1)]
    for names, count in ((["detection"], 4), (["captioning"], 2), (["captioning", "detection"], 4), (None, 4)):
        assert predictor.encode_images(images, names).count == count
    for names, count in ((["segmentation"], 1), (["segmentation", "keypoint"], 2), (["keypoint", "detection"], 2)):
        assert predictor.encode_crops(images, prompts, names).count == count
    single = predictor.with_settings(detection_votes=1)
    assert single.encode_images(images, ["detection"]).count == 1


def test_votes_are_shared_among_the_views(make_predictor):
    predictor = make_predictor(views=4, detection_votes=8, num_samples=3, keypoint_votes=5, caption_votes=1)
    images = [noise(40, 60), noise(60, 30)]
    for answer in predictor.ask("detection", images):
        assert [canvas.geometry.is_mirrored for canvas in answer.canvases] == [False, False, True, True] * 2
    prompts = [Prompt(1, np.array([2.0, 3, 25, 50]), 1)]
    for task, votes in (("segmentation", 4), ("keypoint", 6)):  # rounded up to the same number for each view
        (answer,) = predictor.ask(task, images, prompts)
        assert len(answer.responses) == len(answer.canvases) == len(answer.prompts) == votes
        assert sum(canvas.geometry.is_mirrored for canvas in answer.canvases) == votes // 2
    assert [len(answer.responses) for answer in predictor.ask("captioning", images)] == [1, 1]
    assert predictor.ask("detection", []) == predictor.ask("keypoint", images, []) == []


@given(st.floats(20, 200), st.floats(20, 200), st.integers(0, 5), st.booleans(), st.randoms(use_true_random=False))
def test_a_mirrored_pose_exchanges_left_and_right(width: float, height: float, moved: int, crop: bool, random):
    """The tokens of a pose in the mirrored canvas, where left is called right, give the pose in the image."""
    flip = (0, 2, 1, 4, 3)
    tokenizer = KeypointTokenizer(3000, 5, 1.0, flip)
    box = np.array([moved, moved, moved + width, moved + height])
    geometry = Geometry.crop(box, 0.1, 64) if crop else Geometry.letterbox(int(width) + 10, int(height) + 10, 64)
    mirrored = geometry.flip() if crop else geometry.flip(geometry.apply((int(width) + 10, 0))[0])
    shares = np.array([[random.random(), random.random()] for _ in flip])
    points = box[:2] + shares * (box[2:] - box[:2])
    visible = np.array([True, True, False, True, True])
    poses = []
    for at, order in ((geometry, range(5)), (mirrored, flip)):
        seen = [points[number] for number in order]
        pairs = quantize(np.clip(at.to_fractions(np.array(seen)), 0, 1))
        tokens = np.where(visible[list(order)][:, None], pairs, 41).reshape(-1)
        canvas = Canvas(500, 500, at, Prompt(0, box, 1))
        poses.append(keypoint.read([Response.certain(tokens)], [canvas], tokenizer, SETTINGS))
    step = 1.01 * 64 / 999 / abs(geometry.matrix[0, 0])  # pixels of a coordinate bin
    np.testing.assert_array_equal(poses[0].keypoints[:, 2], poses[1].keypoints[:, 2])
    np.testing.assert_allclose(poses[0].keypoints[:, :2], poses[1].keypoints[:, :2], atol=step)
