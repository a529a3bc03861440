"""Pascal VOC's layout: boxes counted from 1 with both ends inside, image sets, difficult objects, masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq.config import CFG, replace
from pix2seq.dataset.sources import open_split
from pix2seq.dataset.voc import VOC_CLASSES, VocDataset, find_voc_folders
from pix2seq.errors import UserError
from pix2seq.runtime.text import parse_xml
from pix2seq.tasks import DETECTION, SEGMENTATION, choose_tasks

BOX, INSIDE = (11, 21, 40, 60), (11, 21, 40, 45)  # the images end at 50
NOT_FINITE = "box that is not four finite numbers"
ONLY_DETECTION = choose_tasks(["detection"])
ONLY_SEGMENTATION = choose_tasks(["segmentation"])


def thing(name: str = "dog", box: tuple = BOX, difficult: int | None = 0) -> str:
    edges = "".join(
        f"<{edge}>{value}</{edge}>" for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name><pose>Left</pose>{flag}{part}<bndbox>{edges}</bndbox></object>"


def write_voc(folder: Path, images: dict[str, str], sets: dict[str, list[str]]) -> Path:
    """A VOC folder of images (64, 50) by name with the XML of their objects, and its image sets."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    size = "<size><width>64</width><height>50</height><depth>3</depth></size>"
    for name, objects in images.items():
        Image.new("RGB", (64, 50), "red").save(folder / "JPEGImages" / f"{name}.jpg")
        xml = f"<annotation><filename>wrong.jpg</filename>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(xml, encoding="utf-8")
    for name, members in sets.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(
            "".join(f"{member}\n" for member in members), encoding="utf-8"
        )
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    images = {"2007_000027": thing() + thing("cat", difficult=1), "2007_000032": "", "2007_000033": thing("person")}
    sets = {"trainval": ["2007_000027", "2007_000032"], "val": ["2007_000033  1"], "dog_val": []}
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", images, sets)
    return tmp_path


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_the_folder_or_one_above(root: Path, below: str):
    assert find_voc_folders(root / below) == [root / "VOCdevkit" / "VOC2012"]
    split = VocDataset(root / below, "trainval", ONLY_DETECTION)
    assert [split[index].image_id for index in range(len(split))] == [2007000027, 2007000032]
    assert split[0].image.shape == (50, 64, 3)


def test_boxes_become_continuous_and_difficult_is_marked(root: Path):
    example = VocDataset(root, "trainval", ONLY_DETECTION)[0]
    assert example.boxes.tolist() == [[10, 20, 40, 50]] * 2  # the image ends at 50
    assert example.difficult.tolist() == [False, True]


def test_the_twenty_classes_keep_their_order(root: Path):
    split = VocDataset(root, "val", ONLY_DETECTION)
    assert list(split.class_names.values()) == list(VOC_CLASSES)
    assert split[0].classes.tolist() == [15]


def test_an_image_without_objects_is_trained_on_and_one_of_difficult_ones_is_not(tmp_path: Path):
    images = {"1": thing(), "2": "", "3": thing(difficult=1)}
    split = VocDataset(write_voc(tmp_path / "own", images, {"all": list("123")}), "all", ONLY_DETECTION)
    assert split.indices_for([DETECTION], with_difficult=False) == [0, 1]
    assert split.indices_for([DETECTION]) == [0, 1, 2]
    assert split[0].without(split[0].difficult).boxes.shape == (1, 4)
    assert split[2].without(split[2].difficult).boxes.shape == (0, 4)


def test_the_ground_truth_has_difficult_objects_that_do_not_count(root: Path):
    ground_truth = VocDataset(root, "trainval", ONLY_DETECTION).ground_truth("instances")
    assert [entry["iscrowd"] for entry in ground_truth["annotations"]] == [0, 1]
    assert [entry["id"] for entry in ground_truth["annotations"]] == [1, 2]


def test_own_classes_are_those_of_all_image_sets(tmp_path: Path):
    objects = {"a": thing("zebra"), "b": thing("ant"), "c": thing("dog")}
    folder = write_voc(tmp_path / "own", objects, {"train": ["a"], "val": ["b", "c"]})
    names = [VocDataset(folder, split, ONLY_DETECTION).class_names for split in ("train", "val")]
    assert names == [{1: "ant", 2: "dog", 3: "zebra"}] * 2
    assert [entry["id"] for entry in VocDataset(folder, "val", ONLY_DETECTION).images] == [1, 2]


def test_chosen_classes_are_numbered_as_they_are_given(tmp_path: Path):
    folder = write_voc(tmp_path / "own", {"a": thing("zebra") + thing("ant") + thing("dog")}, {"train": ["a"]})
    split = VocDataset(folder, "train", ONLY_DETECTION, classes=["zebra", "ant"])
    assert split.class_names == {1: "zebra", 2: "ant"}
    assert split[0].classes.tolist() == [1, 2]


def test_a_chosen_class_that_no_annotation_has_is_refused(tmp_path: Path):
    objects = {"a": thing("mug"), "b": thing("spoon")}
    folder = write_voc(tmp_path / "own", objects, {"train": ["a"], "val": ["b"]})
    with pytest.raises(UserError, match=r"'spon'.*mug, spoon"):
        open_split(replace(CFG(), data_root=str(folder), classes="mug,spon"), "train", ONLY_DETECTION)
    names = [
        VocDataset(folder, split, ONLY_DETECTION, None, ["spoon", "mug"]).class_names for split in ("train", "val")
    ]
    assert names == [{1: "spoon", 2: "mug"}] * 2
    assert VocDataset(folder, "train", ONLY_DETECTION, classes=["mug", "dog"]).class_names == {
        1: "mug",
        2: "dog",
    }


def test_classes_of_a_model_are_matched_by_name(root: Path):
    split = VocDataset(root, "trainval", ONLY_DETECTION, class_names={5: "dog", 9: "cup"})
    assert split[0].classes.tolist() == [5] and split.category_ids == {5: VOC_CLASSES.index("dog") + 1}
    assert split.problems.lines()[1:] == [
        "1 × object of a class that the model does not have, left out (first: annotation 2 of image 2007000027: cat)"
    ]


def test_image_sets_of_two_years_are_joined(tmp_path: Path):
    for year, name in (("VOC2007", "000005"), ("VOC2012", "2008_000001")):
        write_voc(tmp_path / year, {name: thing()}, {"trainval": [name]})
    split = VocDataset(tmp_path, "VOC2007/trainval, VOC2012/trainval", ONLY_DETECTION)
    assert [split[index].image_id for index in range(2)] == [5, 2008000001]
    with pytest.raises(UserError, match="VOC2007, VOC2012"):
        VocDataset(tmp_path, "trainval", ONLY_DETECTION)


def test_for_a_missing_image_set_the_existing_ones_are_named(root: Path):
    with pytest.raises(UserError, match=r"test\.txt.*: trainval, val$"):
        VocDataset(root, "test", ONLY_DETECTION)


@pytest.mark.parametrize("task", ["keypoint", "captioning"])
def test_tasks_that_voc_does_not_annotate_are_refused(root: Path, task: str):
    with pytest.raises(UserError, match=task):
        VocDataset(root, "val", choose_tasks([task]))


def test_damaged_annotations_are_counted(tmp_path: Path):
    images = {"1": thing(box=(5, 5, "x", 9)) + thing(box=(9, 9, 5, 12)) + thing(box=(5.5, 6, 9, 9)), "2": "", "3": ""}
    folder = write_voc(tmp_path / "own", images, {"all": list("1234")})
    (folder / "Annotations" / "2.xml").write_text("<annotation><object>", encoding="utf-8")
    entity = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>'
    (folder / "Annotations" / "3.xml").write_text(entity, encoding="utf-8")
    split = VocDataset(folder, "all", ONLY_DETECTION)
    assert len(split) == 1 and split[0].boxes.tolist() == [[4, 8, 9, 12], [4.5, 5, 9, 9]]
    assert sorted(split.problems.counts.values()) == [1, 1, 1, 1, 2]


def test_objects_without_a_name_or_a_finite_size_are_counted(tmp_path: Path):
    folder = write_voc(tmp_path / "own", {"1": thing("") + thing("bolt") + thing(box=(5, 5, "inf", 9))}, {"all": ["1"]})
    xml = folder / "Annotations" / "1.xml"
    xml.write_text(xml.read_text(encoding="utf-8").replace("<width>64", "<width>inf"), encoding="utf-8")
    split = VocDataset(folder, "all", ONLY_DETECTION)
    assert list(split.class_names.values()) == ["bolt", "dog"] and len(split[0].boxes) == 1
    assert [split.problems.counts.get(kind) for kind in ("object without a class", NOT_FINITE)] == [1, 1]


@pytest.mark.parametrize("damage", ["text", "color"])
def test_damaged_masks_are_counted(root: Path, damage: str):
    path = root / "VOCdevkit" / "VOC2012" / "SegmentationObject" / "2007_000027.png"
    path.parent.mkdir()
    if damage == "text":
        path.write_text("no image", encoding="utf-8")
    else:
        Image.new("RGB", (64, 50), "red").save(path)
    split = VocDataset(root, "trainval", ONLY_SEGMENTATION)
    assert split.indices_for([SEGMENTATION]) == []
    assert split.problems.counts["mask file that is no image of object numbers, left out"] == 1


def test_masks_are_those_of_segmentation_object(root: Path):
    folder = root / "VOCdevkit" / "VOC2012"
    (folder / "SegmentationObject").mkdir()
    numbers = np.zeros((50, 64), np.uint8)
    numbers[20:50, 10:40], numbers[0:5, 0:5], numbers[19, 10:40] = 1, 2, 255
    image = Image.fromarray(numbers, mode="P")
    image.putpalette(list(range(256)) * 3)
    image.save(folder / "SegmentationObject" / "2007_000027.png")
    split = VocDataset(root, "trainval", ONLY_SEGMENTATION)
    ((dog,), (cat,)) = split[0].polygons
    assert (dog.min(axis=0).tolist(), dog.max(axis=0).tolist()) == ([10, 20], [40, 50])
    assert cat.max() == 5
    assert split.indices_for([SEGMENTATION]) == [0]


@pytest.mark.parametrize("line", ["a photo.jpg", "a photo", "A PHOTO", "../JPEGImages/a photo.jpg", "a photo  1"])
def test_lists_may_spell_names_otherwise(tmp_path: Path, line: str):
    folder = write_voc(tmp_path / "own", {"a photo": thing(box=INSIDE)}, {"all": [line]})
    split = VocDataset(folder, "all", ONLY_DETECTION)
    assert len(split[0].boxes) == 1
    exact = line.startswith("a photo") and not line.endswith(".jpg")
    assert list(split.problems.counts) == ([] if exact else ["image whose name in the list is spelled otherwise"])


@pytest.mark.parametrize("encoding", ["gbk", "gb2312", "gb18030", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_xml_is_read_in_its_declared_encoding(tmp_path: Path, encoding: str):
    name = "größe" if encoding == "latin-1" else "人"
    folder = write_voc(tmp_path / "own", {"1": thing(name, INSIDE)}, {"all": ["1"]})
    path = folder / "Annotations" / "1.xml"
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>\n' + path.read_text(encoding="utf-8")
    path.write_bytes(text.encode(encoding))
    split = VocDataset(folder, "all", ONLY_DETECTION)
    assert list(split.class_names.values()) == [name] and not split.problems.counts


def test_the_encoding_is_named_where_a_file_is_not_in_it(tmp_path: Path):
    folder = write_voc(tmp_path / "own", {"1": thing("人"), "2": thing(box=INSIDE)}, {"all": ["1", "2"]})
    path = folder / "Annotations" / "1.xml"
    path.write_bytes(path.read_text(encoding="utf-8").encode("gbk"))
    split = VocDataset(folder, "all", ONLY_DETECTION)
    assert list(split.problems.counts) == ["annotation file that is not in its encoding utf-8, image left out"]


def test_names_that_end_as_a_flag_does_are_names(tmp_path: Path):
    folder = write_voc(
        tmp_path / "own", dict.fromkeys(["photo 1", "photo", "dog"], thing()), {"all": ["photo 1", "dog  1"]}
    )
    names = [entry["file_name"] for entry in VocDataset(folder, "all", ONLY_DETECTION).images]
    assert names == ["JPEGImages/photo 1.jpg", "JPEGImages/dog.jpg"]


@pytest.mark.parametrize("filename, count", [("1.png", 2), ("1.jpg", 1)])
def test_an_image_that_several_files_may_be_is_left_out(tmp_path: Path, filename: str, count: int):
    folder = write_voc(tmp_path / "own", {"1": thing(), "2": thing()}, {"all": ["1", "2"]})
    path = folder / "JPEGImages" / "1.jpg"
    for suffix in (".png", ".bmp"):
        Image.open(path).save(path.with_suffix(suffix))
    path.unlink()
    xml = folder / "Annotations" / "1.xml"
    xml.write_text(xml.read_text(encoding="utf-8").replace("wrong.jpg", filename), encoding="utf-8")
    assert len(VocDataset(folder, "all", ONLY_DETECTION)) == count


def test_the_name_in_the_annotation_file_finds_an_image(tmp_path: Path):
    folder = write_voc(tmp_path / "own", {"1": thing()}, {"all": ["1"]})
    (folder / "JPEGImages" / "1.jpg").rename(folder / "JPEGImages" / "wrong.jpg")
    split = VocDataset(folder, "all", ONLY_DETECTION)
    assert split.images[0]["file_name"] == "JPEGImages/wrong.jpg" and "by the name" in split.problems.lines()[0]


def test_fractions_in_xml_are_refused(tmp_path: Path):
    folder = write_voc(tmp_path / "own", {"1": thing(box=(0.1, 0.2, 0.5, 0.9))}, {"all": ["1"]})
    with pytest.raises(UserError, match=r"all 1 boxes in .* fractions"):
        VocDataset(folder, "all", ONLY_DETECTION)


def test_commas_polygons_and_turned_boxes_are_read(tmp_path: Path):
    comma = thing(box=("11,5", 21, 40, 45))
    points = "<x1>5</x1><y1>6</y1><x2>20</x2><y2>6</y2><x3>20</x3><y3>16</y3>"
    polygon = f"<object><name>dog</name><polygon>{points}</polygon></object>"
    turned = "<cx>20</cx><cy>20</cy><w>10</w><h>4</h><angle>1.5707963267948966</angle>"
    objects = f"{comma}{polygon}<object><name>dog</name><robndbox>{turned}</robndbox></object>"
    split = VocDataset(write_voc(tmp_path / "own", {"1": objects}, {"all": ["1"]}), "all", ONLY_SEGMENTATION)
    example = split.target(0)
    assert example.boxes.round(6).tolist() == [[10.5, 20, 40, 45], [5, 6, 20, 16], [18, 15, 22, 25]]
    assert [len(parts) for parts in example.polygons] == [0, 1, 1]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_read(encoding: str):
    declared = f'<?xml version="1.0" encoding="{encoding}"?><annotation><name>größe</name></annotation>'
    assert parse_xml(declared.encode(encoding)).findtext("name") == "größe"
