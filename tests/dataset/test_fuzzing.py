"""Annotation files that differ from good ones at random are read or refused, without traceback, hang or much memory."""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import pack_shards
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.inspection import report
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.shard_format import INDEX
from pix2seq.dataset.training_data import open_training
from pix2seq.evaluate.coco_metrics import open_ground_truth
from pix2seq.tasks import choose_tasks
from tests.dataset.test_tools import SHAPES, cvat, shape, via, via_csv
from tests.hostile import ODD, fuzz, mutated
from tests.test_hostile import bytes_tries, used_text_model

TASKS = ("detection", "detection,segmentation", "detection,keypoint", "captioning", "segmentation,keypoint,captioning")
QUICK_AND_SLOW = pytest.mark.parametrize("count", [20, pytest.param(3000, marks=pytest.mark.slow)])

# One of everything that the format can hold.
POSED = {"id": 4, "image_id": 2, "category_id": 1, "bbox": [2, 2, 20, 20], "keypoints": [5, 5, 2, 9, 9, 1, 0, 0, 0]}
GOOD = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 2, "file_name": "sub/b.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 10], "iscrowd": 0, "area": 200.0},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1.5, 2, 8, 9], "segmentation": [[1, 2, 9, 2, 9, 11]]},
        {"id": 3, "image_id": 1, "category_id": 7, "segmentation": {"size": [30, 40], "counts": [100, 20, 1080]}},
        POSED,
        {"id": 5, "image_id": 2, "category_id": 7, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        {"id": 6, "image_id": 1, "caption": "A cat&#9;on a mat."},
        {"id": 7, "image_id": 2, "caption": "a cat on a mat"},
    ],
    "categories": [
        {
            "id": 1,
            "name": "cat",
            "keypoints": ["nose", "left_ear", "right_ear"],
            "skeleton": [[1, 2]],
            "sigmas": [1, 1, 1],
        },
        {"id": 7, "name": "mat", "supercategory": "thing"},
    ],
}
XML = """<?xml version="1.0" encoding="UTF-8"?>
<annotation><filename>a.png</filename><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30.5</xmax><ymax>20</ymax></bndbox></object>
<object><name>dog &amp; co</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
</object></annotation>"""

LABELS = "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.4 0.1 0.4 0.6 0.1 0.6\n"
YAML = "path: .\ntrain: images\nval: images\nnc: 2\nnames: [cat, dog]\n"
LABELME = {
    "version": "5.4.1",
    "shapes": [
        shape("cat", [[2, 3], [8, 3], [8, 9]], group_id=1),
        shape("cat", [[12, 3], [18, 3], [18, 9]], group_id=1),
        shape("dog", [[5, 2.5], [15, 7.5]], "rectangle"),
        shape("dog", [[10, 5], [13, 9]], "circle"),
        shape("nose", [[3, 3]], "point"),
    ],
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": 30,
    "imageWidth": 40,
}
SKELETON = """<mask label="cat" rle="1,2,3" left="4" top="5" width="3" height="2"/>
<ellipse label="cat" cx="10" cy="5" rx="8" ry="2" rotation="90"/><skeleton label="person">
<points label="right_eye" occluded="1" outside="0" points="9.0,2.0"/><points label="left_eye" points="3,7"/>
</skeleton>"""
CVAT = cvat(SHAPES + SKELETON, ("a.png", "b.png")).replace('width="20" height="10"', 'width="40" height="30"')


def both_happen(counts: Counter[str]) -> None:
    """Some files were used, and some refused."""
    assert counts["refused"] and counts["accepted"]


def used(root: Path, tasks: str, split: str = "train") -> None:
    """All that training, its check and the evaluation read of a dataset."""
    cfg = config.replace(CFG(), data_root=str(root), train_split=split, val_split=split, task=tasks, image_size=32)
    cfg = config.replace(cfg, max_tokens=512)
    chosen = choose_tasks(cfg.tasks)
    training, validation = open_training(cfg, chosen)
    tokenizers = training_tokenizers(training, chosen, cfg)
    for part in (training, validation):
        part.leave_out_unreadable()
    report(training, chosen, tokenizers, cfg)
    samples = SampleDataset(training, chosen, tokenizers, cfg, augment=True, replace_unreadable=True)
    for index in range(len(samples)):
        samples[0, index, cfg.model.image_size]
    for kind, task in (("bbox", "detection"), ("segm", "segmentation"), ("keypoints", "keypoint")):
        if task in chosen:
            json.dumps(open_ground_truth(validation, kind))


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(folder / name)


def json_tries(good: dict, count: int, rng: random.Random) -> Iterator[bytes]:
    """Half with odd values, half with odd bytes."""
    for _ in range(count - count // 2):
        yield json.dumps(mutated(good, rng)).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))
    yield from bytes_tries(json.dumps(good).encode(), count // 2, seed=rng.randrange(99))


def xml_tries(good: str, count: int, rng: random.Random) -> Iterator[bytes]:
    """Half with odd values of attributes, half with odd bytes."""
    values = list(re.finditer(r'(?<=")[^"<>]+(?=")', good))
    for _ in range(count - count // 2):
        place = rng.choice(values)
        odd = str(rng.choice(ODD)).translate(str.maketrans("", "", '"<>&\x00\x1b'))
        yield (good[: place.start()] + odd + good[place.end() :]).encode()
    yield from bytes_tries(good.encode(), count // 2, seed=rng.randrange(99))


@QUICK_AND_SLOW
def test_mutated_json_is_read_or_refused(tmp_path: Path, count: int):
    write_images(tmp_path, "a.png", "sub/b.png")
    rng = random.Random(1)

    def use(content: bytes) -> None:
        (tmp_path / "train.json").write_bytes(content)
        used(tmp_path, rng.choice(TASKS))

    both_happen(fuzz("JSON", json_tries(GOOD, count, rng), use))


@QUICK_AND_SLOW
def test_mutated_xml_is_read_or_refused(tmp_path: Path, count: int):
    write_images(tmp_path / "JPEGImages", "a.png", "b.png")
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "Annotations" / "b.xml").write_text(XML, encoding="utf-8")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n", encoding="utf-8")
    rng = random.Random(2)

    def use(content: bytes) -> None:
        (tmp_path / "Annotations" / "a.xml").write_bytes(content)
        if rng.random() < 0.5:  # the only one, so that it must be read
            (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(rng.choice(("a\n", "a\nb\n")), encoding="utf-8")
        used(tmp_path, "detection")

    both_happen(fuzz("XML", bytes_tries(XML.encode(), count, seed=2), use))


@QUICK_AND_SLOW
def test_mutated_yolo_labels_are_read_or_refused(tmp_path: Path, count: int):
    write_images(tmp_path / "images", "a.png", "b.png")
    (tmp_path / "labels").mkdir()
    good = {"data.yaml": YAML, "labels/a.txt": LABELS, "labels/b.txt": LABELS}
    rng = random.Random(4)

    def use(content: bytes) -> None:
        changed = "data.yaml" if b"names" in content else "labels/a.txt"
        for name, text in good.items():
            (tmp_path / name).write_bytes(content if name == changed else text.encode())
        used(tmp_path, rng.choice(("detection", "detection,segmentation")))

    tries = [*bytes_tries(LABELS.encode(), count - count // 3, 4), *bytes_tries(YAML.encode(), count // 3, 5)]
    both_happen(fuzz("YOLO", iter(tries), use))


@QUICK_AND_SLOW
@pytest.mark.parametrize("tool", ["labelme", "VIA", "VIA's table", "CVAT"])
def test_mutated_files_of_tools_are_read_or_refused(tmp_path: Path, tool: str, count: int):
    write_images(tmp_path, "a.png", "b.png")
    rng = random.Random(6)
    project = {"_via_img_metadata": via(names=("a.png", "b.png")), "_via_settings": {}}
    name, tries = {
        "labelme": ("a.json", json_tries(LABELME, count, rng)),
        "VIA": ("train.json", json_tries(project, count, rng)),
        "VIA's table": ("train.csv", bytes_tries(via_csv(via(names=("a.png", "b.png"))).encode(), count, 7)),
        "CVAT": ("train.xml", xml_tries(CVAT, count, rng)),
    }[tool]
    tasks = TASKS[:2] if tool != "CVAT" else TASKS[:3]

    def use(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        if tool == "labelme":  # one that is good, in most tries
            (tmp_path / "b.json").write_text(json.dumps(LABELME | {"imagePath": "b.png"}), encoding="utf-8")
            if rng.random() < 0.3:
                (tmp_path / "b.json").unlink()
        used(tmp_path, rng.choice(tasks))

    both_happen(fuzz(tool, tries, use))


@QUICK_AND_SLOW
def test_mutated_text_models_are_read_or_refused(tmp_path: Path, text_model_path: Path, count: int):
    def use(content: bytes) -> None:
        (tmp_path / "own.model").write_bytes(content)
        used_text_model(tmp_path / "own.model")

    both_happen(fuzz("SentencePiece", bytes_tries(text_model_path.read_bytes(), count, seed=3), use))


@QUICK_AND_SLOW
def test_mutated_shards_are_read_or_refused(tmp_path: Path, count: int):
    """The index and the members, of which half have checksums that fit what was changed, and the tar file."""
    write_images(tmp_path / "own", "a.png", "sub/b.png")
    (tmp_path / "own" / "train.json").write_text(json.dumps(GOOD), encoding="utf-8")
    folder, rng = tmp_path / "shards", random.Random(8)
    whole = config.replace(CFG(), data_root=str(tmp_path / "own"), output_dir=str(folder), shard_size=1)
    pack_shards.main(config.replace(whole, val_split="train", train_split="train"))
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    index = json.loads(good[INDEX])
    (shard, *_) = index["splits"]["train"]["shards"]
    members, tar = shard["name"] + ".jsonl", shard["name"] + ".tar"

    def tries() -> Iterator[dict[str, bytes]]:
        for content in json_tries(index, count // 3, rng):
            yield {INDEX: content}
        for content in json_tries(json.loads(good[members]), count // 3, rng):
            line = content.decode(errors="replace").replace("\n", " ").encode()
            yield {members: line} | ({INDEX: with_checksum(index, line)} if rng.random() < 0.8 else {})
        for content in bytes_tries(good[tar], count - 2 * (count // 3), 9):
            yield {tar: content[: len(good[tar])].ljust(len(good[tar]), b"\0")}

    def use(changed: dict[str, bytes]) -> None:
        for name, content in (good | changed).items():
            (folder / name).write_bytes(content)
        used(folder, rng.choice(TASKS))

    both_happen(fuzz("shards", tries(), use))


def with_checksum(index: dict, line: bytes) -> bytes:
    """An index whose first shard has the member `line`."""
    changed = json.loads(json.dumps(index))
    about = {"bytes": len(line), "sha256": hashlib.sha256(line).hexdigest()}
    changed["splits"]["train"]["shards"][0]["members"] = about
    return json.dumps(changed).encode()
