"""Data as people bring it: public cases of files that are not what a specification says, each with its right result."""

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.images import read_image
from pix2seq.dataset.plausibility import doubt_about_mirroring
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.training_data import open_training
from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import choose_tasks

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
