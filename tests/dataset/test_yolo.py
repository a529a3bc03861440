"""YOLO's text labels: boxes, polygons and keypoints in fractions, in the spellings that tools and editors leave."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.sources import open_split
from pix2seq.dataset.yolo import Classes, read_yolo
from pix2seq.errors import UserError
from pix2seq.tasks import choose_tasks

TASKS = choose_tasks(["detection", "segmentation", "keypoint"])
SIZE = 200, 100
BOX = "1 0.5 0.5 0.2 0.4"
NAMES = "names: [cat, dog]"


def write(root: Path, *contents: str | bytes | None, yaml: str = NAMES) -> Path:
    """A data set of an image for each content of a label file; None: it has none."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        Image.new("RGB", SIZE).save(root / "images" / f"{number}.png")
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (root / "labels" / f"{number}.txt").write_bytes(data)
    (root / "data.yaml").write_text(f"train: images\n{yaml}\n", encoding="utf-8")
    return root


def opened(root: Path) -> ImageDataset:
    return open_split(config.replace(CFG(), data_root=str(root)), "train", TASKS)


def test_boxes_polygons_and_empty_files_are_read(tmp_path: Path):
    root = write(tmp_path, f"{BOX}\n0 0.1 0.1 0.3 0.1 0.3 0.6 \n", "", None)
    split = opened(root)
    target = split.target(0)
    assert target.classes.tolist() == [2, 1]
    assert np.allclose(target.boxes, [[80, 30, 120, 70], [20, 10, 60, 60]])
    assert target.polygons[0] == [] and np.allclose(target.polygons[1][0], [[20, 10], [60, 10], [60, 60]])
    assert split.indices_for([TASKS["detection"]]) == [0, 1, 2]  # images that show nothing are background
    assert split.problems.counts == {"image without a label file, taken to show no object": 1}


@pytest.mark.parametrize(
    "content, remark",
    [
        (b"\xef\xbb\xbf" + BOX.encode() + b"\r\n\r\n", ""),
        ("\n".join([BOX, BOX]), "twice"),
        ("\t" + BOX.replace(" ", "  ") + "   ", ""),
        (BOX.encode("utf-16"), ""),
        ("1.0 0.5 0.5 0.2 0.4", ""),
        ("dog 0.5 0.5 0.2 0.4", ""),
        (f"{BOX} 0.93", "sixth number"),
        (BOX.replace(".", ","), "decimal point"),
        (BOX.replace(" ", ","), ""),
        (f"# exported\n{BOX}", ""),
        ("1 5e-1 0.5 2e-1 0.4", ""),
    ],
)
def test_other_spellings_are_read_as_meant(tmp_path: Path, content: str | bytes, remark: str):
    split = opened(write(tmp_path, content))
    assert np.allclose(split.target(0).boxes, [[80, 30, 120, 70]]) and split.target(0).classes.tolist() == [2]
    assert [remark in line for line in split.problems.lines()] == ([True] if remark else [])


@pytest.mark.parametrize(
    "line, kind",
    [
        ("5 0.5 0.5 0.2 0.4", "unknown category"),
        ("-1 0.5 0.5 0.2 0.4", "object without a class"),
        ("bird 0.5 0.5 0.2 0.4", "object without a class"),
        ("0 0.5 0.5 0.2", "not four finite numbers"),
        ("0 0.5 nan 0.2 0.4", "not four finite numbers"),
        ("0 0.5 0.5 0 0.4", "empty box"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "not four finite numbers"),
        ("0 300 50 20 10", "box outside the image"),
        (b"\xff\xfe\xfd", "cannot be read"),
    ],
)
def test_a_line_that_cannot_be_read_teaches_nothing_about_its_image(tmp_path: Path, line: str | bytes, kind: str):
    split = opened(write(tmp_path, line, f"{BOX}\n{BOX[:-1]}3\n0 0.5 0.5 0.1 0.1"))
    assert split.unlabeled_in(0).objects and not split.unlabeled_in(1).objects
    assert any(kind in text and "labels/0.txt" in text for text in split.problems.lines())
    assert split.indices_for([TASKS["detection"]]) == [1]


def test_what_reaches_beyond_the_image_is_cut(tmp_path: Path):
    split = opened(write(tmp_path, "0 0.9 0.5 0.4 0.4"))
    assert np.allclose(split.target(0).boxes, [[140, 30, 200, 70]])
    assert "box that reaches beyond the image, clipped" in split.problems.counts


def test_pixels_for_fractions_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"2 of 2 label lines .* no fractions .*labels/0.txt:1: 0 100 50 40 40.*divide"):
        opened(write(tmp_path, "0 100 50 40 40\n1 20 20 10 10"))


def test_labels_that_are_not_found_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"none of the 1 images .* has a label file; expected labels/NAME\.txt"):
        opened(write(tmp_path, None))


@pytest.mark.parametrize("values, v", [("0.5 0.5 2 0.25 0.5 1 0 0 0", [2, 1, 0]), ("0.5 0.5 0.25 0.5 0 0", [2, 2, 0])])
def test_keypoints_are_read(tmp_path: Path, values: str, v: list[int]):
    shape = f"{NAMES}\nkpt_shape: [3, {len(values.split()) // 3}]\nflip_idx: [0, 2, 1]"
    split = opened(write(tmp_path, f"{BOX} {values}", yaml=shape))
    assert np.allclose(split.target(0).keypoints[0], [[100, 50, v[0]], [50, 50, v[1]], [0, 0, v[2]]])
    assert split.skeleton.flip == (0, 2, 1) and split.skeleton.class_ids == (1, 2)


def test_17_keypoints_are_those_of_coco_s_people(tmp_path: Path):
    split = opened(write(tmp_path, BOX + " 0.5 0.5 2" * 17, yaml=f"{NAMES}\nkpt_shape: [17, 3]"))
    assert split.skeleton.names[0] == "nose" and split.skeleton.flip[1] == 2


def test_classes_without_names_are_numbered(tmp_path: Path):
    split = opened(write(tmp_path, BOX, yaml=""))
    assert list(split.class_names.values()) == ["class_1"]
    assert list(opened(write(tmp_path, BOX, yaml="nc: 3")).class_names.values()) == ["class_0", "class_1", "class_2"]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(st.binary(max_size=60), st.from_regex(r"[-0-9., a-zé\n]{0,60}").map(str.encode)), max_size=3))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]):
    root = write(tmp_path_factory.mktemp("any"), BOX, *contents)
    names = [f"images/{number}.png" for number in range(1 + len(contents))]
    try:
        content = read_yolo(root, names, Classes({0: "cat", 1: "dog"}))
    except UserError:
        return
    assert len(content["images"]) == len(names)
    ImageDataset(root, {"labels": lambda: content})
