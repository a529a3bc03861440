"""Files in COCO's format as tools write them: mended where the meaning is certain, refused with the cause where not."""

import json
from pathlib import Path

import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pix2seq.config import CFG
from pix2seq.dataset.annotation_files import read_annotations
from pix2seq.dataset.caption_vocabulary import split_vocabulary
from pix2seq.dataset.coco import ImageDataset
from pix2seq.errors import UserError
from pix2seq.tasks import CAPTIONING, DETECTION

TRIANGLE = [2, 3, 8, 3, 8, 9]


def content(objects: list[dict] | None = None, **values) -> dict:
    """Three images; `objects` are those of the first one but for what they say."""
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 20, "height": 10} for number in (1, 2, 3)]
    usual = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    entries = [usual | {"id": number} | entry for number, entry in enumerate(objects or [{}], 1)]
    return {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "cup"}]} | values


def write(folder: Path, data: object, encoding: str = "utf-8") -> Path:
    path = folder / "train.json"
    path.write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    return path


def opened(folder: Path, data: dict, encoding: str = "utf-8") -> ImageDataset:
    path = write(folder, data, encoding)
    return ImageDataset(folder, {"instances": lambda: read_annotations(path)})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_fault(tmp_path: Path, encoding: str):
    split = opened(tmp_path, content(categories=[{"id": 1, "name": "чашка"}]), encoding)
    assert split.class_names == {1: "чашка"} and not split.problems.counts


def test_another_encoding_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="not text in UTF-8"):
        opened(tmp_path, content(categories=[{"id": 1, "name": "größe"}]), "latin-1")


@pytest.mark.parametrize("bbox", [None, [], [0, 0, 0, 0], [1, 2, 3], [90, 90, 3, 3]])
@pytest.mark.parametrize("shape", [[TRIANGLE], TRIANGLE, [[2, 3], [8, 3], [8, 9]], [[[2, 3], [8, 3], [8, 9]]]])
def test_a_box_is_taken_from_the_polygons(tmp_path: Path, bbox, shape: list):
    split = opened(tmp_path, content([{"bbox": bbox, "segmentation": shape}]))
    assert split.target(0).boxes.tolist() == [[2, 3, 8, 9]]
    assert split.target(0).polygons[0][0].tolist() == [[2, 3], [8, 3], [8, 9]]
    assert any("taken from the segmentation" in line for line in split.problems.lines())


@pytest.mark.parametrize("quote", ["'", '"'])
def test_run_lengths_may_be_written_as_python_bytes(tmp_path: Path, quote: str):
    runs = {"size": [10, 20], "counts": [2, 3, 195]}
    sound = opened(tmp_path, content([{"segmentation": runs}]))
    quoted = f"b{quote}{coco_mask.frPyObjects(runs, 10, 20)['counts'].decode()}{quote}"
    mended = opened(tmp_path, content([{"segmentation": {"size": [10, 20], "counts": quoted}}]))
    assert [p.tolist() for p in mended.target(0).polygons[0]] == [p.tolist() for p in sound.target(0).polygons[0]]
    assert len(mended.problems.counts) == 1


@pytest.mark.parametrize(
    "bbox",
    [
        [4, 6, -3, -4],
        ["1", "2", "3", "4"],
        {"x": 1, "y": 2, "w": 3, "h": 4},
        {"left": "1", "top": 2, "width": 3, "height": 4},
        {"xmin": 1, "ymin": 2, "xmax": 4, "ymax": 6},
        {"x1": 1, "y1": 2, "x2": 4, "y2": 6},
    ],
)
def test_boxes_in_other_spellings_are_read_and_counted(tmp_path: Path, bbox: list | dict):
    split = opened(tmp_path, content([{"bbox": bbox}]))
    assert split.target(0).boxes.tolist() == [[1, 2, 4, 6]] and len(split.problems.counts) == 1


@pytest.mark.parametrize("image_id, category_id", [("1", 1), (1, "1"), ("001", "1")])
def test_text_ids_are_those_of_the_numbers(tmp_path: Path, image_id, category_id):
    split = opened(tmp_path, content([{"image_id": image_id, "category_id": category_id}]))
    assert len(split.objects[1]) == 1 and all("text in one place" in line for line in split.problems.lines())
    assert split.problems.counts


def test_ids_that_differ_in_spelling_alone_are_never_guessed(tmp_path: Path):
    images = [{"id": "1", "file_name": "a.jpg"}, {"id": "01", "file_name": "b.jpg"}]
    split = opened(tmp_path, content([{"image_id": 1}], images=images))
    assert not split.images and not split.objects
    assert "2 × image that a reference may mean as well as another one" in split.problems.lines()[0]


@pytest.mark.parametrize("given", [1, "001", "0001"])
def test_a_reference_to_one_of_two_images_leaves_both_out(tmp_path: Path, given):
    images = [{"id": "01", "file_name": "001.jpg"}, {"id": "1", "file_name": "1.jpg"}, {"id": 7, "file_name": "b.jpg"}]
    split = opened(tmp_path, content([{"image_id": given}, {"image_id": 7}], images=images))
    assert [entry["id"] for entry in split.images] == [7]


@pytest.mark.parametrize("other, count", [("1.jpg", 2), ("./1.jpg", 2), ("2.jpg", 4)])
def test_a_file_with_two_ids_is_left_out_unless_both_list_the_same(tmp_path: Path, other: str, count: int):
    data = content()
    data["images"].append({"id": 77, "file_name": other if count == 2 else "4.jpg"})
    split = opened(tmp_path, data)
    assert len(split.images) == count
    data["annotations"].append(data["annotations"][0] | {"id": 78, "image_id": 77})
    again = opened(tmp_path, data)
    assert len(again.images) == 4
    assert any("several ids and the same objects" in line for line in again.problems.lines()) == (count == 2)


def test_a_file_that_two_names_mean_is_one(tmp_path: Path):
    data = content()
    data["images"].append({"id": 77, "file_name": "1.JPG"})
    for number in (1, 2, 3):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{number}.jpg")
    split = opened(tmp_path, data)
    split.leave_out_unreadable()
    assert [entry["id"] for entry in split.images] == [2, 3]


def test_text_ids_of_categories_get_numbers(tmp_path: Path):
    categories = [{"id": "cup", "name": "cup"}, {"id": "07", "name": "mug"}, {"id": 1, "name": "jug"}]
    objects = [{"category_id": "cup"}, {"category_id": 7}, {"category_id": 1}]
    split = opened(tmp_path, content(objects, categories=categories))
    names = [split.class_names[number] for number in split.target(0).classes.tolist()]
    assert names == ["cup", "mug", "jug"] and sorted(split.class_names) == [1, 2, 7]


def test_sizes_may_be_text(tmp_path: Path):
    images = [{"id": 1, "file_name": "a.jpg", "width": "20", "height": "10.0"}]
    assert opened(tmp_path, content(images=images)).images[0]["width"] == 20


def test_an_image_with_an_object_that_cannot_be_read_teaches_nothing_about_objects(tmp_path: Path):
    objects = [{}, {"image_id": 2}, {"image_id": 2, "bbox": None}]
    split = opened(tmp_path, content(objects))
    assert split.indices_for([DETECTION]) == [0, 2]  # the third has no object at all
    assert split.unlabeled_in(1).objects and split.target(1).unlabeled.taught([DETECTION, CAPTIONING]) == [CAPTIONING]
    assert any("not trained on" in line for line in split.problems.lines())


def test_images_that_share_an_id_are_left_out(tmp_path: Path):
    data = content([{}, {"image_id": 2}])
    data["images"].append({"id": 1, "file_name": "other.jpg"})
    split = opened(tmp_path, data)
    assert [entry["id"] for entry in split.images] == [2, 3]
    assert any("1.jpg, other.jpg" in line for line in split.problems.lines())


def test_an_image_that_is_listed_twice_is_one(tmp_path: Path):
    data = content()
    data["images"].append(data["images"][0])
    split = opened(tmp_path, data)
    assert len(split.images) == 3 and list(split.problems.counts) == ["image that is listed twice"]


def test_a_category_without_objects_is_no_rival_of_its_namesake(tmp_path: Path):
    categories = [{"id": 0, "name": "cup", "supercategory": "none"}, {"id": 1, "name": "cup", "supercategory": "cup"}]
    assert opened(tmp_path, content(categories=categories)).class_names == {1: "cup"}
    with pytest.raises(UserError, match="two categories are named 'cup'"):
        opened(tmp_path, content([{}, {"category_id": 0}], categories=categories))


@pytest.mark.parametrize(
    "data, cause",
    [
        (content(categories=[]), "no list `categories`"),
        ({"images": [], "annotations": [{"image_id": 1, "segments_info": []}]}, "panoptic"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "file of results"),
        ([{"annotations": [], "data": {}}], "Label Studio"),
        ({"shapes": [], "imagePath": "a.jpg"}, "labelme"),
        ({"images": []}, "no lists `images` and `annotations`"),
        ([], "no lists `images` and `annotations`"),
        (content(categories=5.5), "`categories` that are no list"),
        (content(images=[{"id": None, "file_name": "a.jpg"}]), "None as its id"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, data: object, cause: str):
    with pytest.raises(UserError, match=cause):
        opened(tmp_path, data)


BOX = [[2, 3, 8, 3, 8, 9, 2, 9]]
RUNS = {"size": [10, 20], "counts": [23, 6, 4, 6, 161]}  # columns 2 and 3


@pytest.mark.parametrize(
    "shape",
    [
        json.dumps(BOX),
        [[str(number) for number in BOX[0]]],
        [{"x": 2, "y": 3}, {"x": 8, "y": 3}, {"x": 8, "y": 9}, {"x": 2, "y": 9}],
    ],
)
def test_polygons_may_be_text_or_points_with_names(tmp_path: Path, shape):
    split = opened(tmp_path, content([{"bbox": None, "segmentation": shape}]))
    assert split.target(0).boxes.tolist() == [[2, 3, 8, 9]] and split.problems.counts


@pytest.mark.parametrize(
    "shape", [[RUNS], json.dumps(RUNS), RUNS | {"counts": "[23, 6, 4, 6, 161]"}, RUNS | {"size": ["10", "20"]}]
)
def test_run_lengths_may_be_text_or_in_a_list(tmp_path: Path, shape):
    found, sound = (opened(tmp_path, content([{"bbox": None, "segmentation": s}])) for s in (shape, RUNS))
    assert found.target(0).boxes.tolist() == sound.target(0).boxes.tolist() != []


@pytest.mark.parametrize(
    "bbox", ["[1, 2, 3, 4]", "1,2,3,4", [[1, 2, 3, 4]], {"x": 1, "y": 2, "width": "3", "height": 4}, ["1", "2", 3, 4]]
)
def test_boxes_may_be_text_or_named(tmp_path: Path, bbox):
    split = opened(tmp_path, content([{"bbox": bbox}]))
    assert split.target(0).boxes.tolist() == [[1, 2, 4, 6]] and split.problems.counts


@pytest.mark.parametrize("image_id", ["1.jpg", "1", "01"])
def test_references_may_be_names(tmp_path: Path, image_id: str):
    split = opened(tmp_path, content([{"image_id": image_id, "category_id": "cup"}]))
    assert len(split.target(0).boxes) == 1 and split.problems.counts


def test_one_id_of_two_categories_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="two categories of the id 1, 'cup' and 'bowl'"):
        opened(tmp_path, content(categories=[{"id": 1, "name": "cup"}, {"id": 1, "name": "bowl"}]))


def test_a_file_whose_objects_are_spread_over_two_ids_is_left_out(tmp_path: Path):
    data = content([{}, {"image_id": 2}])
    data["images"][1]["file_name"] = "1.jpg"
    assert len(opened(tmp_path, data)) == 3  # an image that is repeated with all its objects
    data["annotations"][1]["bbox"] = [5, 5, 2, 2]
    split = opened(tmp_path, data)
    assert [image["id"] for image in split.images] == [3]
    assert any("1.jpg: images 1, 2" in line for line in split.problems.lines())
    data["annotations"] = [{"image_id": number, "caption": "a cup"} for number in (1, 2)]
    assert len(opened(tmp_path, data)) == 3


def test_captions_may_be_in_lists_and_others_are_counted(tmp_path: Path):
    data = content([{}])
    data["annotations"] = [{"image_id": 1, "caption": ["a cup", "two cups"]}, {"image_id": 2, "caption": 5}]
    split = opened(tmp_path, data)
    assert split.captions == {1: ["a cup", "two cups"]}
    assert any("caption that is empty or no text (first: image 2: 5)" in line for line in split.problems.lines())


def test_a_split_without_captions_says_why(tmp_path: Path):
    split = opened(tmp_path, content([{}]) | {"annotations": [{"image_id": 1, "caption": None}]})
    with pytest.raises(UserError, match=r"no captions.*1 × caption that is empty or no text"):
        split_vocabulary(split, CFG())
