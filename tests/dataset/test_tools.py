"""The own files of labelme, VIA and CVAT: boxes, polygons, masks and keypoints as they were drawn."""

import base64
import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import cvat as cvat_file
from pix2seq.dataset.annotation_files import read_annotations
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.drawings import Drawings, ellipse, no_shape, rectangle
from pix2seq.dataset.labelme import read_labelme
from pix2seq.dataset.training_data import describe_layouts, open_training
from pix2seq.errors import UserError
from pix2seq.tasks import choose_tasks

NAMES = [f"{letter}.jpg" for letter in "abcdefghij"]
TRIANGLE = [[2, 3], [8, 3], [8, 9]]


def images(folder: Path, names: Sequence[str] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (20, 10), "gray").save(folder / name)


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding=encoding)
    return path


def opened(root: Path, tasks: str = "detection,segmentation", **settings) -> tuple[ImageDataset, ImageDataset]:
    cfg = config.replace(CFG(), data_root=str(root), task=tasks, **settings)
    splits = open_training(cfg, choose_tasks(cfg.tasks))
    for split in splits:
        split.leave_out_unreadable()
    return splits


def objects(content: dict) -> list[dict]:
    """The annotations of a content, with their classes by name."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    return [entry | {"label": names.get(entry["category_id"])} for entry in content["annotations"]]


# labelme


def shape(label: str, points: list, kind: str = "polygon", **values) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | values


def labelme(folder: Path, names: Sequence[str] = NAMES, place: str = "", shapes: Sequence[dict] = ()) -> None:
    shapes = shapes or [shape("cat", TRIANGLE), shape("dog", [[15, 7.5], [5, 2.5]], "rectangle")]
    for name in names:
        values = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": place + name, "imageData": None}
        text(folder / f"{Path(name).stem}.json", json.dumps(values | {"imageHeight": 10, "imageWidth": 20}))


@pytest.mark.parametrize("place", ["", "..\\images\\", "../images/", "C:\\Users\\me\\images\\"])
def test_labelme_is_cut_in_two(tmp_path: Path, place: str):
    images(tmp_path / "images" if place else tmp_path)
    labelme(tmp_path / "annotations" if place else tmp_path, place=place)
    training, validation = opened(tmp_path, val_share=0.2)
    assert (len(training), len(validation)) == (8, 2)
    assert training[0].boxes.tolist() == [[2, 3, 8, 9], [5, 2.5, 15, 7.5]]
    assert [len(parts) for parts in training[0].polygons] == [1, 0]
    assert (
        training.class_names == {1: "cat", 2: "dog"} and "labelme's JSON" in describe_layouts(training, validation)[0]
    )


def test_labelme_in_folders_of_splits(tmp_path: Path):
    for split, names in (("train", NAMES[:6]), ("val", NAMES[6:])):
        images(tmp_path / split, names)
        labelme(tmp_path / split, names)
    assert list(map(len, opened(tmp_path))) == [6, 4]


def test_a_json_of_labelme_that_is_named_after_a_split(tmp_path: Path):
    names = [f"train_{number}.jpg" for number in range(10)]
    images(tmp_path, names)
    labelme(tmp_path, names)
    assert len(opened(tmp_path)[0]) == 9


def test_shapes_of_labelme(tmp_path: Path):
    png = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 1], [1, 1, 1]], bool)).save(png, "PNG")
    mask = base64.b64encode(png.getvalue()).decode()
    drawn = [
        shape("cat", TRIANGLE, group_id=1),
        shape("cat", [[12, 1], [14, 1], [14, 5]], group_id=1),
        shape("cat", TRIANGLE, group_id=2),
        shape("cup", [[10, 5], [13, 9]], "circle"),
        shape("mat", [[4, 5], [6, 6]], "mask", mask=mask),
        shape("nose", [[3, 3]], "point"),
        shape("leash", [[3, 3], [4, 9]], "linestrip"),
        shape("odd", [[3, 3], [4, 9]], "\x1b[31m"),
    ]
    labelme(tmp_path, NAMES[:1], shapes=drawn)
    content = read_labelme(tmp_path)
    found = objects(content)
    assert [entry["label"] for entry in found] == ["cat", "cat", "cup", "mat"]
    assert found[0]["bbox"] == [2, 1, 12, 8] and len(found[0]["segmentation"]) == 2
    assert found[2]["bbox"] == pytest.approx([5, 0, 10, 10])
    assert found[3]["bbox"] == [4, 5, 3, 2]
    kinds = [kind for kind, _ in content["problems"]]
    assert kinds == [f"{kind} that has no area, left out" for kind in ("point", "linestrip", "shape of another kind")]


def test_one_bad_file_of_labelme_takes_no_other_with_it(tmp_path: Path):
    images(tmp_path)
    labelme(tmp_path)
    text(tmp_path / "a.json", '{"shapes": [')
    labelme(tmp_path, ["b.jpg"], shapes=[shape("cat", [[1, 2]], "polygon"), shape("cat", TRIANGLE)])
    training, validation = opened(tmp_path)
    lines = training.problems.lines() + validation.problems.lines()
    assert len(training) + len(validation) == 9
    assert any("annotation file that is no JSON of labelme, image left out (first:" in line for line in lines)
    assert any("not trained on" in line for line in lines)


# VIA

RECT = {"name": "rect", "x": 5, "y": 2.5, "width": 10, "height": 5}
POLYGON = {"name": "polygon", "all_points_x": [2, 8, 8], "all_points_y": [3, 3, 9]}


def via_image(name: str, regions: list[tuple[dict, dict]]) -> dict:
    listed = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in regions]
    return {"filename": name, "size": 631, "regions": listed, "file_attributes": {}}


def via(regions: list[tuple[dict, dict]] | None = None, names: Sequence[str] = NAMES) -> dict:
    regions = regions or [(RECT, {"class": "cat"}), (POLYGON, {"class": "dog"})]
    return {f"{name}631": via_image(name, regions) for name in names}


def via_csv(content: dict) -> str:
    table = io.StringIO()
    rows = csv.writer(table)
    columns = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    table.write(f"{columns}\r\n")
    for image in content.values():
        for number, region in enumerate(image["regions"]):
            parts = (json.dumps(region[key]) for key in ("shape_attributes", "region_attributes"))
            rows.writerow([image["filename"], 631, "{}", len(image["regions"]), number, *parts])
    return table.getvalue()


@pytest.mark.parametrize("kind", ["project", "annotations", "version 1", "table", "named after a split"])
def test_files_of_via(tmp_path: Path, kind: str):
    images(tmp_path / "images")
    content = via()
    if kind == "version 1":
        content = {key: image | {"regions": dict(enumerate(image["regions"]))} for key, image in content.items()}
    if kind == "table":
        text(tmp_path / "via_region_data.csv", via_csv(content), "utf-8-sig")
    else:
        project = {"_via_settings": {"ui": {}}, "_via_img_metadata": content, "_via_attributes": {}}
        name = "train.json" if "split" in kind else "via.json"
        text(tmp_path / name, json.dumps(project if kind == "project" else content))
    training, validation = opened(tmp_path)
    assert (len(training), len(validation)) == (9, 1) and not training.problems.counts
    assert training[0].boxes.tolist() == [[5, 2.5, 15, 7.5], [2, 3, 8, 9]]
    assert list(training.class_names.values()) == ["cat", "dog"]


@pytest.mark.parametrize(
    "attributes, label",
    [
        ({}, "object"),
        ({"species": "cat"}, "cat"),
        ({"age": "3", "Label": "cat"}, "cat"),
        ({"class": {"cat": True}}, "cat"),
        ({"class": {"cat": True, "dog": True}}, None),
        ({"class": ""}, None),
    ],
)
def test_the_class_of_a_region(tmp_path: Path, attributes: dict, label: str | None):
    path = text(
        tmp_path / "via.json",
        json.dumps(via([(RECT, attributes), (RECT, dict.fromkeys(attributes, "cat"))], NAMES[:1])),
    )
    assert objects(read_annotations(path))[0]["label"] == label


def test_attributes_of_which_none_is_the_class_are_refused(tmp_path: Path):
    path = text(tmp_path / "via.json", json.dumps(via([(RECT, {"age": "3", "size": "big"})])))
    with pytest.raises(UserError, match="attributes age, size, of which none is called class"):
        read_annotations(path)


def test_shapes_of_via(tmp_path: Path):
    circle, oval = (
        {"name": "circle", "cx": 10, "cy": 5, "r": 4},
        {"name": "ellipse", "cx": 10, "cy": 5, "rx": 8, "ry": 2},
    )
    drawn = [circle, oval, {"name": "point", "cx": 1, "cy": 1}, {"name": "rect", "x": "a"}]
    path = text(tmp_path / "via.json", json.dumps(via([(shape, {"class": "cat"}) for shape in drawn], NAMES[:1])))
    content = read_annotations(path)
    boxes = [entry["bbox"] for entry in content["annotations"]]
    assert boxes[0] == pytest.approx([6, 1, 8, 8]) and boxes[1] == pytest.approx([2, 3, 16, 4])
    assert boxes[2] == ["a", None, None, None]
    assert content["problems"] == [("point that has no area, left out", "a.jpg")]


# CVAT

META = """<meta><task><labels><label><name>cat</name><type>any</type></label><label><name>dog</name></label>
<label><name>person</name><type>skeleton</type></label>
<label><name>left_eye</name><type>points</type><parent>person</parent></label>
<label><name>right_eye</name><type>points</type><parent>person</parent></label></labels></task></meta>"""
SHAPES = """<box label="dog" occluded="0" xtl="5.0" ytl="2.5" xbr="15.0" ybr="7.5" z_order="0"></box>
<polygon label="cat" points="2.00,3.00;8.00,3.00;8.00,9.00"><attribute name="age">3</attribute></polygon>"""


def cvat(shapes: str = SHAPES, names: Sequence[str] = NAMES, subsets: Sequence[str] = ()) -> str:
    entries = []
    for number, name in enumerate(names):
        subset = f'subset="{subsets[number % len(subsets)]}"' if subsets else ""
        entries.append(f'<image id="{number}" name="{name}" {subset} width="20" height="10">{shapes}</image>')
    lines = "".join(entries)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{META}{lines}</annotations>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_cvat_is_cut_in_two(tmp_path: Path, encoding: str):
    images(tmp_path / "images")
    text(tmp_path / "annotations.xml", cvat().replace("utf-8", encoding), encoding)
    training, validation = opened(tmp_path)
    assert (len(training), len(validation)) == (9, 1) and not training.problems.counts
    assert training[0].boxes.tolist() == [[5, 2.5, 15, 7.5], [2, 3, 8, 9]]
    assert training.class_names == {1: "cat", 2: "dog", 3: "person"}
    assert training[0].classes.tolist() == [2, 1] and "CVAT's XML (annotations.xml)" in training.layout


def test_subsets_of_cvat_are_splits(tmp_path: Path):
    for start, subset in enumerate(("Train", "Validation")):
        images(tmp_path / "images" / subset, NAMES[start::2])
    text(tmp_path / "annotations.xml", cvat(subsets=("Train", "Validation")))
    training, validation = opened(tmp_path)
    assert (len(training), len(validation)) == (5, 5)
    assert validation.layout.endswith("CVAT's XML (annotations.xml, Validation)")


def test_shapes_of_cvat(tmp_path: Path):
    shapes = """<ellipse label="cat" cx="10" cy="5" rx="8" ry="2" rotation="90"/>
<mask label="cat" rle="1,2,3" left="4" top="5" width="3" height="2"/>
<mask label="cat" rle="1,99999999999" left="4" top="5" width="3" height="2"/>
<box label="cat" xtl="5" ytl="2" xbr="9" ybr="4" rotation="90"/>
<points label="cat" points="1,1;2,2"/><polyline label="cat" points="1,1;2,2"/><tag label="cat"/>"""
    path = text(tmp_path / "a.xml", cvat(shapes, NAMES[:1]))
    content = read_annotations(path)
    boxes = [entry["bbox"] for entry in content["annotations"]]
    assert boxes[0] == pytest.approx([8, -3, 4, 16]) and boxes[1] == [5, 5, 2, 1]
    assert boxes[2] == ["'run lengths that do not fill their window'"] and boxes[3] == pytest.approx([6, 1, 2, 4])
    assert len(content["problems"]) == 2


def test_a_few_bytes_do_not_stand_for_any_number_of_masks(monkeypatch: pytest.MonkeyPatch):
    """Of a small file's masks two large ones are decoded; what takes more bytes may say more."""
    drawings = Drawings()
    assert [drawings.has_room(2e8, 11) for _ in range(3)] == [True, True, False]
    assert Drawings().has_room(1e9, 10**6)
    large = '<mask label="cat" rle="0,100000000" left="0" top="0" width="10000" height="10000"/>'
    root = ET.fromstring(cvat(large * 9, NAMES[:1]))
    decoded = []
    monkeypatch.setattr(cvat_file, "mask_at", lambda mask, *_: decoded.append(mask.size) or no_shape("decoded"))
    found = cvat_file.cvat_to_coco(root)["annotations"]
    assert len(decoded) == 4 and [entry["bbox"] for entry in found[4:]] == [["'too many pixels in masks'"]] * 5


def test_skeletons_of_cvat_are_keypoints(tmp_path: Path):
    images(tmp_path)
    points = """<skeleton label="person"><points label="right_eye" occluded="1" outside="0" points="9.0,2.0"/>
<points label="left_eye" occluded="0" outside="0" points="3.0,7.0"/></skeleton>"""
    text(tmp_path / "annotations.xml", cvat(points))
    training, _ = opened(tmp_path, "detection,keypoint")
    assert training.skeleton.names == ("left_eye", "right_eye")
    assert training[0].keypoints.tolist() == [[[3, 7, 2], [9, 2, 1]]]
    assert training[0].boxes.tolist() == [[3, 2, 9, 7]]


@pytest.mark.parametrize(
    "content, message",
    [
        ("<annotations><track id='0' label='cat'/></annotations>", "CVAT for video; export the task as"),
        ("<annotations><image>", "no XML that can be read"),
        ("<!DOCTYPE a [<!ENTITY b SYSTEM '/etc/passwd'>]><annotations>&b;</annotations>", "no XML that can be read"),
    ],
)
def test_other_xml_is_refused(tmp_path: Path, content: str, message: str):
    images(tmp_path)
    text(tmp_path / "annotations.xml", content)
    with pytest.raises(UserError, match=message):
        opened(tmp_path)


# Shapes


def test_turned_boxes_and_ellipses():
    assert rectangle([4, 2, 0, 0])["bbox"] == [0, 0, 4, 2]
    assert rectangle([0, 0, 4, 2], 90)["bbox"] == pytest.approx([1, -1, 2, 4])
    corner = rectangle([0, 0, 4, 2], 30)["segmentation"][0][:2]  # clockwise as people see it: the y axis points down
    assert corner == pytest.approx([2 - 2 * np.cos(np.pi / 6) + 0.5, 1 - 2 * np.sin(np.pi / 6) - np.cos(np.pi / 6)])
    assert ellipse([0, 0, 4, 2], 90)["bbox"] == pytest.approx([-2, -4, 4, 8])
    assert rectangle(["a", 0, 4, 2])["bbox"] == ["a list"]
