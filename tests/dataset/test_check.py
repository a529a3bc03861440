"""The check before training: counts, mistakes, sequences that will be cut, and a grid of samples."""

import errno
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import check
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.inspection import histogram, measure, read_all, report
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.sources import open_split
from pix2seq.errors import UserError
from pix2seq.evaluate.sample_grid import TILE_PX, draw_samples
from pix2seq.task import Task
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace
from pix2seq.train.engine import Trainer

ONLY_DETECTION = choose_tasks(["detection"])


def tokenizers_for(split: ImageDataset, tasks: Mapping[str, Task], cfg: CFG) -> Tokenizers:
    """Tokenizers of the split's classes and of every word of its captions."""
    text = WordVocabulary.build(split.all_captions(), 1)
    return Tokenizers.build(tasks, cfg, LabelSpace(sorted(split.class_names), 17, text))


def test_a_histogram_counts_every_value_once():
    lines = histogram(np.array([1, 1, 1, 8, 17]), bins=4)
    assert [int(line.split()[-1]) for line in lines] == [3, 1, 0, 1]
    assert histogram(np.array([5, 5]))[0].split()[:3] == ["5", "to", "5"]


def test_what_will_be_cut_is_counted(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, max_objects=2, max_points=3, max_words=4)
    split = open_split(cfg, "train2017", TASKS)
    tokenizers = tokenizers_for(split, TASKS, cfg)
    examples = [split[index] for index in range(len(split))]
    found = measure(split, TASKS, tokenizers, cfg)
    assert found["detection"].tokens == [5 * len(example.classes) + 1 for example in examples]
    assert found["detection"].cut == sum(len(example.classes) > 2 for example in examples) > 0
    shapes = [shape for example in examples for shape in example.polygons if shape]
    assert found["segmentation"].cut == sum(sum(map(len, shape)) > 3 for shape in shapes) > 0
    assert found["keypoint"].tokens == [34] * sum(int((e.keypoints[:, :, 2] > 0).any(1).sum()) for e in examples)
    assert len(found["captioning"].tokens) == len(split.all_captions()) and found["captioning"].cut > 0


@pytest.mark.parametrize("separators", [1, 2])
def test_separators_count_in_the_lengths_of_masks(tiny_cfg: CFG, separators: int):
    cfg, tasks = config.replace(tiny_cfg, separators=separators), choose_tasks(["segmentation"])
    split = open_split(cfg, "train2017", tasks)
    found = measure(split, tasks, tokenizers_for(split, tasks, cfg), cfg)["segmentation"].tokens
    shapes = [shape for index in range(len(split)) for shape in split.target(index).polygons if shape]
    assert found == [2 * sum(map(len, shape)) + separators * (len(shape) - 1) + 1 for shape in shapes]
    assert any(len(shape) > 1 for shape in shapes)


def test_a_report_has_counts_problems_and_lengths(tiny_cfg: CFG):
    split = open_split(tiny_cfg, "train2017", ONLY_DETECTION)
    split.problems.add("empty box", "annotation 7")
    cfg = config.replace(tiny_cfg, task="detection")
    text = report(split, ONLY_DETECTION, tokenizers_for(split, ONLY_DETECTION, cfg), cfg)
    assert "12 images, 12 classes" in text
    assert "left out or repaired: 1 × empty box (first: annotation 7)" in text
    assert f"{sum(map(len, split.objects.values()))} objects" in text and "none exceeds --max-objects 20" in text


def test_images_are_read_and_measured(tiny_cfg: CFG, tmp_path: Path):
    for number, size in enumerate([(8, 6), (6, 8), (8, 6)]):
        Image.new("RGB", size, "gray").save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    images = [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 6} for n in range(3)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 3, 3]} for n in range(3)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "train.json").write_text(json.dumps(content), encoding="utf-8")
    split = open_split(config.replace(tiny_cfg, data_root=str(tmp_path), train_split="train"), "train", ONLY_DETECTION)
    problems = read_all(split, workers=2)
    assert sorted(problems.counts.values()) == [1, 1]
    assert any("2.png" in where for where in problems.first.values())
    assert any("1.png: 6 × 8" in where for where in problems.first.values())


def test_the_grid_shows_the_content_of_the_sequences(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, task="detection", color_jitter=0.0, flip=0.0)
    split = open_split(cfg, "train2017", ONLY_DETECTION)
    samples = SampleDataset(split, ONLY_DETECTION, tokenizers_for(split, ONLY_DETECTION, cfg), cfg, augment=True)
    grid = draw_samples(samples, split.class_names, 3)
    split.objects = {number: [] for number in split.objects}
    without = draw_samples(samples, split.class_names, 3)
    assert grid.shape == without.shape and grid.shape[1] == 4 * (TILE_PX + 4)
    for tile in range(3):
        part = slice(tile * (TILE_PX + 4), (tile + 1) * (TILE_PX + 4))
        assert (grid[:TILE_PX, part] != without[:TILE_PX, part]).any()
    assert (grid[:, 3 * (TILE_PX + 4) :] == 255).all()


def damage(split: ImageDataset, indices: Iterable[int], folder: Path) -> None:
    """Truncate the files of these images of `split` to half their size, in `folder`."""
    for index in indices:
        whole = split.path(index).read_bytes()
        (folder / f"{index}.jpg").write_bytes(whole[: len(whole) // 2])
        split.images[index] = split.images[index] | {"file_name": str(folder / f"{index}.jpg")}


def test_the_grid_shows_others_for_damaged_images(tiny_cfg: CFG, tmp_path: Path):
    cfg = config.replace(tiny_cfg, task="detection")
    split = open_split(cfg, "train2017", ONLY_DETECTION)
    tokenizers = tokenizers_for(split, ONLY_DETECTION, cfg)
    samples = SampleDataset(split, ONLY_DETECTION, tokenizers, cfg, augment=True, replace_unreadable=True)
    damage(split, [0, 11], tmp_path)
    grid = draw_samples(samples, split.class_names, 2)  # the first and the last image: image 1 replaces both
    assert (grid[:, :TILE_PX] != 255).any() and (grid[:, TILE_PX + 4 :] == 255).all()
    damage(split, range(1, 11), tmp_path)
    with pytest.raises(UserError, match="no image that can be read"):
        draw_samples(samples, split.class_names, 2)


def test_training_names_the_split_of_each_report(tiny_cfg: CFG, capsys: pytest.CaptureFixture):
    Trainer(config.replace(tiny_cfg, task="detection"))
    lines = capsys.readouterr().out.splitlines()
    after = [lines[lines.index(name) + 1] for name in ("training", "validation")]
    assert ["train2017: 12 images" in after[0], "val2017: 6 images" in after[1]] == [True, True]


def test_the_script_needs_no_vocab_size(tiny_cfg: CFG, tmp_path: Path):
    check.main(config.replace(tiny_cfg, vocab_size=3000, output_dir=str(tmp_path)))
    assert (tmp_path / "samples.png").is_file()


def test_a_folder_that_cannot_be_written_to_is_refused_before_images_are_read(tiny_cfg: CFG, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written to .*--output-dir"):
        check.main(config.replace(tiny_cfg, output_dir=str(tmp_path / "file"), data_root="/no/such/folder"))


def test_the_script_checks_all_tasks_and_writes_the_grid(tiny_cfg: CFG, tmp_path: Path, capsys: pytest.CaptureFixture):
    check.main(config.replace(tiny_cfg, output_dir=str(tmp_path / "check")))
    printed = capsys.readouterr().out
    assert all(f"\n{task}: " in printed for task in TASKS)
    assert "every image can be read" in printed
    with Image.open(tmp_path / "check" / "samples.png") as image:
        assert image.width == 4 * (TILE_PX + 4)


def test_a_full_disk_is_a_sentence_and_leaves_no_torn_grid(
    tiny_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(path: Path, _: np.ndarray) -> None:
        path.write_bytes(b"torn")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pix2seq.infer.overlay.save_png", refused)
    with pytest.raises(UserError, match=r"--output-dir .* cannot be written to \(No space left on device\)"):
        check.main(config.replace(tiny_cfg, task="detection", output_dir=str(tmp_path), workers=0))
    assert not list(tmp_path.iterdir())
