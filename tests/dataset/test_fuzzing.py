"""Annotation files that differ from good ones at random are read or refused, without traceback, hang or much memory."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.inspection import report
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.training_data import open_training
from pix2seq.evaluate.coco_metrics import open_ground_truth
from pix2seq.tasks import choose_tasks
from tests.hostile import fuzz, mutated
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


def json_tries(count: int, rng: random.Random) -> Iterator[bytes]:
    """Half with odd values, half with odd bytes."""
    for _ in range(count - count // 2):
        yield json.dumps(mutated(GOOD, rng)).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))
    yield from bytes_tries(json.dumps(GOOD).encode(), count // 2, seed=rng.randrange(99))


@QUICK_AND_SLOW
def test_mutated_json_is_read_or_refused(tmp_path: Path, count: int):
    write_images(tmp_path, "a.png", "sub/b.png")
    rng = random.Random(1)

    def use(content: bytes) -> None:
        (tmp_path / "train.json").write_bytes(content)
        used(tmp_path, rng.choice(TASKS))

    both_happen(fuzz("JSON", json_tries(count, rng), use))


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
def test_mutated_text_models_are_read_or_refused(tmp_path: Path, text_model_path: Path, count: int):
    def use(content: bytes) -> None:
        (tmp_path / "own.model").write_bytes(content)
        used_text_model(tmp_path / "own.model")

    both_happen(fuzz("SentencePiece", bytes_tries(text_model_path.read_bytes(), count, seed=3), use))
