"""Folders as CVAT, Roboflow, Label Studio, labelImg and Ultralytics leave them are found by themselves."""

import contextlib
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.training_data import describe_layouts, open_training
from pix2seq.errors import UserError
from pix2seq.tasks import choose_tasks
from tests.dataset.test_voc import thing

TASKS = choose_tasks(["detection"])
BOX = "0 0.5 0.5 0.5 0.5"  # of an image of 20 × 10: x 5 to 15, y 2.5 to 7.5
NAMES = [f"{letter}.jpg" for letter in "abcdefghij"]


def images(folder: Path, names: Sequence[str] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (20, 10), "gray").save(folder / name)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def labels(folder: Path, names: Sequence[str] = NAMES, line: str = BOX) -> None:
    for name in names:
        text((folder / name).with_suffix(".txt"), line + "\n")


def coco(path: Path, names: Sequence[str] = NAMES, prefix: str = "", **category) -> None:
    entries = [{"id": n, "file_name": prefix + name, "width": 20, "height": 10} for n, name in enumerate(names)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 2.5, 10, 5]} for n in range(len(names))]
    categories = [{"id": 0, "name": "things", "supercategory": "none"}, {"id": 1, "name": "cat"} | category]
    text(
        path,
        json.dumps({"info": {}, "images": entries, "annotations": boxes, "categories": categories[not category :]}),
    )


def xml(folder: Path, names: Sequence[str] = NAMES) -> None:
    for name in names:
        text((folder / name).with_suffix(".xml"), f"<annotation>{thing('cat', (6, 3, 15, 7))}</annotation>")


def opened(root: Path, **settings) -> tuple[ImageDataset, ImageDataset]:
    splits = open_training(config.replace(CFG(), data_root=str(root), task="detection", **settings), TASKS)
    for split in splits:
        split.leave_out_unreadable()
    return splits


# Layouts


def roboflow_coco(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:9]), ("test", NAMES[9:])):
        images(root / split, names)
        coco(root / split / "_annotations.coco.json", names, supercategory="things")


def roboflow_yolo(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:9])):
        images(root / split / "images", names)
        labels(root / split / "labels", names)
    lines = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\n"
    text(root / "data.yaml", lines + "\nroboflow:\n  license: CC BY 4.0\n  version: 1\n")
    text(root / "README.roboflow.txt", "exported\n")


def roboflow_voc(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:9])):
        images(root / split, names)
        xml(root / split, names)


def ultralytics(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("val", NAMES[6:9])):
        images(root / "images" / split, names)
        labels(root / "labels" / split, names)
    text(root / "cats.yaml", "path: ../datasets/cats\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n")
    text(root / "args.yaml", "lr0: 0.01\n")


def folders_alone(root: Path) -> None:
    ultralytics(root)
    (root / "cats.yaml").unlink()
    text(root / "classes.txt", "cat\n")


def lists(root: Path) -> None:
    images(root / "images")
    labels(root / "labels")
    text(root / "train.txt", "".join(f"./images/{name}\r\n" for name in NAMES[:6]))
    text(root / "valid.txt", "".join(f"C:\\data\\images\\{name}\n" for name in NAMES[6:9]))
    text(root / "data.yaml", "train: train.txt\nval: /content/own/valid.txt\nnames: [cat]\n")


@pytest.mark.parametrize(
    "write", [roboflow_coco, roboflow_yolo, roboflow_voc, ultralytics, folders_alone, lists], ids=lambda f: f.__name__
)
def test_splits_are_found_by_themselves(tmp_path: Path, write: Callable):
    write(tmp_path)
    training, validation = opened(tmp_path)
    assert [Path(entry["file_name"]).name for entry in training.images] == NAMES[:6]
    assert [Path(entry["file_name"]).name for entry in validation.images] == NAMES[6:9]
    for split in (training, validation):
        assert "cat" in split.class_names.values() and "things" not in split.class_names.values()
        assert split[0].boxes.tolist() == ([[5, 2, 15, 7]] if write is roboflow_voc else [[5, 2.5, 15, 7.5]])


def cvat_coco(root: Path) -> None:
    images(root / "images" / "default")
    coco(root / "annotations" / "instances_default.json")


def cvat_yolo(root: Path) -> None:
    images(root / "obj_train_data")
    labels(root / "obj_train_data")
    text(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    text(root / "obj.names", "cat\n")
    text(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in NAMES))


def cvat_ultralytics(root: Path) -> None:
    images(root / "images" / "train")
    labels(root / "labels" / "train")
    text(root / "data.yaml", "names:\n  0: cat\npath: .\ntrain: train.txt\n")
    text(root / "train.txt", "".join(f"data/images/train/{name}\n" for name in NAMES))


def cvat_voc(root: Path) -> None:
    images(root / "JPEGImages")
    xml(root / "Annotations")
    text(root / "ImageSets" / "Main" / "default.txt", "".join(f"{name[:-4]}\n" for name in NAMES))
    text(root / "ImageSets" / "Main" / "cat_default.txt", "".join(f"{name[:-4]}  1\n" for name in NAMES))


def label_studio_coco(root: Path) -> None:
    images(root / "images", [f"0a1b2c3d-{name}" for name in NAMES])
    coco(
        root / "result.json", [f"0a1b2c3d-{name}" for name in NAMES], prefix="..\\..\\label-studio\\media\\upload\\1\\"
    )


def label_studio_yolo(root: Path) -> None:
    images(root / "images", [f"0a1b2c3d-{name}" for name in NAMES])
    labels(root / "labels", [f"0a1b2c3d-{name}" for name in NAMES])
    text(root / "classes.txt", "cat\n")
    text(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {}}))


def labelimg(root: Path) -> None:
    images(root)
    labels(root)
    text(root / "classes.txt", "cat\r\n")


def xml_in_a_folder(root: Path) -> None:
    images(root / "images")
    xml(root / "annotations")


@pytest.mark.parametrize(
    "write",
    [cvat_coco, cvat_yolo, cvat_ultralytics, cvat_voc, label_studio_coco, label_studio_yolo, labelimg, xml_in_a_folder],
    ids=lambda f: f.__name__,
)
def test_one_split_is_cut_in_two(tmp_path: Path, write: Callable):
    write(tmp_path)
    training, validation = opened(tmp_path, val_share=0.2)
    names = [{Path(entry["file_name"]).name for entry in split.images} for split in (training, validation)]
    assert (len(names[0]), len(names[1])) == (8, 2) and not names[0] & names[1]
    assert training[0].boxes.tolist() in ([[5, 2.5, 15, 7.5]], [[5, 2, 15, 7]])
    lines = describe_layouts(training, validation)
    assert "train: 8 images of" in lines[0] and "val: 2 images of" in lines[1] and "--val-share 0.2" in lines[1]


def test_a_named_json_is_cut_in_two(tmp_path: Path):
    images(tmp_path / "pictures")
    coco(tmp_path / "all.json")
    named = {"train_json": "all.json", "train_images": "pictures", "val_share": 0.3}
    assert list(map(len, opened(tmp_path, **named))) == [7, 3]


def test_images_for_both_are_told(tmp_path: Path):
    images(tmp_path / "images")
    labels(tmp_path / "labels")
    text(tmp_path / "data.yaml", "train: images\nval: images\nnames: [cat]\n")
    assert "10 of 10 validation images are training images" in describe_layouts(*opened(tmp_path))[-1]


# What a description says


@pytest.mark.parametrize("names", ["[cat, 'dog, small', no]", "\n  0: cat\n  1: dog, small\n  2: no", "classes.txt"])
def test_names_are_read_as_they_are_written(tmp_path: Path, names: str):
    label_studio_yolo(tmp_path)
    text(tmp_path / "classes.txt", "cat\ndog, small\nno\n")
    text(tmp_path / "data.yaml", f"train: images\nnames: {names}\n")
    training, _ = opened(tmp_path)
    assert list(training.class_names.values()) == ["cat", "dog, small", "no"]
    training, _ = opened(tmp_path, classes="cat,'dog, small'")
    assert list(training.class_names.values()) == ["cat", "dog, small"]


@pytest.mark.parametrize("place", ["../outside", "{outside}", "images/../../outside", "../outside/list.txt"])
def test_nothing_outside_of_the_root_is_opened(tmp_path: Path, place: str):
    outside = tmp_path / "outside"
    images(outside)
    labels(outside)
    text(outside / "list.txt", "".join(f"{outside / name}\n" for name in NAMES))
    root = tmp_path / "own"
    text(root / "data.yaml", f"train: {place.format(outside=outside)}\nnames: [cat]\n")
    with pytest.raises(UserError, match=r"data\.yaml names no images at train: .* that are there; expected folders"):
        opened(root)


def test_links_out_of_the_root_are_not_opened(tmp_path: Path):
    root = tmp_path / "own"
    label_studio_yolo(root)
    text(tmp_path / "secret.txt", f"{BOX}\n")
    (root / "labels" / "0a1b2c3d-a.txt").unlink()
    (root / "labels" / "0a1b2c3d-a.txt").symlink_to(tmp_path / "secret.txt")
    lines = [line for split in opened(root) for line in split.problems.lines()]
    assert any("label file that cannot be read" in line and "link out of the data root" in line for line in lines)


@pytest.mark.parametrize(
    "content, message",
    [
        ("names: [cat", "cannot be read .*not YAML"),
        ("names: &a [cat]\ntrain: images\nval: *a\n", "aliases"),
        ("names: {0: cat, 0: dog}\n", "twice"),
        ("[" * 5000, "nested too deep"),
        ("names: {cat: 0}\ntrain: images\n", "'cat': '0' among its names; expected a list"),
        ("names: [[cat]]\ntrain: images\n", "among its names"),
        ("names: [cat]\ntrain: images\nkpt_shape: [0, 9]\n", "kpt_shape"),
        ("names: [cat]\ntrain: images\nkpt_shape: [2, 3]\nflip_idx: [0, 0]\n", "flip_idx"),
        ("!!python/object/apply:os.system [true]", "tags such as !!int are not read"),
        ("", "describes no data set"),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, content: str, message: str):
    label_studio_yolo(tmp_path)
    text(tmp_path / "data.yaml", content)
    with pytest.raises(UserError, match=message):
        opened(tmp_path)


# What is not read


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("tasks.json", '[{"id": 1, "annotations": [], "data": {}}]', "Label Studio's own JSON; export it as COCO"),
        ("tasks.json", '[{"id": 1, "image": "/data/a.jpg", "label": []}]', "Label Studio's short JSON"),
        ("via3.json", '{"project": {}, "metadata": {}, "view": {}}', "a project of VIA 3; export it"),
        ("export.zip", "PK", "an archive; unpack it"),
        ("_annotations.csv", "filename,width", "a table"),
        ("x.txt", "a cat", "it holds 10 images, but no annotations"),
    ],
)
def test_what_is_not_read_is_named_with_a_way_out(tmp_path: Path, name: str, content: str, message: str):
    images(tmp_path)
    text(tmp_path / name, content)
    with pytest.raises(UserError, match=f"found no dataset .*{message}.*looked for"):
        opened(tmp_path)


def test_a_root_that_is_no_folder_is_named(tmp_path: Path):
    text(tmp_path / "data.yaml", "names: [cat]\n")
    with pytest.raises(UserError, match="is a file: name the folder"):
        opened(tmp_path / "data.yaml")
    with pytest.raises(UserError, match="is not there"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize("write", [labels, xml, lambda folder, names: coco(folder / "all.json", names)])
def test_one_image_has_nothing_to_hold_out(tmp_path: Path, write: Callable):
    images(tmp_path, NAMES[:1])
    write(tmp_path, NAMES[:1])
    with pytest.raises(UserError, match="no validation split, and not two images"):
        opened(tmp_path)


# Cases as people bring them


def test_capital_folders_and_a_json_in_each(tmp_path: Path):
    for split, names in (("Train", NAMES[:6]), ("Validation", NAMES[6:])):
        images(tmp_path / split / "images", names)
        coco(tmp_path / split / "result.json", names, prefix="images/")
    assert list(map(len, opened(tmp_path))) == [6, 4]


def test_json_named_after_its_split_and_kind(tmp_path: Path):
    for split, names in (("train", NAMES[:6]), ("val", NAMES[6:])):
        images(tmp_path / "images", names)
        coco(tmp_path / f"instances_{split}2017.json", names)
        text(tmp_path / f"captions_{split}2017.json", '{"images": [], "annotations": []}')
    training, validation = opened(tmp_path)
    assert (len(training), len(validation)) == (6, 4) and "instances_train2017.json" in training.layout


def test_several_json_are_not_guessed_from(tmp_path: Path):
    images(tmp_path)
    coco(tmp_path / "first.json")
    coco(tmp_path / "second.json")
    with pytest.raises(UserError, match=r"has the splits of JSON in COCO's format with first, second; .*--train-json"):
        opened(tmp_path)


def test_a_data_set_one_folder_below_is_named(tmp_path: Path):
    roboflow_yolo(tmp_path / "shapes-1")
    with pytest.raises(UserError, match=r"its folder shapes-1 has YOLO's labels by data\.yaml: name .*shapes-1"):
        opened(tmp_path)


def test_uploaded_names_find_the_originals(tmp_path: Path):
    images(tmp_path / "images")
    coco(tmp_path / "result.json", [f"0a1b2c3d-{name}" for name in NAMES], prefix="images/")
    training, _ = opened(tmp_path)
    assert training.images[0]["file_name"] in NAMES
    assert any("without the mark of an upload" in line for line in training.problems.lines())
    (tmp_path / "result.json").unlink()
    labels(tmp_path / "labels", [f"0a1b2c3d-{name}" for name in NAMES])
    assert len(opened(tmp_path)[0].objects) == 9


def test_images_of_other_formats_are_counted(tmp_path: Path):
    labelimg(tmp_path)
    text(tmp_path / "k.heic", "")
    training, validation = opened(tmp_path)
    lines = training.problems.lines() + validation.problems.lines()
    assert any("image that cannot be read, left out" in line and "k.heic" in line for line in lines)


def test_a_split_that_is_listed_but_not_there_is_held_out(tmp_path: Path):
    roboflow_yolo(tmp_path)
    for path in (tmp_path / "valid" / "images").iterdir():
        path.unlink()
    training, validation = opened(tmp_path)
    assert (len(training), len(validation)) == (5, 1)
    assert any("split without images (first: data.yaml: val is" in line for line in training.problems.lines())


def test_images_that_share_a_label_file_are_left_out(tmp_path: Path):
    label_studio_yolo(tmp_path)
    images(tmp_path / "images", ["0a1b2c3d-a.png"])
    lines = opened(tmp_path)[0].problems.lines()
    assert any("2 × image whose label file is that of another image" in line for line in lines)


@pytest.mark.parametrize("name", ["PHOTO 1.txt", "photo%201.txt", unicodedata.normalize("NFD", "photö.txt")])
def test_label_files_in_other_spellings_are_found(tmp_path: Path, name: str):
    image = "photö.jpg" if "o\u0308" in name else "photo 1.jpg"
    images(tmp_path / "images", [*NAMES, image])
    labels(tmp_path / "labels")
    text(tmp_path / "labels" / name, f"{BOX}\n")
    lines = [line for split in opened(tmp_path) for line in split.problems.lines()]
    assert any("label file that is found by another spelling of the name" in line and image in line for line in lines)
    assert not any("without a label file" in line for line in lines)


@pytest.mark.parametrize("line", ["0 0.0{0} 0.2 0.6 0.7", "0 0.0{0} 0.1 0.5 0.6"])
def test_corners_in_labels_of_yolo_are_refused(tmp_path: Path, line: str):
    images(tmp_path)
    for number, name in enumerate(NAMES):
        labels(tmp_path, [name], line.format(number))
    with pytest.raises(UserError, match="all fit as x1 y1 x2 y2, or as the first corner"):
        opened(tmp_path)


def test_captions_beside_images_are_no_labels(tmp_path: Path):
    images(tmp_path)
    labels(tmp_path, line="a cat on a table with a dog")
    with pytest.raises(UserError, match="it holds 10 images, but no annotations"):
        opened(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
@pytest.mark.parametrize(
    "name", ["result.json", "data.yaml", "0.xml", "obj.data", "classes.txt", "labels/0a1b2c3d-a.txt"]
)
def test_pipes_are_not_waited_for(tmp_path: Path, name: str):
    label_studio_yolo(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with contextlib.suppress(UserError):
        opened(tmp_path)


@pytest.mark.parametrize(
    "content", [b'{"images": ' + b"[" * 100_000, b'{"images": [null], "annotations": [3]}', b"\x00\xff"]
)
def test_a_json_that_is_none_is_refused(tmp_path: Path, content: bytes):
    images(tmp_path)
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.json"):
        opened(tmp_path)
