"""COCO's layout on disk, read for the requested tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq.config import CFG
from pix2seq.dataset.coco import CocoDataset
from pix2seq.dataset.detection import detection_sequence
from pix2seq.dataset.geometry import Geometry
from pix2seq.errors import UserError
from pix2seq.scenes.kinds import KINDS
from pix2seq.tasks import DETECTION, SEGMENTATION, TASKS, choose_tasks
from pix2seq.token_ids import END
from pix2seq.tokenizers.detection import DetectionTokenizer


def write_split(root: Path, split: str = "val2017", **files: dict) -> Path:
    """Write a dataset of the given annotation files without images."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir()
    for name, content in files.items():
        (root / "annotations" / f"{name}_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def annotation(number: int, **values) -> dict:
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0} | values


IMAGES = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
ONLY_DETECTION = choose_tasks(["detection"])
ONLY_SEGMENTATION = choose_tasks(["segmentation"])


@pytest.fixture(scope="module")
def scenes(scenes_root: Path) -> CocoDataset:
    return CocoDataset(scenes_root, "train2017", TASKS)


def test_all_images_are_there(scenes: CocoDataset):
    assert len(scenes) == 12
    assert [scenes[index].image_id for index in range(12)] == list(range(1, 13))


def test_class_names_are_by_category_id(scenes: CocoDataset):
    assert scenes.class_names == {kind.category_id: kind.name for kind in KINDS}


def test_boxes_lie_in_the_image(scenes: CocoDataset):
    for index in range(len(scenes)):
        example = scenes[index]
        height, width = example.image.shape[:2]
        assert np.all(example.boxes[:, :2] < example.boxes[:, 2:])
        assert np.all(example.boxes >= 0) and np.all(example.boxes <= [width, height, width, height])


def test_polygons_lie_in_their_boxes(scenes: CocoDataset):
    for index in range(len(scenes)):
        example = scenes[index]
        for box, polygons in zip(example.boxes, example.polygons, strict=True):
            points = np.concatenate(polygons)
            assert np.all(points >= box[:2] - 1.5) and np.all(points <= box[2:] + 1.5)


def test_every_image_has_captions(scenes: CocoDataset):
    assert all(scenes[index].captions for index in range(len(scenes)))


def test_people_are_one_object_with_polygons_and_keypoints(scenes: CocoDataset, scenes_root: Path):
    alone = CocoDataset(scenes_root, "train2017", ONLY_DETECTION)
    for index in range(len(scenes)):
        example = scenes[index]
        assert np.array_equal(example.boxes, alone[index].boxes)
        labeled = (example.keypoints[:, :, 2] > 0).any(1)
        assert np.array_equal(labeled, labeled & (example.classes == 1))
        assert all(example.polygons[person] for person in np.flatnonzero(labeled))
    assert sum((scenes[index].keypoints[:, :, 2] > 0).any() for index in range(len(scenes))) >= 3


def test_keypoints_alone_need_no_other_file(scenes_root: Path):
    people = CocoDataset(scenes_root, "train2017", choose_tasks(["keypoint"]))
    assert people.class_names == {1: "person"}
    assert all(np.all(people[index].classes == 1) for index in range(len(people)))


def test_crowds_and_empty_boxes_are_left_out(tmp_path: Path):
    objects = [annotation(1), annotation(2, iscrowd=1), annotation(3, bbox=[5, 5, 0, 4])]
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": objects, "categories": CATEGORIES})
    dataset = CocoDataset(root, "val2017", ONLY_DETECTION)
    assert [entry["id"] for entry in dataset.objects[1]] == [1]


def test_for_an_image_without_objects_the_target_is_the_end_token(tmp_path: Path):
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": [annotation(1)], "categories": CATEGORIES})
    for entry in IMAGES:
        Image.new("RGB", (8, 6)).save(root / "val2017" / entry["file_name"])
    empty = CocoDataset(root, "val2017", ONLY_DETECTION)[1]
    tokenizer = DetectionTokenizer(3000, [1, 3], max_objects=100, end_weight=0.5, noise_weight=1.0)
    sequence = detection_sequence(empty, Geometry.letterbox(8, 6, 64), tokenizer, CFG(), np.random.default_rng(0))
    assert sequence.target.tolist() == [END]


def test_instance_tasks_skip_images_they_cannot_be_trained_on(tmp_path: Path):
    triangle = [[0, 0, 4, 0, 4, 4]]
    objects = [annotation(1), annotation(2, image_id=2, segmentation=triangle)]
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": objects, "categories": CATEGORIES})
    dataset = CocoDataset(root, "val2017", choose_tasks(["detection", "segmentation"]))
    assert dataset.indices_for([SEGMENTATION]) == [1]
    assert dataset.indices_for([DETECTION, SEGMENTATION]) == [0, 1]


def test_crowds_are_in_the_ground_truth_but_not_among_the_objects(tmp_path: Path):
    rle = {"size": [6, 8], "counts": [0, 48]}
    objects = [annotation(1), annotation(2, iscrowd=1, segmentation=rle)]
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": objects, "categories": CATEGORIES})
    dataset = CocoDataset(root, "val2017", ONLY_SEGMENTATION)
    assert dataset.crowds == {1: 1} and len(dataset.objects[1]) == 1
    assert dataset.ground_truth("instances")["annotations"][1]["segmentation"] == rle


def test_an_image_of_crowds_alone_does_not_count_as_empty(tmp_path: Path):
    images = [*IMAGES, {"id": 3, "file_name": "3.jpg"}]
    objects = [annotation(1), annotation(2, image_id=2, iscrowd=1)]
    root = write_split(tmp_path, instances={"images": images, "annotations": objects, "categories": CATEGORIES})
    assert CocoDataset(root, "val2017", ONLY_DETECTION).indices_for([DETECTION]) == [0, 2]


@pytest.mark.parametrize("width", [0, -5, "wide", None])
def test_an_invalid_image_size_counts_as_unknown(tmp_path: Path, width):
    image = {"id": 1, "file_name": "1.jpg", "width": width, "height": 80}
    objects = [annotation(1, bbox=[700, 70, 40, 40])]
    root = write_split(tmp_path, instances={"images": [image], "annotations": objects, "categories": CATEGORIES})
    assert CocoDataset(root, "val2017", ONLY_DETECTION).target(0).boxes.tolist() == [[700, 70, 740, 80]]


def test_several_polygons_and_run_lengths_become_polygons(tmp_path: Path):
    triangle, rle = [0, 0, 4, 0, 4, 4], {"size": [6, 8], "counts": [6, 3, 39]}
    objects = [annotation(1, segmentation=[triangle, triangle]), annotation(2, segmentation=rle), annotation(3)]
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": objects, "categories": CATEGORIES})
    dataset = CocoDataset(root, "val2017", ONLY_SEGMENTATION)
    polygons = dataset.target(0).polygons
    assert [len(shape) for shape in polygons] == [2, 1, 0]
    assert sorted(map(tuple, polygons[1][0].tolist())) == [(1, 0), (1, 3), (2, 0), (2, 3)]


def test_objects_of_one_file_with_the_same_id_are_all_kept(tmp_path: Path):
    objects = [annotation(1), annotation(1, bbox=[5, 5, 1, 1])]
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": objects, "categories": CATEGORIES})
    dataset = CocoDataset(root, "val2017", ONLY_DETECTION)
    assert len(dataset.objects[1]) == 2 and "used twice" in dataset.problems.lines()[0]


def test_detection_cannot_be_trained_on_a_dataset_without_any_object(tmp_path: Path):
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": [], "categories": CATEGORIES})
    assert CocoDataset(root, "val2017", ONLY_DETECTION).indices_for([DETECTION]) == []


@pytest.mark.parametrize("size", [(64, 48), (65, 47)])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_shrunk_image_shows_the_same_under_shrunk_boxes(tmp_path: Path, size: tuple[int, int], shrink: int):
    box, polygon = [16, 8, 32, 24], [16, 8, 48, 8, 48, 32]
    person = annotation(1, bbox=box, segmentation=[polygon], keypoints=[16, 8, 2] + [0] * 48)
    files = {"images": IMAGES[:1], "annotations": [person], "categories": CATEGORIES}
    root = write_split(tmp_path, instances=files, person_keypoints=files)
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[8:32, 16:48] = 255
    Image.fromarray(pixels).save(root / "val2017" / "1.jpg", quality=95)
    example = CocoDataset(root, "val2017", choose_tasks(list(TASKS)[:3])).load(0, shrink)
    x1, y1, x2, y2 = example.boxes[0].astype(int)
    assert example.boxes.tolist() == [[value / shrink for value in (16, 8, 48, 32)]]
    assert example.polygons[0][0].tolist() == (np.reshape(polygon, (3, 2)) / shrink).tolist()
    assert example.keypoints[0, 0].tolist() == [16 / shrink, 8 / shrink, 2]
    assert example.image.shape[:2] == (-(-size[1] // shrink), -(-size[0] // shrink))
    white = example.image.mean(axis=2) > 128
    assert white[y1:y2, x1:x2].all() and white.sum() == (y2 - y1) * (x2 - x1)


def test_other_files_than_jpeg_come_in_full_size(tmp_path: Path):
    files = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [annotation(1)], "categories": CATEGORIES}
    root = write_split(tmp_path, instances=files)
    Image.new("RGB", (64, 48)).save(root / "val2017" / "1.png")
    example = CocoDataset(root, "val2017", ONLY_DETECTION).load(0, 4)
    assert example.image.shape == (48, 64, 3) and example.boxes.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize("entry", [{"id": 1}, {"file_name": "1.jpg"}, 5])
def test_entries_without_required_keys_are_named(tmp_path: Path, entry):
    root = write_split(tmp_path, instances={"images": [*IMAGES, entry], "annotations": []})
    with pytest.raises(UserError, match="entry 2 of `images`"):
        CocoDataset(root, "val2017", ONLY_DETECTION)


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("images", "file_name", 5),
        ("images", "id", {}),
        ("annotations", "image_id", [1]),
        ("annotations", "category_id", {}),
        ("annotations", "id", [1]),
        ("categories", "name", ["person"]),
    ],
)
def test_invalid_names_and_ids_are_named(tmp_path: Path, name: str, key: str, value):
    content = {"images": IMAGES, "annotations": [annotation(1), annotation(2)], "categories": CATEGORIES}
    content[name] = [content[name][0], content[name][1] | {key: value}]
    root = write_split(tmp_path, instances=content)
    with pytest.raises(UserError, match=rf"entry 1 of `{name}` has .* as its {key}"):
        CocoDataset(root, "val2017", ONLY_DETECTION)


def test_a_missing_image_folder_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"--data-root expects .*val2017"):
        CocoDataset(tmp_path, "val2017", ONLY_DETECTION)


def test_a_missing_annotation_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"captions_val2017\.json"):
        CocoDataset(write_split(tmp_path), "val2017", choose_tasks(["captioning"]))


def test_a_missing_image_is_named(tmp_path: Path):
    root = write_split(tmp_path, instances={"images": IMAGES, "annotations": [], "categories": CATEGORIES})
    with pytest.raises(UserError, match=r"1\.jpg"):
        CocoDataset(root, "val2017", ONLY_DETECTION)[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": null, "annotations": []}'])
def test_annotations_in_another_format_are_refused(tmp_path: Path, content: str):
    root = write_split(tmp_path)
    (root / "annotations" / "instances_val2017.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"instances_val2017\.json"):
        CocoDataset(root, "val2017", ONLY_DETECTION)
