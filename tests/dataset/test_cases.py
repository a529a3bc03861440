"""Data as people bring it: public cases of files that are not what a specification says, each with its right result."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.frames import AS_STORED
from pix2seq.dataset.images import read_image
from pix2seq.dataset.inspection import report
from pix2seq.dataset.plausibility import doubt_about_mirroring
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.sources import open_split
from pix2seq.dataset.training_data import open_training
from pix2seq.errors import PartlyFailed, UserError
from pix2seq.evaluate.evaluation import Sizes, evaluate
from pix2seq.evaluate.ground_truth import ground_truth_predictor
from pix2seq.infer.run import run
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, save_weights
from pix2seq.runtime.console import print_anything
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import choose_tasks
from pix2seq.train.engine import Trainer, train

CASES = ROOT.parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"there are no cases in {CASES}")


def settings(case: str, tasks: str = "detection") -> CFG:
    root = str(CASES / case / "data")
    return config.replace(CFG(), data_root=root, train_split="train", val_split="val", task=tasks, image_size=96)


def samples(case: str, tasks: str = "detection", **values: float) -> SampleDataset:
    """The training samples of a case, after all that a training run checks."""
    cfg = config.replace(settings(case, tasks), **values)
    chosen = choose_tasks(cfg.tasks)
    training, validation = open_training(cfg, chosen)
    tokenizers = training_tokenizers(training, chosen, cfg)
    for split in (training, validation):
        split.leave_out_unreadable()
    return SampleDataset(training, chosen, tokenizers, cfg, augment=True)


def objects(dataset: ImageDataset) -> list[dict]:
    return [entry for entries in dataset.objects.values() for entry in entries]


@pytest.mark.parametrize(
    "case, tasks, count",
    [
        ("backslash_names", "detection", 13),
        ("bom_json", "detection", 13),
        ("exif_stored_frame", "detection", 13),
        ("output_cp1252", "detection", 13),
        ("skeleton_out_of_range", "detection,keypoint", 13),
        ("string_image_id", "detection", 13),
        ("voc_gbk", "detection", 13),
        ("voc_list_with_jpg", "detection", 13),
        ("voc_swapped_corners", "detection", 13),
        ("polygons_without_bbox", "detection,segmentation", 6),
    ],
)
def test_every_object_is_read(case: str, tasks: str, count: int):
    dataset = samples(case, tasks).examples
    assert (len(dataset), len(objects(dataset))) == (6, count)
    assert all(dataset[index].image.ndim == 3 for index in range(6))
    assert bool(dataset.problems.counts) == (case not in ("bom_json", "output_cp1252", "voc_gbk"))


@pytest.mark.parametrize("case", ["flat_polygons", "polygons_without_bbox"])
def test_masks_are_read(case: str):
    dataset = samples(case, "detection,segmentation").examples
    masks = [entry for entry in objects(dataset) if entry.get("segmentation")]
    assert len(masks) == 6
    for index in range(len(dataset)):
        target = dataset.target(index)
        for box, polygons in zip(target.boxes, target.polygons, strict=True):
            if polygons:
                points = np.concatenate(polygons)
                assert np.abs([*points.min(0), *points.max(0)] - box).max() < 2


def test_boxes_lie_in_the_stored_frame():
    dataset = samples("exif_stored_frame").examples
    for index, entry in enumerate(dataset.images):
        assert entry["as_stored"] and dataset[index].image.shape[:2] == (entry["height"], entry["width"])
    assert not any("beyond" in line or "outside" in line for line in dataset.problems.lines())


@pytest.mark.parametrize(
    "case, tasks, cause",
    [
        ("boxes_normalised", "detection", "all 13 boxes .* fractions"),
        ("merged_files_same_ids", "detection", "image id of several files"),
        ("two_keypoint_lists", "detection,keypoint", "train them one at a time with --classes"),
    ],
)
def test_what_cannot_be_known_is_refused_with_its_cause(case: str, tasks: str, cause: str):
    with pytest.raises(UserError, match=cause):
        samples(case, tasks)


def test_a_category_without_annotations_is_no_rival():
    assert list(samples("roboflow_root_same_name").examples.class_names.values()) == ["person"]


def test_keypoints_without_sides_are_doubtful():
    cfg = settings("points_without_sides", "detection,keypoint")
    tasks = choose_tasks(cfg.tasks)
    training, _ = open_training(cfg, tasks)
    assert "flip_pairs" in doubt_about_mirroring(training, tasks, cfg)


@pytest.mark.parametrize("case", ["captions_chinese", "captions_multi_line"])
def test_captions_have_words(case: str):
    text = samples(case, "captioning").tokenizers.labels.text
    assert len(text) > 5 and not any(len(word.split()) != 1 or "&#" in word for word in text.words)


def test_12_bits_fill_8():
    assert read_image(CASES / "grey_12_in_16_bit" / "data" / "grey12in16.png").max() > 200


def test_keypoints_that_no_task_needs_refuse_nothing():
    assert len(objects(samples("two_keypoint_lists").examples)) == 13


def test_a_report_is_printed_in_any_encoding(monkeypatch: pytest.MonkeyPatch):
    dataset = samples("output_cp1252")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True))
    print_anything()
    print(report(dataset.examples, dataset.tasks, dataset.tokenizers, dataset.cfg), "█ 图片")
    assert sys.stdout.buffer.getvalue().decode("cp1252").rstrip().endswith("? ??")


def test_resumed_classes_keep_their_ids(tiny_model_cfg: CFG, tmp_path: Path):
    values = dict(run_dir=str(tmp_path / "run"), train_split="train", val_split="val", task="detection")
    first, second = (
        config.replace(tiny_model_cfg, data_root=str(CASES / "resume_classes_renumbered" / name), **values)
        for name in ("data_1", "data_2")
    )
    train(config.replace(first, steps_per_epoch=1))
    with pytest.raises(UserError, match="classes of the data are not those of the run"):
        Trainer(config.replace(second, steps_per_epoch=1, epochs=2, resume=True))


@pytest.fixture(scope="module")
def detector(tiny_model: Pix2Seq, tiny_model_cfg: CFG, tmp_path_factory: pytest.TempPathFactory) -> CFG:
    """Settings of inference with the weights of a random model, which finds objects anywhere."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, Weights(tiny_model, tiny_model_cfg, {1: "person", 18: "dog"}, {"words": ["<unk>", "a"]}))
    return config.replace(CFG(), weights=str(path), task="detection", score_threshold=0.0, device="cpu")


def test_one_damaged_image_does_not_take_the_others_with_it(detector: CFG, tmp_path: Path):
    images = str(CASES / "infer_one_damaged" / "data")
    with pytest.raises(PartlyFailed, match=r"1 of 3 images could not be used: .*a1\.jpg"):
        run(config.replace(detector, image=(images,), output_dir=str(tmp_path)))
    assert [path.parent.name for path in sorted(tmp_path.glob("*/result.json"))] == ["a0", "a2"]


def test_boxes_lie_inside_images_of_one_pixel(detector: CFG, tmp_path: Path):
    run(config.replace(detector, image=(str(CASES / "one_pixel_strips" / "data"),), output_dir=str(tmp_path)))
    assert sorted(path.parent.name for path in tmp_path.glob("*/result.json")) == ["dot", "strip", "tall"]
    for path in sorted(tmp_path.glob("*/result.json")):
        height, width = read_image(CASES / "one_pixel_strips" / "data" / f"{path.parent.name}.png").shape[:2]
        for entry in json.loads(path.read_text(encoding="utf-8")):
            x, y, w, h = entry["bbox"]
            assert 0 <= x <= x + w <= width + 1e-3 and 0 <= y <= y + h <= height + 1e-3


def test_the_upper_bound_of_stored_frames_is_that_of_upright_ones():
    cfg = settings("exif_stored_frame")
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, "val", tasks)
    metrics = evaluate(ground_truth_predictor(split, tasks, cfg), split, list(tasks), Sizes(4)).metrics
    assert split.problems.counts == {AS_STORED: len(split)}
    assert metrics["detection"]["AP"] > 0.9
