"""The API: from an image to arrays in pixels of this image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pix2seq
from pix2seq.api import Model
from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT

DEMO = ROOT / "images" / "scene.jpg"
CAFE = "café"


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


def test_results_in_coco_s_format(model: Model):
    entries = model(DEMO, ["detection", "captioning"]).to_coco(image_id=7)
    assert all(entry["image_id"] == 7 for entry in entries)
    assert entries[-1].keys() == {"image_id", "caption"}
    assert entries[0].keys() == {"image_id", "category_id", "bbox", "score"}


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), 3])
def test_what_is_no_image_is_refused(model: Model, image: object):
    with pytest.raises(UserError, match="RGB array"):
        model(image)


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
