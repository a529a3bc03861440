"""What the web demo shows: where tokens lie, outlines, poses, and everything as JSON."""

import base64
import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pix2seq.api import EncodedImage, Result
from pix2seq.infer.sentences import Token
from pix2seq.infer.web_demo.view import KINDS, PICTURE_PX, Part, chips_of, outlines_of, picture_of, places_of, scene_of

WORD = 3000
# y1 x1 y2 x2 class and the end; an outline of four points; three words.
RESPONSES = {
    "detection": [[1100, 1200, 1500, 1600, 101, 0, 0]],
    "segmentation": [[1100, 1200, 1100, 1600, 1500, 1600, 1500, 1200, 0]],
    "keypoint": [[1100, 1200, 41, 41, *(1300, 1400) * 15]],
    "captioning": [[WORD + 1, WORD + 2, 0]],
}


@pytest.fixture
def asked(make_predictor: Callable) -> Callable[..., Result]:
    """What a model with known responses answers about a gray image of 100 × 80 pixels."""
    photo = EncodedImage(make_predictor(RESPONSES, num_samples=2), np.full((80, 100, 3), 128, np.uint8), "", 0)
    return lambda tasks, **wanted: photo.ask(tasks, return_tokens=True, **wanted)


def token(role: str, value: float | None = None, item: int = 0) -> Token:
    return Token(1, role, role if value is None else f"{value:.1f}", value, 0.5, item)


def test_tokens_of_an_object_lie_on_its_box_and_on_their_own_line():
    words = [token("y1", 2), token("x1", 1), token("y2", 4), token("x2", 3), token("class")]
    places = places_of([*words, token("y1", 7, item=1)])
    assert [place.get("box") for place in places] == [[1, 2, 3, 4]] * 5 + [None]  # the second one is cut off
    assert [(place.get("x"), place.get("y")) for place in places[:5]] == [
        (None, 2),
        (1, None),
        (None, 4),
        (3, None),
        (None, None),
    ]


def test_both_tokens_of_a_point_lie_at_it():
    places = places_of([token("y", 2), token("x", 1), token("separator"), token("y", 9), token("end")])
    assert [place.get("point") for place in places] == [[1, 2], [1, 2], None, None, None]


def test_roles_that_nobody_knew_have_a_color_too():
    chips = chips_of([token("angle", 3.0), token("end")])
    assert [chip["kind"] for chip in chips] == ["other", "end"] and "other" not in KINDS.values()


def test_pairs_of_tokens_have_the_names_of_keypoints():
    chips = chips_of([token("y", 2), token("x", 1), token("invisible"), token("invisible")], ["nose", "left_eye"])
    assert [chip["name"] for chip in chips] == ["nose", "nose", "left_eye", "left_eye"]


def test_outlines_follow_a_mask_with_a_hole():
    mask = np.zeros((40, 60), bool)
    mask[5:35, 10:50] = True
    mask[15:25, 20:40] = False
    outer, inner = sorted(outlines_of(mask), key=np.ptp, reverse=True)
    assert np.abs(np.array(outer).min(axis=0) - [10.5, 5.5]).max() <= 1
    assert np.abs(np.array(inner).max(axis=0) - [40, 25]).max() <= 1
    assert outlines_of(np.zeros((4, 4), bool)) == []


def test_the_picture_is_a_jpeg_for_a_screen():
    address = picture_of(np.zeros((10, 3 * PICTURE_PX, 3), np.uint8))
    start = "data:image/jpeg;base64,"
    assert address.startswith(start)
    assert max(Image.open(io.BytesIO(base64.b64decode(address[len(start) :]))).size) == PICTURE_PX


def test_a_scene_holds_objects_sentences_and_captions_as_json(asked):
    found = asked(["detection"], score_threshold=0.0)
    prompted = asked(["segmentation", "keypoint"], boxes=found.boxes, classes=found.classes)
    parts = [Part(found, ["detection"], 1), Part(prompted, ["segmentation", "keypoint"])]
    parts += [Part(asked(["captioning"]), ["captioning"], 0)]
    scene = json.loads(json.dumps(scene_of("data:,", 100, 80, parts, ["small"]), allow_nan=False))
    (thing,) = scene["objects"]
    assert (thing["name"], thing["label"], thing["pointed"]) == ("person", "person 1", False)
    assert thing["outlines"] and len(thing["points"]) == 16 and thing["points"][0][3] == "nose"
    assert all(len(bone) == 5 for bone in thing["bones"])
    assert scene["captions"] == ["a person"] and scene["notes"] == ["small"]
    assert [(part["task"], part["about"], len(part["samples"])) for part in scene["sentences"]] == [
        ("detection", "", 1),
        ("segmentation", "person 1", 2),
        ("keypoint", "person 1", 1),
        ("captioning", "", 1),
    ]
    roles = [chip["role"] for chip in scene["sentences"][0]["samples"][0]]
    assert roles == ["y1", "x1", "y2", "x2", "class", "end"]


def test_an_object_that_is_pointed_at_comes_behind_those_that_were_found(asked):
    found = asked(["detection"], score_threshold=0.0)
    pointed = asked(["segmentation"], boxes=[[10, 10, 50, 60]], classes="dog")
    scene = scene_of("", 100, 80, [Part(found, ["detection"], 1), Part(pointed, ["segmentation"], pointed=True)])
    assert [(thing["name"], thing["pointed"]) for thing in scene["objects"]] == [("person", False), ("dog", True)]
    sentence = scene["sentences"][-1]
    assert (sentence["object"], sentence["about"]) == (1, "this dog")
    assert [chip["text"] for chip in sentence["prompt"]][-1] == "dog"


def test_the_same_tokens_have_the_same_identity(asked):
    def first(tasks, **wanted):
        return scene_of("", 100, 80, [Part(asked(tasks, **wanted), tasks)])["sentences"][0]["id"]

    assert first(["detection"]) == first(["detection"], score_threshold=0.0) != first(["captioning"])
