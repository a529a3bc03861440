"""The dataset that the settings name: COCO's layout, Pascal VOC's, or any JSON file, with any category ids."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import CocoDataset
from pix2seq.dataset.sources import open_split
from pix2seq.dataset.voc import VocDataset
from pix2seq.errors import UserError
from pix2seq.tasks import choose_tasks

TASKS = choose_tasks(["detection", "keypoint"])
ONLY_DETECTION = choose_tasks(["detection"])
HAND = {"id": 0, "name": "hand", "keypoints": ["wrist", "left_tip", "right_tip"], "skeleton": [[1, 2], [1, 3]]}
CATEGORIES = [HAND, {"id": 7, "name": "cup"}, {"id": 4000, "name": "ring"}]


def content(categories: list[dict] = CATEGORIES, **values) -> dict:
    """One image with an object of each category, and a caption."""
    objects = [
        {"id": number, "image_id": 1, "category_id": category["id"], "bbox": [1 + number, 2, 3, 4]}
        for number, category in enumerate(categories)
    ]
    objects[0]["keypoints"] = [1, 2, 2, 3, 4, 2, 0, 0, 0]
    captions = [{"id": 1, "image_id": 1, "caption": "a hand with a ring"}]
    images = [{"id": 1, "file_name": "1.png", "width": 20, "height": 10}]
    return {"images": images, "annotations": objects + captions, "categories": categories} | values


def write(root: Path, name: str, folder: str, **values) -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(root / folder / "1.png")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content(**values)), encoding="utf-8")
    return root


def cfg(root: Path, **values) -> CFG:
    return config.replace(CFG(), data_root=str(root), **({"train_split": "train", "val_split": "val"} | values))


@pytest.mark.parametrize(
    "name, images",
    [
        ("train.json", "."),
        ("train.json", "images"),
        ("train.json", "train"),
        ("annotations/train.json", "train"),
        ("annotations/train.json", "images"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_a_json_and_its_images_are_found_below_the_root(tmp_path: Path, name: str, images: str):
    split = open_split(cfg(write(tmp_path, name, images)), "train", TASKS)
    assert split[0].image.shape == (10, 20, 3)
    assert split.all_captions() == ["a hand with a ring"]


def test_files_and_folders_can_be_named(tmp_path: Path):
    root = write(write(tmp_path, "a/one.json", "b"), "a/two.json", "c")
    named = cfg(root, train_json="a/one.json", val_json=str(root / "a" / "two.json"), train_images="b", val_images="c")
    assert [open_split(named, name, TASKS).folder.name for name in ("train", "val")] == ["b", "c"]
    assert open_split(config.replace(named, val_images=""), "val", TASKS).folder.name == "b"


def test_one_json_without_the_other_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="both --train-json and --val-json"):
        open_split(cfg(write(tmp_path, "one.json", "."), val_json="one.json"), "train", TASKS)


def test_missing_images_are_named_with_the_flag(tmp_path: Path):
    root = write(tmp_path, "train.json", "elsewhere")
    with pytest.raises(UserError, match=r"1\.png.*--train-images"):
        open_split(cfg(root), "train", TASKS)
    assert len(open_split(cfg(root, train_images="elsewhere"), "train", TASKS)) == 1


def test_a_missing_first_image_hides_no_folder(tmp_path: Path):
    images = [{"id": 7, "file_name": "gone.png"}, content()["images"][0]]
    root = write(tmp_path, "train.json", "images", images=images)
    assert open_split(cfg(root), "train", TASKS).folder == root / "images"
    write(tmp_path, "train.json", "images", images=[])
    with pytest.raises(UserError, match=r"train\.json names no image"):
        open_split(cfg(root), "train", TASKS)


def test_images_of_coco_s_layout_may_lie_elsewhere(tmp_path: Path):
    root = write(tmp_path, "annotations/instances_train.json", "elsewhere")
    split = open_split(cfg(root, train_images="elsewhere"), "train", ONLY_DETECTION)
    assert isinstance(split, CocoDataset) and split[0].image.shape == (10, 20, 3)
    with pytest.raises(UserError, match=r"no folder of images .*nope; check --train-images"):
        open_split(cfg(root, train_images="nope"), "train", ONLY_DETECTION)


@pytest.mark.parametrize("layout, named", [("JPEGImages", "Pascal VOC"), ("", "synthetic scenes")])
def test_layouts_with_their_own_images_accept_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, named: str
):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path / "unused"))
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).mkdir()
    settings = cfg(tmp_path, train_images=str(tmp_path), scenes_train=1, scenes_val=1)
    settings = settings if layout else config.replace(settings, data_root="")
    with pytest.raises(UserError, match=f"leave them out, .*{named}"):
        open_split(settings, "train", ONLY_DETECTION)


@pytest.mark.parametrize("flag", ["json", "images"])
def test_two_splits_of_one_name_are_of_the_same_files(tmp_path: Path, flag: str):
    root = write(tmp_path, "a.json", "images")
    same = cfg(root, val_split="train", train_json="a.json", val_json="a.json", train_images="images")
    assert len(open_split(same, "train", TASKS)) == 1
    with pytest.raises(UserError, match=f"both 'train', but --val-{flag} is not --train-{flag}"):
        open_split(config.replace(same, **{f"val_{flag}": "b"}), "train", TASKS)


def test_the_files_that_were_looked_for_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"instances_train\.json.*JPEGImages.*train\.json.*--train-json"):
        open_split(cfg(tmp_path), "train", TASKS)


def test_coco_and_voc_layouts_are_recognized(tmp_path: Path):
    coco = write(tmp_path / "coco", "annotations/instances_train.json", "train")
    assert isinstance(open_split(cfg(coco), "train", ONLY_DETECTION), CocoDataset)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "voc" / "VOC2007" / name).mkdir(parents=True)
    (tmp_path / "voc" / "VOC2007" / "ImageSets" / "Main" / "train.txt").write_text("", encoding="utf-8")
    assert isinstance(open_split(cfg(tmp_path / "voc"), "train", ONLY_DETECTION), VocDataset)


# Categories


def test_sparse_ids_with_0_become_classes_and_are_restored(tmp_path: Path):
    split = open_split(cfg(write(tmp_path, "train.json", ".")), "train", TASKS)
    assert split.class_names == {1: "hand", 2: "cup", 3: "ring"}
    assert split.category_ids == {1: 0, 2: 7, 3: 4000}
    assert split[0].classes.tolist() == [1, 2, 3]
    ground_truth = split.ground_truth("instances")
    assert [entry["category_id"] for entry in ground_truth["annotations"]] == [0, 7, 4000]
    # pycocotools overlooks a match with id 0
    assert [entry["id"] for entry in ground_truth["annotations"]] == [1, 2, 3]


def test_the_ground_truth_holds_what_evaluators_need(tmp_path: Path):
    split = open_split(cfg(write(tmp_path, "train.json", ".")), "train", TASKS)
    ground_truth = split.ground_truth("person_keypoints", keypoints=True)
    for entry in ground_truth["annotations"]:
        assert {"area", "iscrowd", "num_keypoints", "keypoints", "segmentation"} <= entry.keys()
    assert [entry["num_keypoints"] for entry in ground_truth["annotations"]] == [2, 0, 0]


def test_own_keypoints_come_with_their_names(tmp_path: Path):
    split = open_split(cfg(write(tmp_path, "train.json", ".")), "train", TASKS)
    assert (split.skeleton.names, split.skeleton.flip) == (("wrist", "left_tip", "right_tip"), (0, 2, 1))
    assert split.skeleton.class_ids == (1,)
    assert split[0].keypoints.shape == (3, 3, 3) and split[0].skeleton is split.skeleton


def test_chosen_classes_leave_the_others_out(tmp_path: Path):
    root = write(tmp_path, "train.json", ".")
    split = open_split(cfg(root, classes="ring, cup"), "train", TASKS)
    assert set(split.class_names.values()) == {"cup", "ring"} and len(split[0].classes) == 2
    assert not split.problems.counts and len(split.ground_truth("instances")["annotations"]) == 2
    with pytest.raises(UserError, match=r"'spoon'.*hand, cup, ring"):
        open_split(cfg(root, classes="spoon"), "train", TASKS)


def test_a_model_s_classes_are_matched_by_name_not_by_id(tmp_path: Path):
    shuffled = [{"id": 1, "name": "ring"}, HAND | {"id": 2}]
    split = open_split(
        cfg(write(tmp_path, "val.json", ".", categories=shuffled)), "val", TASKS, {1: "hand", 2: "cup", 3: "ring"}
    )
    assert split[0].classes.tolist() == [3, 1]
    assert split.category_ids == {3: 1, 1: 2}
    assert split.skeleton.class_ids == (1,)


def test_objects_of_classes_that_a_model_does_not_have_are_counted(tmp_path: Path):
    root = write(tmp_path, "val.json", ".")
    split = open_split(cfg(root), "val", TASKS, {4: "cup"})
    assert split[0].classes.tolist() == [4]
    (line,) = split.problems.lines()
    assert line.startswith("2 × object of a class that the model does not have") and line.endswith("hand)")
    assert not open_split(cfg(root, classes="cup"), "val", TASKS, {4: "cup"}).problems.counts


def test_a_split_without_a_class_of_the_model_is_refused_with_both_lists(tmp_path: Path):
    root = write(tmp_path, "val.json", ".")
    with pytest.raises(UserError, match=r"name hand, cup, ring, .* zebra, yak; classes are matched by name"):
        open_split(cfg(root), "val", TASKS, {1: "zebra", 2: "yak"})
    assert open_split(cfg(root), "val", choose_tasks(["captioning"]), {}).all_captions() == ["a hand with a ring"]


def test_unreadable_images_are_left_out_and_counted(tmp_path: Path):
    names = ("1.png", "gone.png", "empty.png", "page.jpg")
    root = write(tmp_path, "train.json", ".", images=[{"id": n, "file_name": name} for n, name in enumerate(names, 1)])
    (root / "empty.png").touch()
    (root / "page.jpg").write_text("<html>404</html>", encoding="utf-8")
    split = open_split(cfg(root), "train", TASKS)
    split.leave_out_unreadable()
    assert [entry["id"] for entry in split.images] == [1]
    assert split.problems.counts == {
        "image that is not there, left out": 1,
        "image that cannot be read, left out": 2,
    }
    assert any("gone.png" in line for line in split.problems.lines())
    (root / "1.png").unlink()
    with pytest.raises(UserError, match=r"none of the 1 annotated images .*1\.png \(image that is not there\)"):
        split.leave_out_unreadable()


# What annotations may name


def outside(folder: Path) -> Path:
    """A data root whose annotations name three images, one of them outside of it and one by a link to that."""
    (folder / "root" / "images").mkdir(parents=True)
    for name in ("out.jpg", "root/images/a.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)
    (folder / "root" / "images" / "link.jpg").symlink_to(folder / "out.jpg")
    names = ("a.jpg", "../../out.jpg", "link.jpg")
    images = [dict(id=i, file_name=name, width=40, height=30) for i, name in enumerate(names)]
    boxes = [dict(id=i, image_id=i, category_id=1, bbox=[1, 2, 10, 10], area=100, iscrowd=0) for i in range(3)]
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name="cat")])
    (folder / "root" / "train.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "root"


def test_images_outside_of_the_data_root_are_left_out_and_counted(tmp_path: Path):
    split = open_split(cfg(outside(tmp_path)), "train", ONLY_DETECTION)
    for index in (1, 2):
        with pytest.raises(UserError, match=r"jpg lies outside of .*--outside-images reads it"):
            split.load(index)
    split.leave_out_unreadable()
    assert [entry["file_name"] for entry in split.images] == ["a.jpg"]
    assert split.problems.counts["image outside of the dataset's folder (--outside-images reads it), left out"] == 2


def test_they_are_read_where_that_is_wanted(tmp_path: Path):
    split = open_split(config.replace(cfg(outside(tmp_path)), outside_images=True), "train", ONLY_DETECTION)
    split.leave_out_unreadable()
    assert len(split) == 3 and split.load(1).image.shape == (30, 40, 3)
