"""The look before training: what there is, what is wrong, what will be cut, and what is taught."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG, TASKS
from pix2seq.dataset import check
from pix2seq.dataset.check import histogram, measure, read_all, report
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.sample_grid import TILE_PX, draw_sheet
from pix2seq.dataset.samples import SequenceDataset
from pix2seq.dataset.sources import open_split
from pix2seq.errors import UserError
from pix2seq.tokenizers.build import build_tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.train.engine import Trainer


def test_a_histogram_counts_every_value_once():
    lines = histogram(np.array([1, 1, 1, 8, 17]), bins=4)
    assert [int(line.split()[-1]) for line in lines] == [3, 1, 0, 1]
    assert histogram(np.array([5, 5]))[0].split()[:3] == ["5", "to", "5"]


def test_what_will_be_cut_is_counted(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, max_objects=2, max_points=3, max_words=4)
    split = open_split(cfg, "train2017", TASKS)
    tokenizers = build_tokenizers(cfg, sorted(split.class_names), WordVocabulary.build(split.all_captions(), 1))
    examples = [split[index] for index in range(len(split))]
    found = measure(split, tokenizers, cfg)
    assert found["detection"].tokens == [5 * len(example.classes) + 1 for example in examples]
    assert found["detection"].cut == sum(len(example.classes) > 2 for example in examples) > 0
    shapes = [shape for example in examples for shape in example.polygons if shape]
    assert found["segmentation"].cut == sum(sum(map(len, shape)) > 3 for shape in shapes) > 0
    assert found["keypoint"].tokens == [34] * sum(int((e.keypoints[:, :, 2] > 0).any(1).sum()) for e in examples)
    assert len(found["captioning"].tokens) == len(split.all_captions()) and found["captioning"].cut > 0


def test_a_report_has_counts_problems_and_lengths(tiny_cfg: CFG):
    split = open_split(tiny_cfg, "train2017", ["detection"])
    split.problems.add("empty box", "annotation 7")
    cfg = config.replace(tiny_cfg, task="detection")
    text = report(split, build_tokenizers(cfg, sorted(split.class_names), WordVocabulary([])), cfg)
    assert "12 images, 12 classes" in text
    assert "left out or mended: 1 × empty box (first: annotation 7)" in text
    assert f"{sum(map(len, split.objects.values()))} objects" in text and "none exceeds --max-objects 20" in text


def test_images_are_read_and_measured(tiny_cfg: CFG, tmp_path: Path):
    for number, size in enumerate([(8, 6), (6, 8), (8, 6)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    images = [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 6} for n in range(3)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 3, 3]} for n in range(3)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "train.json").write_text(json.dumps(content), encoding="utf-8")
    split = open_split(config.replace(tiny_cfg, data_root=str(tmp_path), train_split="train"), "train", ["detection"])
    problems = read_all(split, workers=2)
    assert sorted(problems.counts.values()) == [1, 1]
    assert any("2.png" in where for where in problems.first.values())
    assert any("1.png: 6 × 8" in where for where in problems.first.values())


def test_the_sheet_shows_what_the_sequences_say(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, task="detection", color_jitter=0.0, flip=0.0)
    split = open_split(cfg, "train2017", cfg.tasks)
    taught = SequenceDataset(split, build_tokenizers(cfg, sorted(split.class_names), WordVocabulary([])), cfg, True)
    sheet = draw_sheet(taught, split.class_names, 3)
    split.objects = {number: [] for number in split.objects}
    without = draw_sheet(taught, split.class_names, 3)
    assert sheet.shape == without.shape and sheet.shape[1] == 4 * (TILE_PX + 4)
    for tile in range(3):
        part = slice(tile * (TILE_PX + 4), (tile + 1) * (TILE_PX + 4))
        assert (sheet[:TILE_PX, part] != without[:TILE_PX, part]).any()
    assert (sheet[:, 3 * (TILE_PX + 4) :] == 255).all()


def damage(split: ImageDataset, indices: Iterable[int], folder: Path) -> None:
    """Let `split` find half of each of these images' files."""
    for index in indices:
        whole = split.path(index).read_bytes()
        (folder / f"{index}.jpg").write_bytes(whole[: len(whole) // 2])
        split.images[index] = split.images[index] | {"file_name": str(folder / f"{index}.jpg")}


def test_the_sheet_shows_others_for_damaged_images(tiny_cfg: CFG, tmp_path: Path):
    cfg = config.replace(tiny_cfg, task="detection")
    split = open_split(cfg, "train2017", cfg.tasks)
    tokenizers = build_tokenizers(cfg, sorted(split.class_names), WordVocabulary([]))
    taught = SequenceDataset(split, tokenizers, cfg, augment=True, stand_ins=True)
    damage(split, [0, 11], tmp_path)
    sheet = draw_sheet(taught, split.class_names, 2)  # the first and the last image: 1 stands in for both
    assert (sheet[:, :TILE_PX] != 255).any() and (sheet[:, TILE_PX + 4 :] == 255).all()
    damage(split, range(1, 11), tmp_path)
    with pytest.raises(UserError, match="no image that can be read"):
        draw_sheet(taught, split.class_names, 2)


def test_training_tells_whose_report_it_prints(tiny_cfg: CFG, capsys: pytest.CaptureFixture):
    Trainer(config.replace(tiny_cfg, task="detection"))
    lines = capsys.readouterr().out.splitlines()
    after = [lines[lines.index(name) + 1] for name in ("training", "validation")]
    assert ["train2017: 12 images" in after[0], "val2017: 6 images" in after[1]] == [True, True]


def test_the_script_needs_no_room_for_words_to_be_named(tiny_cfg: CFG, tmp_path: Path):
    check.main(config.replace(tiny_cfg, vocab_size=3000, output_dir=str(tmp_path)))
    assert (tmp_path / "taught.png").is_file()


def test_a_folder_that_cannot_be_written_to_is_refused_before_images_are_read(tiny_cfg: CFG, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written to .*--output-dir"):
        check.main(config.replace(tiny_cfg, output_dir=str(tmp_path / "file"), data_root="/no/such/folder"))


def test_the_script_checks_all_tasks_and_writes_the_sheet(tiny_cfg: CFG, tmp_path: Path, capsys: pytest.CaptureFixture):
    check.main(config.replace(tiny_cfg, output_dir=str(tmp_path / "check")))
    said = capsys.readouterr().out
    assert all(f"\n{task}: " in said for task in TASKS)
    assert "every image can be read" in said
    with Image.open(tmp_path / "check" / "taught.png") as image:
        assert image.width == 4 * (TILE_PX + 4)
