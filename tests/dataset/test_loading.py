"""Images decoded at a smaller size or cached: the same samples with any number of loading processes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import cache
from pix2seq.dataset.batches import build_loader
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.sources import open_split
from pix2seq.errors import UserError
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace
from tests.dataset.test_voc import thing, write_voc

SIZE = 64


@pytest.fixture
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path))
    return tmp_path / "cache"


def training_samples(cfg: CFG, augment: bool = True) -> SampleDataset:
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, cfg.data.train_split, tasks)
    labels = LabelSpace(sorted(split.class_names), 17, WordVocabulary.build(split.all_captions(), 1))
    return SampleDataset(split, tasks, Tokenizers.build(tasks, cfg, labels), cfg, augment)


def batches(cfg: CFG, workers: int) -> list[torch.Tensor]:
    """All tensors of an epoch's batches."""
    dataset = training_samples(cfg)
    sampler = EpochSampler(len(dataset), 4, seed=0)
    sampler.set_epoch(1, SIZE)
    loaded = list(build_loader(dataset, sampler, workers))
    parts = [part for batch in loaded for part in (*batch.tasks.values(), batch.objects)]
    return [batch.images for batch in loaded] + [tensor for part in parts for tensor in vars(part).values()]


@pytest.mark.parametrize("task", ["detection", ",".join(TASKS)])
def test_samples_do_not_depend_on_cache_or_processes(tiny_cfg: CFG, cache_folder: Path, task: str):
    cfg = config.replace(tiny_cfg, task=task)
    cached = config.replace(cfg, cache_gb=1.0)
    expected = batches(cfg, 0)
    for found in (batches(cached, 2), batches(cached, 0), batches(cfg, 2)):  # cold, warm, none
        assert len(found) == len(expected) and all(map(torch.equal, found, expected))
    assert len(list(cache_folder.glob("*" + cache.SUFFIX))) == 1


def test_a_warm_cache_opens_no_image(tiny_cfg: CFG, cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = config.replace(tiny_cfg, cache_gb=1.0)
    first = [training_samples(cfg)[0, index, SIZE].canvases for index in range(3)]
    monkeypatch.setattr("pix2seq.dataset.coco.read_reduced", None)
    second = [training_samples(cfg)[0, index, SIZE].canvases for index in range(3)]
    assert all(map(np.array_equal, itertools.chain(*first), itertools.chain(*second)))


def test_whole_images_are_decoded_at_the_size_that_the_canvas_needs(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, task="detection", max_scale=1.15)
    assert set(training_samples(cfg).shrinks) == {4}  # 320 px, at most 73.6 px on the canvas
    assert set(training_samples(config.replace(cfg, max_scale=2.0)).shrinks) == {2}
    assert set(training_samples(config.replace(cfg, image_size=192)).shrinks) == {1}


def test_no_crop_is_magnified_more_than_from_the_full_image(tiny_cfg: CFG):
    dataset = training_samples(config.replace(tiny_cfg, task="keypoint"))
    for index, shrink in enumerate(dataset.shrinks):
        target = dataset.examples.target(index)
        sides = [max(box[2:] - box[:2]) for box in target.boxes[(target.keypoints[:, :, 2] > 0).any(axis=1)]]
        scale = max((SIZE * 1.15 / (side * 1.5) for side in sides), default=SIZE * 1.15 / 320)
        assert shrink == 1 or shrink * scale <= 1
    assert len(set(dataset.shrinks)) > 1


def test_evaluation_decodes_in_full(tiny_cfg: CFG):
    assert set(training_samples(config.replace(tiny_cfg, task="detection"), augment=False).shrinks) == {1}


@pytest.fixture
def damaged_cfg(tiny_cfg: CFG, tmp_path: Path) -> CFG:
    """Eight images with a dog each, of which the last and the third are truncated."""
    names = list("12345678")
    folder = write_voc(tmp_path / "own", {name: thing() for name in names}, {"train": names})
    for name in "38":
        path = folder / "JPEGImages" / f"{name}.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    return config.replace(tiny_cfg, data_root=str(folder), train_split="train", task="detection")


def with_replacements(cfg: CFG, augment: bool = True) -> SampleDataset:
    strict = training_samples(cfg)
    return SampleDataset(strict.examples, strict.tasks, strict.tokenizers, cfg, augment, replace_unreadable=True)


@pytest.mark.parametrize("augment", [True, False])
def test_the_next_image_replaces_a_damaged_one(damaged_cfg: CFG, augment: bool):
    dataset = with_replacements(damaged_cfg, augment)
    dataset.examples.leave_out_unreadable()
    names = [Path(dataset[0, index, SIZE].name).stem for index in range(len(dataset))]
    assert names == list("12445671")
    with pytest.raises(UserError, match=r"3\.jpg cannot be read completely"):
        training_samples(damaged_cfg, augment)[0, 2, SIZE]


def test_a_damaged_image_is_reported_once_by_all_processes(damaged_cfg: CFG, capfd: pytest.CaptureFixture):
    dataset = with_replacements(damaged_cfg)
    for epoch in range(3):
        sampler = EpochSampler(len(dataset), 4, seed=0)
        sampler.set_epoch(epoch, SIZE)
        assert [len(batch.images) for batch in build_loader(dataset, sampler, 1)] == [4, 4]
    lines = [line for line in capfd.readouterr().err.splitlines() if "replaced by another image" in line]
    assert sorted(line.split(".jpg")[0][-1] for line in lines) == ["3", "8"]


def test_training_ends_if_no_image_can_be_read(damaged_cfg: CFG):
    dataset = with_replacements(damaged_cfg)
    for index in range(len(dataset)):
        dataset.examples.path(index).unlink()
    with pytest.raises(UserError, match="no image that can be read"):
        dataset[0, 0, SIZE]


def test_difficult_objects_are_trained_on_if_requested(tiny_cfg: CFG, tmp_path: Path):
    folder = write_voc(tmp_path / "own", {"1": thing() + thing("cat", difficult=1)}, {"train": ["1"]})
    cfg = config.replace(tiny_cfg, data_root=str(folder), train_split="train", task="detection")
    for with_difficult, count in ((False, 1), (True, 2)):
        sample = training_samples(config.replace(cfg, train_difficult=with_difficult), augment=False)[0, 0, SIZE]
        assert {len(sequence.target) for _, sequence in sample.sequences["detection"]} == {5 * count + 1}


def test_validation_images_must_have_the_model_s_keypoints(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, task="keypoint")
    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, "val2017", tasks)
    tokenizers = Tokenizers.build(tasks, cfg, LabelSpace([1], 5, WordVocabulary([])))
    with pytest.raises(UserError, match=r"17 keypoints.*have 5"):
        SampleDataset(split, tasks, tokenizers, cfg, augment=False)
