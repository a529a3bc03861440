"""Skeletons: mirrored by name or by given pairs, and unchanged by a round trip through a weights file."""

import json

import pytest

from pix2seq.dataset.annotations import Problems
from pix2seq.dataset.skeleton import COCO_PERSON, Skeleton, default_skeleton, flip_by_name, read_skeleton
from pix2seq.errors import UserError

HAND = {"id": 7, "name": "hand", "keypoints": ["wrist", "Left thumb", "Right thumb"], "skeleton": [[1, 2], [1, 3]]}


def read(**values) -> Skeleton:
    return read_skeleton([{"id": 1, "name": "cup"}, HAND | values], {1: 1, 7: 2}, {1: "cup", 2: "hand"}, Problems())


def test_coco_s_people_mirror_as_published():
    assert COCO_PERSON.flip == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


@pytest.mark.parametrize(
    "names, flip",
    [
        (["left_eye", "right_eye"], (1, 0)),
        (["LeftEye", "RightEye"], (1, 0)),
        (["eye_l", "eye_r", "tail"], (1, 0, 2)),
        (["R knee", "L knee"], (1, 0)),
        (["left_eye", "tail"], (0, 1)),
        (["lip", "rip"], (0, 1)),
        (["LShoulder", "RShoulder", "Neck"], (1, 0, 2)),
        (["lShoulder", "rShoulder"], (1, 0)),
        (["shoulderL", "shoulderR"], (1, 0)),
        (["shoulder_L", "shoulder_R"], (1, 0)),
        (["LX", "RX", "LY"], (1, 0, 2)),
        (["L1", "R1", "R2"], (1, 0, 2)),
        (["LIP", "TIP"], (0, 1)),
        (["Lhip", "Rhip", "L", "R"], (1, 0, 3, 2)),
        (["左眼", "右眼", "鼻"], (1, 0, 2)),
        (["front left paw", "front right paw", "back left paw", "back right paw"], (1, 0, 3, 2)),
    ],
)
def test_left_and_right_are_found_by_name(names: list[str], flip: tuple[int, ...]):
    assert flip_by_name(names) == flip


def test_a_category_defines_names_bones_and_classes():
    skeleton = read()
    names = ("wrist", "Left thumb", "Right thumb")
    assert skeleton == Skeleton(names, (0, 2, 1), ((0, 1), (0, 2)), class_ids=(2,), sigmas=(0.067,) * 3)
    assert [skeleton.side(point) for point in range(3)] == ["middle", "left", "right"]


@pytest.mark.parametrize("pairs", [[[0, 1]], [["wrist", "Left thumb"]]])
def test_given_pairs_override_names(pairs: list):
    assert read(flip_pairs=pairs).flip == (1, 0, 2)


def test_an_empty_list_of_pairs_overrides_names_too():
    assert read(flip_pairs=[]).flip == (0, 1, 2)


def test_the_first_of_a_nameless_pair_is_left():
    skeleton = read(flip_pairs=[[0, 1]], keypoints=["a", "b", "c"])
    assert [skeleton.side(point) for point in range(3)] == ["left", "right", "middle"]


@pytest.mark.parametrize(
    "values",
    [
        {"flip_pairs": [[0, 1], [1, 2]]},
        {"flip_pairs": [[0, 3]]},
        {"flip_pairs": [[0]]},
        {"flip_pairs": [["wrist", "elbow"]]},
        {"sigmas": [0.1, 0.1]},
        {"sigmas": 0.1},
        {"sigmas": ["a", "b", "c"]},
        {"flip_pairs": 5},
        {"keypoints": True},
        {"skeleton": 1.5},
        {"sigmas": [0.1, 0.1, 0]},
        {"sigmas": [0.1, 0.1, float("nan")]},
        {"sigmas": [0.1, 0.1, 10**400]},
        {"flip_pairs": [[1, float("inf")]]},
    ],
)
def test_points_that_are_not_there_are_refused(values: dict):
    with pytest.raises(UserError):
        read(**values)


@pytest.mark.parametrize("bone", [[0, 1], [1, 4], [1], 5, None])
def test_a_bone_between_other_points_is_left_out_and_counted(bone):
    problems = Problems()
    hand = HAND | {"skeleton": [[1, 2], bone]}
    assert read_skeleton([hand], {7: 2}, {2: "hand"}, problems).bones == ((0, 1),)
    (line,) = problems.lines()
    assert "bone" in line and "hand" in line


def test_two_categories_must_name_the_same_points():
    other = HAND | {"id": 1, "name": "foot", "keypoints": ["heel"]}
    with pytest.raises(UserError, match="different keypoints"):
        read_skeleton([HAND, other], {7: 1, 1: 2}, {1: "hand", 2: "foot"}, Problems())
    twin = HAND | {"id": 1, "name": "foot"}
    assert read_skeleton([HAND, twin], {7: 1, 1: 2}, {1: "hand", 2: "foot"}, Problems()).class_ids == (1, 2)


def test_without_keypoints_people_have_coco_s():
    assert read_skeleton([{"id": 1, "name": "cup"}], {1: 1}, {1: "cup"}, Problems()).class_ids == ()
    assert default_skeleton({4: "person", 5: "cup"}).class_ids == (4,)
    assert len(Skeleton.of_weights({}, {4: "person"})) == 17


def test_a_round_trip_through_json_changes_nothing():
    skeleton = read(sigmas=[0.1, 0.2, 0.3])
    assert Skeleton.of_weights(json.loads(json.dumps(skeleton.to_dict())), {}) == skeleton
