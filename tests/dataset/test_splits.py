"""Names of splits, and the images that are held out where there is no validation split."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pix2seq.dataset.splits import TRAIN, VAL, Part, held_out, name_in, role_in, whole_of

NAMES = st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=40)
SHARES = st.floats(0.001, 0.9)


@given(NAMES, SHARES, st.randoms())
def test_each_image_is_on_one_side_whatever_the_order(names: list[str], share: float, shuffle: random.Random):
    sides = {side: Part("all", side, share).chosen(names) for side in (TRAIN, VAL)}
    assert all(one != other for one, other in zip(sides[TRAIN], sides[VAL], strict=True))
    other_order = shuffle.sample(names, len(names))
    assert dict(zip(names, held_out(names, share), strict=True)) == dict(
        zip(other_order, held_out(other_order, share), strict=True)
    )


@given(st.integers(2, 300), SHARES)
def test_the_share_is_held_out_and_at_least_one_of_either_kind(count: int, share: float):
    held = sum(held_out([f"{n}.jpg" for n in range(count)], share))
    assert 1 <= held < count and abs(held - share * count) <= 1


@given(NAMES, SHARES, SHARES)
def test_a_smaller_share_is_part_of_a_larger_one(names: list[str], one: float, other: float):
    small, large = sorted((one, other))
    assert all(
        in_large or not in_small
        for in_small, in_large in zip(held_out(names, small), held_out(names, large), strict=True)
    )


def test_the_same_images_are_held_out_on_every_machine():
    names = [f"images/{n:03}.jpg" for n in range(20)]
    held = [name for name, held in zip(names, held_out(names, 0.1), strict=True) if held]
    assert held == ["images/001.jpg", "images/018.jpg"]
    assert held_out([name.replace("/", "\\") for name in names], 0.1) == held_out(names, 0.1)


def test_copies_of_an_image_are_on_one_side():
    names = [f"{n}_jpg.rf.{n * 7 + copy:032x}.jpg" for n in range(30) for copy in range(3)]
    held = held_out(names, 0.2)
    assert [held[k : k + 3] in ([True] * 3, [False] * 3) for k in range(0, 90, 3)] == [True] * 30 and sum(held) == 18


def test_one_image_cannot_be_split():
    assert held_out(["a.jpg"], 0.5) == [False] and held_out([], 0.5) == []


def test_splits_are_found_by_other_names():
    assert name_in("val2017", ["train", "valid", "test"]) == "valid"
    assert name_in("train2017", ["Train", "Validation"]) == "Train"
    assert name_in("val", ["train", "val2017", "valid"]) == "val2017"
    assert name_in("test", ["train"]) is None and name_in("mine", ["mine"]) == "mine"
    assert role_in("my_train_v2") == TRAIN and role_in("instances_val2017") == VAL
    assert role_in("train_and_val") == () == role_in("trains")
    assert whole_of(["default"]) == "default" and whole_of(["train", "x"]) == "train"
    assert whole_of(["a", "b"]) is None and whole_of(["a", "test"]) == "a"
