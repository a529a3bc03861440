"""The API: from an image to arrays in pixels of this image."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pix2seq
from pix2seq.api import Model
from pix2seq.config import in_python
from pix2seq.errors import UserError
from pix2seq.infer.predictor import Predictor
from pix2seq.runtime.paths import ROOT

DEMO = ROOT / "images" / "scene.jpg"


@pytest.fixture(scope="module")
def model() -> Model:
    return pix2seq.load(ROOT / "weights" / "scenes.safetensors", device="cpu", num_samples=1)


def test_all_tasks_of_an_image(model: Model):
    result = model(DEMO)
    height, width = result.image.shape[:2]
    count = len(result.scores)
    assert count == 6 and np.all(np.diff(result.scores) <= 0)
    assert result.boxes.shape == (count, 4) and (result.boxes <= [width, height] * 2).all()
    assert result.masks.shape == (count, height, width) and result.masks.dtype == bool
    assert result.keypoints.shape == (count, 17, 3)
    assert sorted(result.class_names)[-2:] == ["sports ball", "umbrella"] and "person" in result.class_names
    assert result.caption.startswith("a green bus")
    assert result.plot().shape == result.image.shape and (result.plot() != result.image).any()
    for index, (x1, y1, x2, y2) in enumerate(result.boxes.round().astype(int)):
        inside = result.masks[index, max(y1 - 8, 0) : y2 + 8, max(x1 - 8, 0) : x2 + 8].sum()
        assert inside > 0.9 * result.masks[index].sum() > 0


def test_only_people_have_keypoints(model: Model):
    result = model(DEMO, tasks=["detection", "keypoint"])
    has_points = result.keypoints.any(axis=(1, 2))
    assert has_points.tolist() == [name == "person" for name in result.class_names]
    assert result.masks is None and result.caption is None


def test_a_path_a_pil_image_and_an_array_are_the_same_image(model: Model):
    with Image.open(DEMO) as opened:
        results = [model(image, "captioning") for image in (str(DEMO), opened, np.asarray(opened.convert("RGB")))]
    assert len({result.caption for result in results}) == 1
    assert all(result.boxes.shape == (0, 4) for result in results)


def test_one_in_one_out_and_many_in_many_out(model: Model, tmp_path: Path):
    for name in ("7.png", "b.png"):
        Image.open(DEMO).save(tmp_path / name)
    (alone,), (first, second) = model([DEMO], "captioning"), model(tmp_path, "captioning")
    assert [result.caption for result in model(f"{tmp_path}/*.png", "captioning")] == [first.caption] * 2
    assert (first.image_id, second.image_id, second.name) == (7, "b", str(tmp_path / "b.png"))
    mixed = [tmp_path / "b.png", np.asarray(Image.open(DEMO)), Image.open(DEMO)]
    assert [result.caption for result in model.stream(mixed, "captioning")] == [second.caption] * 3
    assert alone.caption == first.caption and model([], "captioning") == []


def test_images_are_described_together_as_one_by_one(model: Model):
    small = np.asarray(Image.open(DEMO).resize((120, 90)))
    together = model([DEMO, small], ["detection", "keypoint"])
    for result, image in zip(together, [DEMO, small], strict=True):
        alone = model(image, ["detection", "keypoint"])
        assert result.class_names == alone.class_names
        np.testing.assert_allclose(result.boxes, alone.boxes, atol=2)
        np.testing.assert_allclose(result.keypoints, alone.keypoints, atol=5)


def test_an_image_is_set_once_and_asked_several_times(model: Model, monkeypatch: pytest.MonkeyPatch):
    encoded = []
    encode = Predictor.encode_images
    monkeypatch.setattr(Predictor, "encode_images", lambda *asked: encoded.append(1) or encode(*asked))
    photo = model.set_image(DEMO)
    found, all_at_once = model.detect(), model(DEMO)
    assert (found.boxes == all_at_once.boxes).all() and found.masks is None
    encoded.clear()
    masks = photo.segment(found.boxes, found.classes).masks
    assert (masks == all_at_once.masks).mean() > 0.999
    people = [name == "person" for name in found.class_names]
    points = photo.keypoints(found.boxes[people]).keypoints
    np.testing.assert_allclose(points, all_at_once.keypoints[people], atol=5)
    captions = photo.caption(num_captions=3).captions
    assert len(captions) == 3 and all(caption.split() for caption in captions)
    assert photo.caption().captions == (all_at_once.caption,)
    assert encoded == []


@pytest.mark.parametrize(
    ("boxes", "classes", "message"),
    [
        ([[0, 0, 10]], "person", "array (n, 4)"),
        ([[0, 0, 10, "a"]], "person", "array (n, 4)"),
        ([[5, 0, 5, 9]], "person", "x1 < x2"),
        ([[0, 0, np.nan, 9]], "person", "finite"),
        ([[-9, 0, -5, 9]], "person", "outside the image"),
        ([[0, 0, 9, 9]], "unicorn", "a class among"),
        ([[0, 0, 9, 9]], ["person"] * 2, "one for each of the 1, got 2"),
        ([[0, 0, 9, 9]], "umbrella", "only a person has keypoints"),
    ],
)
def test_boxes_that_make_no_sense_are_refused(model: Model, boxes: list, classes: str, message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        model.set_image(DEMO).keypoints(boxes, classes)


def test_no_box_is_no_instance(model: Model):
    assert model.set_image(DEMO).segment(np.zeros((0, 4))).masks.shape[0] == 0


def test_an_image_must_be_set_before_it_is_asked_about(model: Model):
    with pytest.raises(UserError, match="call set_image first"):
        Model(model.predictor).detect()


def test_errors_name_arguments_and_no_flags(model: Model, tmp_path: Path):
    sequence = model.set_image(DEMO)
    (tmp_path / "file").touch()
    mistakes = {
        "^num_captions expects a whole number": lambda: sequence.caption(num_captions=0),
        "^score_threshold expects a number from 0 to 1": lambda: pix2seq.load("scenes", score_threshold=7),
        "^device cuda:99 is not there": lambda: pix2seq.load("scenes", device="cuda:99"),
        "name others with weights$": lambda: model(DEMO, tasks="depth"),
        "^the folder .* cannot be written to": lambda: sequence.detect().save(tmp_path / "file"),
    }
    for message, make in mistakes.items():
        with pytest.raises(UserError, match=message) as found:
            make()
        assert "--" not in str(found.value)


def test_flags_in_words_of_python():
    assert in_python("set --top-p 0.5, or --no-pictures; --list-weights -- and --top-p-x stay") == (
        "set top_p 0.5, or pictures=False; --list-weights -- and --top-p-x stay"
    )


def test_the_tokens_of_all_tasks(model: Model):
    result = model(DEMO, return_tokens=True)
    spoken = {task: [each for each in result.tokens if each.task == task] for task in model.tasks}
    (listed,) = spoken["detection"]
    assert [token.role for token in listed.response[:5]] == ["y1", "x1", "y2", "x2", "class"]
    assert listed.response[-1].role == "end" and str(listed).startswith("detection → ")
    names = [token.text for token in listed.response if token.role == "class"]
    assert sorted(names)[-2:] == ["sports ball", "umbrella"]
    assert [token.item for token in listed.response[:6]] == [0] * 5 + [1]
    box = [token.value for token in listed.response[:4]]
    nearest = np.abs(result.boxes[:, [1, 0, 3, 2]] - box).max(axis=1).min()
    assert nearest < 0.01  # boxes inside of the image are what was decoded
    assert all(0 <= token.probability <= 1 for each in result.tokens for token in (*each.prompt, *each.response))
    people = [n for n, name in enumerate(result.class_names) if name == "person"]
    assert [each.instance for each in spoken["keypoint"]] == people
    first = spoken["keypoint"][0]
    assert [token.role for token in first.prompt] == ["task", "y1", "x1", "y2", "x2", "class"]
    assert first.prompt[-1].text == "person" and len(first.response) == 2 * 17
    assert {token.role for each in spoken["segmentation"] for token in each.response} <= {"y", "x", "separator", "end"}
    (caption,) = spoken["captioning"]
    assert " ".join(token.text for token in caption.response[:-1]) == result.caption
    assert caption.response[-1].role == "end" and model(DEMO, "captioning").tokens is None


def test_all_samples_that_vote_are_among_the_tokens(model: Model):
    voting = Model(model.predictor.with_settings(num_samples=3))
    found = voting.set_image(DEMO).segment([[0, 0, 50, 60], [20, 20, 90, 90]], return_tokens=True)
    assert [(each.instance, each.sample) for each in found.tokens] == [(i, n) for i in (0, 1) for n in range(3)]


def test_results_are_saved_as_the_scripts_write_them(model: Model, tmp_path: Path):
    result = model(DEMO)
    files = result.save(tmp_path / "out" / "scene")
    assert sorted(path.name for path in (tmp_path / "out" / "scene").iterdir()) == sorted(path.name for path in files)
    assert {"result.json", "instance_segmentation.png"} < {path.name for path in files}
    entries = json.loads((tmp_path / "out" / "scene" / "result.json").read_text(encoding="utf-8"))
    assert entries == json.loads(json.dumps(result.to_coco())) and entries[0]["image_id"] == "scene"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        result.save(tmp_path / "file")


def test_results_for_supervision(model: Model):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    result = model(DEMO)
    detections, points = result.to_supervision(), result.to_supervision_keypoints()
    assert isinstance(detections, supervision.Detections) and isinstance(points, supervision.KeyPoints)
    assert detections.mask.shape == result.masks.shape and list(detections.data["class_name"]) == result.class_names
    assert points.xy.shape == (result.class_names.count("person"), 17, 2)
    assert supervision.EdgeAnnotator().annotate(result.image.copy(), points).shape == result.image.shape
    nothing = model(np.zeros((40, 60, 3), np.uint8), ["detection", "keypoint"])
    assert len(nothing.to_supervision()) == len(nothing.to_supervision_keypoints())


def test_without_supervision_one_sentence_says_so(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    result = model(DEMO, ["detection", "keypoint"])
    for convert in (result.to_supervision, result.to_supervision_keypoints):
        with pytest.raises(UserError, match=r"pip install .*\[supervision\]"):
            convert()


def test_results_in_coco_s_format(model: Model):
    entries = model(DEMO, ["detection", "captioning"]).to_coco(image_id=7)
    assert all(entry["image_id"] == 7 for entry in entries)
    assert entries[-1].keys() == {"image_id", "caption"}
    assert entries[0].keys() == {"image_id", "category_id", "bbox", "score"}


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (np.zeros((4, 4), np.uint8), "an array (4, 4) of uint8"),
        (np.zeros((4, 4, 3)), "an array (4, 4, 3) of float64"),
        (np.zeros((0, 4, 3), np.uint8), "an array (0, 4, 3) of uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), "an array (2, 4, 4, 3) of uint8"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "Tensor"),
        (torch.zeros(()), "Tensor"),
        (b"\xff\xd8", "bytes"),
        (io.BytesIO(b"\xff\xd8"), "BytesIO"),
        ({"image": DEMO}, "dict"),
        (3, "int"),
        ([DEMO, None], "NoneType"),
    ],
)
def test_what_is_no_image_is_refused_by_its_kind(model: Model, image: object, kind: str):
    with pytest.raises(UserError, match=re.escape(f"RGB array (H, W, 3) of uint8, got {kind};")):
        model(image, "captioning")


def test_whatever_holds_paths_is_a_list_of_them(model: Model):
    for several in (np.array([str(DEMO)]), {DEMO: 1}.keys(), (path for path in [DEMO]), [[DEMO]]):
        assert [result.name for result in model(several, "captioning")] == [str(DEMO)]


def test_an_empty_name_is_no_folder_and_no_task_is_not_every_task(model: Model):
    with pytest.raises(UserError, match=r"^image expects"):
        model("", "captioning")
    with pytest.raises(UserError, match=r"^expected a task"):
        model(DEMO, tasks=[])


@pytest.mark.parametrize("name", ["foo", "weights", "views", "port", "lr"])
def test_a_question_changes_no_setting_that_it_cannot(model: Model, name: str):
    with pytest.raises(UserError, match=f"no setting '{name}' here"):
        model.set_image(DEMO).ask(["captioning"], **{name: 1})


def test_a_calibration_is_left_out_where_a_question_changes_what_it_was_fitted_to(
    model: Model, capsys: pytest.CaptureFixture
):
    calibrated = Model(model.predictor.with_settings(calibration_slope=2.0)).set_image(DEMO)
    raw, own = model.set_image(DEMO).detect(), calibrated.detect()
    assert not np.allclose(own.scores, raw.scores[: len(own.scores)])
    greedy = calibrated.ask(["detection"], end_threshold=0.5)
    assert "not calibrated here" in capsys.readouterr().err
    expected = model.set_image(DEMO).ask(["detection"], end_threshold=0.5)
    np.testing.assert_allclose(greedy.scores, expected.scores)


def test_unknown_tasks_settings_and_files_are_named(model: Model, tmp_path: Path):
    with pytest.raises(UserError, match="not for depth"):
        model(DEMO, tasks="depth")
    with pytest.raises(UserError, match="no setting 'treshold'"):
        pix2seq.load("scenes", treshold=0.5)
    with pytest.raises(UserError, match="none"):
        pix2seq.load(tmp_path / "none.safetensors")


def test_settings_of_inference_are_keywords():
    sure = pix2seq.load(ROOT / "weights" / "scenes.safetensors", device="cpu", score_threshold=0.99999)
    assert len(sure(DEMO, "detection").scores) < 6


def test_transformers_and_its_tokenizers_can_be_imported_beside_the_package(tmp_path: Path):
    """Fake versions of the two packages are found, also from the project's root: this package hides neither."""
    for name in ("tokenizers", "transformers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("REAL = True\n", encoding="utf-8")
    program = (
        f"import sys; sys.path.insert(1, {str(tmp_path)!r})  # after the root itself\n"
        "import tokenizers, transformers, pix2seq, pix2seq.tokenizers.vocabulary\n"
        "assert tokenizers.REAL and transformers.REAL and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_real_transformers_can_be_imported_after_us():
    pytest.importorskip("transformers", reason="transformers is not installed")
    program = "import pix2seq, pix2seq.api, transformers, tokenizers; tokenizers.Tokenizer"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
