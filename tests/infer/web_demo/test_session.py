"""What the web demo's server keeps: images of strangers, models by name, and one encoding of each image."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq.api import Model
from pix2seq.config import CFG, replace
from pix2seq.errors import UserError
from pix2seq.infer.web_demo.session import AS_FOUND, MOST_SIDE, Models, Session, Sessions, Wishes, open_image
from tests.infer.web_demo.png_header import png_header

# Two boxes, one within the other; y1 x1 y2 x2 class of an image that fills the canvas.
OUTER, INNER = [1100, 1100, 1900, 1900, 101], [1300, 1300, 1600, 1600, 118]
RESPONSES = {
    "detection": [[*OUTER, *INNER, 0]],
    "segmentation": [[1100, 1200, 1100, 1600, 1500, 1600, 0]],
    "keypoint": [[1100, 1200] * 17],
    "captioning": [[3001, 3002, 0]],
}
WISHES = Wishes("tiny", ("detection", "captioning"), 0.3, 0.8, 1)
LIMITS = 1.0, 1.0  # MB and megapixels


@pytest.fixture
def model(make_predictor: Callable) -> Model:
    return Model(make_predictor(RESPONSES, num_samples=1))


@pytest.fixture
def session() -> Session:
    return Session(np.full((100, 100, 3), 90, np.uint8), "data:,")


def sent(pixels: np.ndarray, file_format: str = "PNG") -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=file_format)
    return base64.b64encode(file.getvalue()).decode()


def test_an_upload_becomes_an_upright_image():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(file, format="JPEG", exif=exif)
    session = open_image("x.jpg", base64.b64encode(file.getvalue()).decode(), *LIMITS)
    assert session.pixels.shape == (30, 20, 3) and session.notes == ()


def test_a_large_upload_is_reduced_and_says_so():
    session = open_image("x.png", sent(np.zeros((10, 3 * MOST_SIDE, 3), np.uint8)), *LIMITS)
    assert session.pixels.shape == (3, MOST_SIDE, 3)
    assert session.notes == (f"reduced from {3 * MOST_SIDE} × 10 to {MOST_SIDE} × 3 pixels",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (base64.b64encode(b"root:x:0:0").decode(), "photo.jpg is not an image that can be read"),
        (base64.b64encode(png_header(60_000, 60_000)).decode(), "photo.jpg has 60000 × 60000 pixels, more than 1 mega"),
        (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9").decode(), "photo.jpg is not an image"),
        (base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(), "photo.jpg is SVG"),
        (sent(np.zeros((9, 9, 3), np.uint8))[:60], "photo.jpg cannot be read completely"),
        ("A" * 2_000_000, "photo.jpg has more than 1 MB"),
        ("not base64!", "photo.jpg did not arrive whole"),
        ("", "photo.jpg is empty"),
        (None, "photo.jpg has more than"),
        ({"path": "/etc/passwd"}, "photo.jpg has more than"),
        (["/etc/passwd"], "photo.jpg has more than"),
    ],
)
def test_a_hostile_upload_is_refused_in_a_sentence(data, message: str):
    with pytest.raises(UserError, match=rf"^{message}") as error:
        open_image("photo.jpg", data, *LIMITS)
    assert "\n" not in str(error.value) and "root" not in str(error.value)


@pytest.mark.parametrize("name", [None, 3, {}, "\x1b[31m\n", "a" * 10_000])
def test_a_file_s_name_is_only_shown(name):
    with pytest.raises(UserError) as error:
        open_image(name, "", *LIMITS)
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", 1.5), ("threshold", float("nan")), ("nucleus", 0), ("samples", 10**9), ("samples", "many")],
)
def test_controls_cannot_say_what_is_out_of_range(field: str, value):
    with pytest.raises(UserError, match=f"^{field} is a number from"):
        changed(WISHES, **{field: value})


def test_only_weights_that_the_page_offers_are_read(weights_path: Path, monkeypatch: pytest.MonkeyPatch):
    models = Models(replace(CFG(device="cpu"), weights=str(weights_path)))
    assert models.first == weights_path.name and "scenes" in models.names
    own = models[models.first]
    assert models[models.first] is own
    monkeypatch.setattr("pix2seq.infer.load.load_predictor", lambda cfg: pytest.fail("a file was read"))
    for name in ("/etc/passwd", str(weights_path), "../weights/scenes", "hf://someone/model", "", None, ["scenes"]):
        with pytest.raises(UserError, match=r"^the page offers the weights"):
            models[name]


def test_the_models_used_last_stay_loaded(weights_path: Path, monkeypatch: pytest.MonkeyPatch):
    loaded = []
    monkeypatch.setattr("pix2seq.infer.load.load_predictor", lambda cfg: loaded.append(cfg.infer.weights))
    models = Models(CFG())
    models.names = dict.fromkeys("abc", "x") | {"a": "A", "b": "B", "c": "C"}
    for name in "abacab":
        assert isinstance(models[name], Model)
    assert loaded == ["A", "B", "C", "B"]


def test_an_image_is_encoded_once_whatever_is_asked(session: Session, model: Model):
    encoded = model.predictor.generator.encoded
    session.scene(WISHES, model)
    assert encoded == [1]
    session.point_at(20, 20, WISHES, model)
    session.scene(WISHES, model)
    assert encoded == [1, 1]  # the crop that masks and keypoints share
    session.scene(changed(WISHES, threshold=0.9), model)
    session.scene(changed(WISHES, tasks=("captioning",)), model)
    assert encoded == [1, 1]
    session.scene(changed(WISHES, samples=3), model)
    assert encoded == [1, 1, 1]  # other samples of the crop; the image itself was not encoded again


def test_a_click_means_the_smallest_object_there(session: Session, model: Model):
    for x, y, name in ((40, 40, "dog"), (20, 20, "person")):
        session.point_at(x, y, WISHES, model)
        thing = session.scene(WISHES, model)["objects"][-1]
        assert (thing["name"], thing["pointed"], "outlines" in thing) == (name, True, True)
        assert ("points" in thing) and bool(thing["points"]) == (name == "person")


def test_a_click_beside_all_objects_is_answered(session: Session, model: Model):
    with pytest.raises(UserError, match="drag a box around one"):
        session.point_at(2, 2, WISHES, model)


@pytest.mark.parametrize(("class_name", "name"), [(AS_FOUND, "dog"), ("car", "car")])
def test_a_drawn_box_has_the_class_of_what_was_found_there_or_a_chosen_one(
    session: Session, model: Model, class_name: str, name: str
):
    session.point_with([62, 60, 28, 30], class_name, WISHES, model)
    thing = session.scene(WISHES, model)["objects"][-1]
    assert (thing["name"], thing["box"]) == (name, [28, 30, 62, 60])


def test_a_box_where_nothing_was_found_is_a_person(session: Session, model: Model):
    session.point_with([0, 0, 4, 4], AS_FOUND, WISHES, model)
    assert session.scene(WISHES, model)["objects"][-1]["name"] == "person"


@pytest.mark.parametrize(
    ("box", "class_name"),
    [
        ([5, 5, 5, 50], AS_FOUND),
        ([200, 200, 300, 300], AS_FOUND),
        ([float("nan"), 0, 9, 9], AS_FOUND),
        (["0", 0, 9, 9], AS_FOUND),
        ([None] * 4, AS_FOUND),
        ([0, 0, 9, 9], "no such class"),
        ([0, 0, 9, 9], None),
    ],
)
def test_a_box_that_is_none_is_refused(session: Session, model: Model, box: list, class_name: str):
    with pytest.raises(UserError):
        session.point_with(box, class_name, WISHES, model)
    assert session.pointed is None


def test_what_is_known_is_shown_while_the_rest_is_decoded(
    session: Session, model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pix2seq.infer.web_demo.session.SHOWN_S", -1.0)  # all of it
    shown: list[dict] = []
    last = session.scene(changed(WISHES, tasks=("detection", "segmentation")), model, shown.append)
    said = [[len(sentence["samples"][0]) for sentence in scene["sentences"]] for scene in shown]
    assert said == [[], [2], [5], [11], [11, 2, 2], [11, 5, 5], [11, 7, 7]]
    assert all(scene["more"] and scene["picture"] == last["picture"] for scene in shown) and "more" not in last
    whole = {sentence["key"]: sentence for sentence in last["sentences"]}
    for sentence in (sentence for scene in shown for sentence in scene["sentences"]):
        same = whole[sentence["key"]]
        assert (sentence["prompt"], sentence["task"]) == (same["prompt"], same["task"])
        texts, of_all = ([chip["text"] for chip in one["samples"][0]] for one in (sentence, same))
        assert texts == of_all[: len(texts)]


def test_only_the_sentences_of_wanted_tasks_are_shown_on_the_way(session: Session, model: Model):
    shown: list[dict] = []
    session.scene(changed(WISHES, tasks=("segmentation",)), model, shown.append)
    assert {sentence["task"] for scene in shown for sentence in scene["sentences"]} <= {"segmentation"}


def test_the_threshold_chooses_the_objects_and_the_sentence_stays(session: Session, model: Model):
    low, high = (session.scene(changed(WISHES, threshold=value), model) for value in (0.3, 0.95))
    assert (len(low["objects"]), len(high["objects"])) == (2, 0)
    assert low["sentences"] == high["sentences"]


def test_tasks_about_objects_find_them_first(session: Session, model: Model):
    scene = session.scene(changed(WISHES, tasks=("segmentation",)), model)
    assert all("outlines" in thing for thing in scene["objects"]) and len(scene["objects"]) == 2
    assert {sentence["task"] for sentence in scene["sentences"]} == {"segmentation"}


def test_samples_are_all_there_and_several_captions(session: Session, model: Model):
    scene = session.scene(changed(WISHES, samples=4), model)
    assert {len(sentence["samples"]) for sentence in scene["sentences"]} == {4}
    assert scene["captions"] == ["a person"] * 3


def test_the_tab_unused_longest_is_forgotten(session: Session):
    sessions = Sessions(2)
    for key in "ab":
        sessions[key] = session
    assert sessions["a"] is session
    sessions["c"] = session
    assert [key for key in "abc" if key in sessions] == ["a", "c"]
    sessions.forget("a")
    sessions.forget("a")
    with pytest.raises(UserError, match="no longer kept"):
        sessions["a"]
