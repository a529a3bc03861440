"""Masks equal those of COCO's own code for the same polygons."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pix2seq.dataset.masks import decode_mask, encode_mask, rasterize
from pix2seq.infer.masks import vote

HEIGHT, WIDTH = 50, 70
coordinate = st.floats(-20, 90)
polygon = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=6).map(np.array)


@given(st.lists(polygon, min_size=1, max_size=3))
def test_a_mask_of_one_vote_equals_coco_s_own(polygons: list[np.ndarray]):
    parts = coco_mask.frPyObjects([part.ravel().tolist() for part in polygons], HEIGHT, WIDTH)
    expected = coco_mask.decode(coco_mask.merge(parts)).astype(bool)
    mask = decode_mask(vote([polygons], HEIGHT, WIDTH, 0.5).rle)
    assert np.array_equal(mask, expected)


def test_a_box_of_whole_pixels_is_exact():
    mask = decode_mask(vote([[np.array([(10, 5), (30, 5), (30, 25), (10, 25)])]], HEIGHT, WIDTH, 0.5).rle)
    assert mask.sum() == 20 * 20
    assert mask[5:25, 10:30].all()


def test_polygons_of_one_sample_are_united():
    squares = [np.array([(x, 5), (x + 20, 5), (x + 20, 25), (x, 25)]) for x in (0, 10)]
    assert rasterize(squares, HEIGHT, WIDTH).sum() == 30 * 20


def test_a_polygon_outside_the_image_is_an_empty_mask():
    for corners in ([(-9, -9), (-1, -9), (-1, -1)], [(75, 9), (80, 9), (80, 20)], [(9, 55), (20, 55), (20, 66)]):
        assert not decode_mask(vote([[np.array(corners)]], HEIGHT, WIDTH, 0.5).rle).any()


def test_the_score_is_the_mean_share_of_votes():
    small = [np.array([(0, 0), (10, 0), (10, 10), (0, 10)])]
    large = [np.array([(0, 0), (20, 0), (20, 10), (0, 10)])]
    assert vote([small, large], HEIGHT, WIDTH, 0.5).score == 0.75


def test_masks_are_unchanged_by_encoding():
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    assert (decode_mask(encode_mask(mask)) == mask).all()
