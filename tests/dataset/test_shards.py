"""Shards: packed from any layout they are the same dataset, and training reads them shard after shard."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import pack_shards
from pix2seq.dataset.batches import build_loader
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.inspection import read_all
from pix2seq.dataset.mixture import Mixture
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.shard_format import INDEX
from pix2seq.dataset.sources import labeled_tasks, open_split
from pix2seq.dataset.training_data import describe_layouts, open_sources, open_training
from pix2seq.errors import UserError
from pix2seq.evaluate.coco_metrics import open_ground_truth
from pix2seq.evaluate.evaluation import Sizes, evaluate
from pix2seq.evaluate.ground_truth import ground_truth_predictor
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.train.engine import train
from tests.dataset.test_fuzzing import CVAT, GOOD, LABELME, LABELS, YAML, write_images
from tests.dataset.test_mixture import write_coco
from tests.dataset.test_tools import via
from tests.dataset.test_voc import thing, write_voc
from tests.train.test_resume import RANDOM, assert_same, final, resumed, train_until

SIZE = 64
CASES = ROOT.parent / "shared" / "cases"


def packed(root: Path, folder: Path, **values: object) -> Path:
    """The dataset in `root`, packed into `folder`."""
    cfg = config.replace(CFG(), data_root=str(root), output_dir=str(folder), **{"shard_size": 4} | values)
    pack_shards.main(cfg)
    return folder


@pytest.fixture(scope="session")
def shards_root(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic dataset of 12 and 6 images in 3 and 2 shards."""
    return packed(scenes_root, tmp_path_factory.mktemp("packed") / "shards")


def assert_equal_examples(one: Example, other: Example) -> None:
    for field in dataclasses.fields(Example):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "polygons":
            assert [len(parts) for parts in a] == [len(parts) for parts in b]
            assert all(np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
        elif isinstance(a, np.ndarray):
            assert np.array_equal(a, b) and a.dtype == b.dtype, field.name
        else:
            assert a == b, field.name


def assert_same_dataset(folder: ImageDataset, shards: ImageDataset) -> None:
    """All that training and evaluation read of a dataset is that of another one."""
    assert len(folder) == len(shards) > 0
    for name in ("class_names", "category_ids", "skeleton", "skeleton_fault", "unlabeled", "crowds", "names_points"):
        assert getattr(folder, name) == getattr(shards, name), name
    assert folder.has_objects == shards.has_objects and folder.lists_objects == shards.lists_objects
    assert [folder.name_of(n) for n in range(len(folder))] == [shards.name_of(n) for n in range(len(shards))]
    for index in range(len(folder)):
        assert_equal_examples(folder.load(index, 2), shards.load(index, 2))
        assert folder.unlabeled_in(index) == shards.unlabeled_in(index)
    for task in TASKS.values():
        assert folder.indices_for([task]) == shards.indices_for([task])
    own = ("image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints")
    kinds = ["bbox", "segm"] if folder.skeleton_fault else ["bbox", "segm", "keypoints"]
    for kind in kinds:
        truths = [open_ground_truth(dataset, kind)["annotations"] for dataset in (folder, shards)]
        found = [
            sorted(
                as_floats([entry.get(key) for key in own[: 7 if posed(kind) else 6]])
                for entry in truth
                if used(entry, kind)
            )
            for truth in truths
        ]
        assert found[0] == found[1]


def as_floats(values: list) -> str:
    """Values as text that is the same for 1 and 1.0."""
    return str(json.loads(json.dumps(values, default=bytes.decode), parse_int=float))


def posed(kind: str) -> bool:
    return kind == "keypoints"


def used(entry: dict, kind: str) -> bool:
    """Whether an object counts in the evaluation: of keypoints, one that has some."""
    return not posed(kind) or bool(entry.get("num_keypoints"))


def both(root: Path, tmp_path: Path, split: str = "train", **values: object) -> tuple[ImageDataset, ImageDataset]:
    """A split as the folder has it, and as its shards have it."""
    shards, opened = packed(root, tmp_path / "packed", **values), []
    for place in (root, shards):
        cfg = config.replace(CFG(), data_root=str(place), **values)
        tasks = labeled_tasks(cfg, split, TASKS)
        opened.append((open_split(cfg, split, tasks, hold_out=True), set(tasks)))
        opened[-1][0].leave_out_unreadable()
    (folder, labeled), (again, labeled_too) = opened
    assert labeled == labeled_too
    return folder, again


# The same dataset


def yolo(root: Path) -> None:
    write_images(root / "images", "a.png", "b.png", "c.png")
    (root / "labels").mkdir()
    for name, text in (("labels/a.txt", LABELS), ("labels/b.txt", ""), ("labels/c.txt", LABELS), ("data.yaml", YAML)):
        (root / name).write_text(text.replace("val: images\n", ""), encoding="utf-8")


def own_json(root: Path) -> None:
    """Boxes, polygons and run lengths, keypoints, a crowd, captions, an object that cannot be read."""
    write_images(root, "a.png", "sub/b.png", "c.png", "d.png")
    content = json.loads(json.dumps(GOOD))
    more = ("c.png", "d.png")
    content["images"] += [{"id": 3 + n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(more)]
    content["annotations"] += [
        {"id": 8, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 9, "image_id": 3, "category_id": 1, "bbox": [1, 2, 0, 4]},
        {"id": 10, "image_id": 4, "caption": "a \u8349\u5730 &amp; a cat"},
    ]
    for name in ("train", "val"):
        (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def labelme(root: Path) -> None:
    write_images(root, "a.png", "b.png", "c.png")
    for name in "abc":
        (root / f"{name}.json").write_text(json.dumps(LABELME | {"imagePath": f"{name}.png"}), encoding="utf-8")


def via_json(root: Path) -> None:
    write_images(root, "a.png", "b.png", "c.png")
    project = {"_via_img_metadata": via(names=("a.png", "b.png", "c.png")), "_via_settings": {}}
    (root / "project.json").write_text(json.dumps(project), encoding="utf-8")


def cvat_xml(root: Path) -> None:
    write_images(root, "a.png", "b.png")
    (root / "annotations.xml").write_text(CVAT, encoding="utf-8")


def voc(root: Path) -> None:
    """Two classes, of which one object is difficult, and the masks of an image."""
    objects = {"a": thing() + thing("cat", difficult=1), "b": thing("cat"), "c": thing()}
    folder = write_voc(root, objects, {"train": ["a", "b"], "val": ["c"]})
    masks = np.zeros((50, 64), np.uint8)
    masks[10:20, 10:30] = 1
    (folder / "SegmentationObject").mkdir(exist_ok=True)
    Image.fromarray(masks).save(folder / "SegmentationObject" / "b.png")


@pytest.mark.parametrize("write", [yolo, own_json, labelme, via_json, cvat_xml, voc])
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_layout_is_the_same_dataset_in_shards(tmp_path: Path, write: Callable[[Path], None], split: str):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own")
    assert_same_dataset(*both(tmp_path / "own", tmp_path, split, train_split="train", val_split="val"))


def test_coco_s_folders_are_the_same_dataset_in_shards(scenes_root: Path, tmp_path: Path):
    assert_same_dataset(*both(scenes_root, tmp_path, "train2017"))


@pytest.mark.parametrize("case", ["exif_stored_frame", "polygons_without_bbox", "voc_gbk", "captions_chinese"])
def test_what_people_bring_is_the_same_dataset_in_shards(case: str, tmp_path: Path):
    root = CASES / case / "data"
    if not root.is_dir():
        pytest.skip(f"there is no case {root}")
    assert_same_dataset(*both(root, tmp_path, train_split="train", val_split="val"))


def test_half_a_character_is_packed_as_a_question_mark(tmp_path: Path):
    write_images(tmp_path / "own", "a.png", "b.png")
    images = [{"id": number, "file_name": f"{name}.png", "width": 40, "height": 30} for number, name in enumerate("ab")]
    captions = [{"id": number, "image_id": number, "caption": "half: \ud83d"} for number in (0, 1)]
    content = {"images": images, "annotations": captions, "categories": []}
    (tmp_path / "own" / "train.json").write_text(json.dumps(content), encoding="utf-8")
    shards = packed(tmp_path / "own", tmp_path / "packed")
    assert open_split(config.replace(CFG(), data_root=str(shards)), "val", TASKS).all_captions() == ["half: ?"]


def test_what_a_folder_does_not_label_its_shards_do_not_either(tiny_cfg: CFG, tmp_path: Path):
    for split in ("train2017", "val2017"):
        folder = write_coco(tmp_path / "own", [{"id": 3, "name": "cup"}], ["person_keypoints"], split)
    shards = packed(folder, tmp_path / "packed")
    cfg = config.replace(tiny_cfg, data_root=str(shards))
    assert list(labeled_tasks(cfg, "train", TASKS)) == ["keypoint"]
    assert open_split(cfg, "train", choose_tasks(["keypoint"])).unlabeled.classes == (3,)
    with pytest.raises(UserError, match="have no annotations for detection; leave it out of --task"):
        open_split(cfg, "train", choose_tasks(["detection"]))


def test_the_upper_bound_of_shards_is_that_of_the_folder(tiny_cfg: CFG, scenes_root: Path, shards_root: Path):
    metrics = []
    for root in (scenes_root, shards_root):
        cfg = config.replace(tiny_cfg, data_root=str(root))
        tasks = choose_tasks(cfg.tasks)
        split = open_split(cfg, "val2017", tasks)
        found = evaluate(
            ground_truth_predictor(split, tasks, cfg), split, list(tasks), Sizes(cfg.infer.eval_batch_size)
        )
        metrics.append(json.dumps(found.metrics, sort_keys=True))
    assert metrics[0] == metrics[1]


def test_shards_are_packed_alike_and_into_no_folder_with_files(scenes_root: Path, shards_root: Path, tmp_path: Path):
    again = packed(scenes_root, tmp_path / "packed")
    assert (again / INDEX).read_bytes() == (shards_root / INDEX).read_bytes()
    with pytest.raises(UserError, match="--output-dir expects a new or an empty folder"):
        packed(scenes_root, again)


def test_any_reader_of_webdataset_finds_images_with_their_annotations(shards_root: Path):
    with tarfile.open(shards_root / "train-000001.tar", encoding="utf-8") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    keys = [name.partition(".")[0] for name in files]
    assert keys == [f"{number:09d}" for number in range(4, 8) for _ in range(2)]  # the files of a key side by side
    lines = (shards_root / "train-000001.jsonl").read_bytes().splitlines()
    for key, line in zip(keys[::2], lines, strict=True):
        record = json.loads(files[f"{key}.json"])
        assert json.loads(line)["record"] == record
        image = Image.open(io.BytesIO(files[f"{key}.jpg"]))
        assert image.size == (record["image"]["width"], record["image"]["height"])


def test_the_check_describes_shards(shards_root: Path, tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, data_root=str(shards_root))
    training, validation = open_training(cfg, choose_tasks(cfg.tasks))
    lines = describe_layouts(training, validation)
    assert lines[0].startswith(f"train: 12 images of {shards_root}, shards (3 of train, 0.0 GB): 0000000")
    assert len(lines) == 2 and not read_all(training, 2).counts


# The order of an epoch


def drawn(sampler: EpochSampler, epoch: int = 0, seen: int = 0) -> list[int]:
    sampler.set_epoch(epoch, SIZE, seen=seen)
    return [index for batch in sampler for _, index, *_ in batch]


SHARDS = np.random.default_rng(0).permutation(np.arange(600) // 25)  # 24 of 25 images, in any order


@pytest.mark.parametrize("world_size, mixed", [(1, 1), (1, 16), (2, 4), (3, 4), (4, 8)])
def test_every_image_comes_once_an_epoch(world_size: int, mixed: int):
    samplers = [EpochSampler(600, 2, 0, rank, world_size, SHARDS, mixed) for rank in range(world_size)]
    seen = [index for sampler in samplers for index in drawn(sampler)]
    assert sorted(seen) == list(range(600))
    assert drawn(samplers[0]) == drawn(samplers[0]) != drawn(samplers[0], epoch=1)


@pytest.mark.parametrize("mixed", [1, 4, 8])
def test_few_shards_are_needed_at_a_time(mixed: int):
    order = SHARDS[drawn(EpochSampler(600, 2, 0, shards=SHARDS, mixed=mixed))]
    visits = [np.flatnonzero(order == shard) for shard in range(24)]
    assert max(sum(first[0] <= place <= first[-1] for first in visits) for place in range(600)) <= 2 * mixed
    assert sum(np.ptp(places) for places in visits) <= 24 * 25 * (mixed + 1) + 600  # parts of a row are side by side


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_processes_need_shards_that_no_other_one_does(world_size: int):
    samplers = [EpochSampler(600, 1, 0, rank, world_size, SHARDS, 8) for rank in range(world_size)]
    needed = [set(SHARDS[drawn(sampler)]) for sampler in samplers]
    assert sum(map(len, needed)) <= 24 + 8


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_what_was_seen_does_not_depend_on_the_number_of_processes(world_size: int):
    first = EpochSampler(600, 8, 0, shards=SHARDS, mixed=4)
    rest = [EpochSampler(600, 2, 0, rank, world_size, SHARDS, 4) for rank in range(world_size)]
    seen = drawn(first)[:120] + [index for sampler in rest for index in drawn(sampler, seen=120)]
    assert sorted(seen) == list(range(600))


def test_folders_keep_their_order_beside_shards():
    shards = np.concatenate([SHARDS, np.full(100, -1)])
    parts = [(600, 1.5), (100, 2.0)]
    with_shards, without = EpochSampler(parts, 1, 0, shards=shards, mixed=4), EpochSampler(parts, 1, 0)
    one, other = drawn(with_shards), drawn(without)
    assert [n if n >= 600 else -1 for n in one] == [n if n >= 600 else -1 for n in other]
    assert sorted(one) == sorted(other) and one != other
    visited = [shards[n] for n in one if n < 600]
    assert len(set(visited[:60])) < len(set(SHARDS[[n for n in other if n < 600][:60]]))


# Training


def samples_of(cfg: CFG, augment: bool = True) -> SampleDataset:
    tasks = choose_tasks(cfg.tasks)
    examples = open_sources(cfg, tasks)
    return SampleDataset(examples, tasks, training_tokenizers(examples, tasks, cfg), cfg, augment)


def test_two_ranks_with_two_workers_read_every_image_once(tiny_cfg: CFG, shards_root: Path):
    samples = samples_of(config.replace(tiny_cfg, data_root=str(shards_root), task="detection"))
    names = []
    for rank in range(2):
        sampler = EpochSampler(samples.parts, 2, 0, rank, 2, samples.shards, 2)
        sampler.set_epoch(0, SIZE)
        for batch in build_loader(samples, sampler, workers=2):
            names += batch.names
    assert sorted(names) == sorted(samples.examples.name_of(index) for index in range(12))


def test_samples_are_those_of_the_folder(tiny_cfg: CFG, scenes_root: Path, shards_root: Path):
    folder, shards = (samples_of(config.replace(tiny_cfg, data_root=str(root))) for root in (scenes_root, shards_root))
    for index in range(len(folder)):
        one, other = folder[0, index, SIZE], shards[0, index, SIZE]
        assert all(map(np.array_equal, one.canvases, other.canvases)) and one.name == other.name
        for task, pairs in one.sequences.items():
            for (_, a), (_, b) in zip(pairs, other.sequences[task], strict=True):
                assert np.array_equal(a.input, b.input) and np.array_equal(a.target, b.target)


def test_partners_of_an_image_are_in_its_shard(tiny_cfg: CFG, shards_root: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = config.replace(
        tiny_cfg, data_root=str(shards_root), task="detection,segmentation", mosaic=1.0, copy_paste=1.0
    )
    samples, read = samples_of(cfg), []
    load = samples.examples.load
    monkeypatch.setattr(samples.examples, "load", lambda number, shrink: read.append(number) or load(number, shrink))
    for index in range(len(samples)):
        read.clear()
        samples[0, index, SIZE]
        assert len(read) >= 4 and len(set(samples.shards[read])) == 1


def test_the_cache_of_pixels_serves_shards(tiny_cfg: CFG, shards_root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path))
    cfg = config.replace(tiny_cfg, data_root=str(shards_root), task="detection")
    cold = samples_of(config.replace(cfg, cache_gb=1.0))
    first = [cold[0, index, SIZE].canvases[0] for index in range(12)]
    warm = samples_of(config.replace(cfg, cache_gb=1.0))
    monkeypatch.setattr("pix2seq.dataset.shards.read_reduced", None)
    assert all(np.array_equal(warm[0, index, SIZE].canvases[0], first[index]) for index in range(12))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_shards_goes_on_bit_for_bit(
    tiny_model_cfg: CFG, shards_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    values = RANDOM | dict(epochs=2, save_steps=2, workers=workers, shards_mixed=2, log_steps=4)
    cfg = config.replace(tiny_model_cfg, data_root=str(shards_root), **values)
    train(config.replace(cfg, run_dir=str(tmp_path / "whole")))
    train_until(config.replace(cfg, run_dir=str(tmp_path / "run")), 9, monkeypatch)
    train(resumed(tmp_path / "run"))
    assert_same(final(tmp_path / "run"), final(tmp_path / "whole"))


def test_a_folder_and_shards_train_together(
    tiny_cfg: CFG, scenes_root: Path, shards_root: Path, capsys: pytest.CaptureFixture
):
    roots = f"{scenes_root},{shards_root}"
    cfg = config.replace(tiny_cfg, data_root=roots, data_weights="0.5,1.5", task="detection", eval_every=0)
    samples = samples_of(cfg)
    assert isinstance(samples.examples, Mixture) and samples.parts == [(12, 0.5), (12, 1.5)]
    assert set(samples.shards.tolist()) == {-1, 0, 1, 2}
    train(cfg)
    assert "shards" in capsys.readouterr().out


# Damage


@pytest.fixture
def copy(shards_root: Path, tmp_path: Path) -> Path:
    """Shards to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in shards_root.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def opened(folder: Path, **values: object) -> ImageDataset:
    cfg = config.replace(CFG(), data_root=str(folder), **values)
    return open_split(cfg, "train", choose_tasks(cfg.tasks))


def test_a_truncated_shard_is_named_before_training(copy: Path):
    tar = copy / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"train-000001.tar has [\d,]+ bytes and should have [\d,]+: it is damaged"):
        opened(copy)
    tar.unlink()
    with pytest.raises(UserError, match=r"train-000001.tar, which shards.json names, cannot be read \(No such file"):
        opened(copy)


def test_a_damaged_image_is_replaced_and_reported(copy: Path, tiny_cfg: CFG, capsys: pytest.CaptureFixture):
    place = json.loads((copy / "train-000000.jsonl").read_bytes().splitlines()[2])
    content = bytearray((copy / "train-000000.tar").read_bytes())
    content[place["start"] + place["bytes"] // 2] ^= 1
    (copy / "train-000000.tar").write_bytes(content)
    cfg = config.replace(tiny_cfg, data_root=str(copy), task="detection")
    tasks = choose_tasks(cfg.tasks)
    training, _ = open_training(cfg, tasks)
    (line,) = read_all(training, 1).lines()
    assert "1 × image that cannot be read" in line and "is not as it was packed: the shard is damaged" in line
    samples = SampleDataset(training, tasks, training_tokenizers(training, tasks, cfg), cfg, True, True)
    assert len({samples[0, index, SIZE].name for index in range(12)}) == 11
    assert capsys.readouterr().err.count("replaced by another image") == 1


def test_changed_annotations_are_refused(copy: Path):
    members = copy / "train-000000.jsonl"
    members.write_bytes(members.read_bytes().replace(b'"iscrowd":0', b'"iscrowd":1', 1))
    with pytest.raises(UserError, match=r"train-000000.jsonl is not the file that shards.json describes"):
        opened(copy)


def test_a_link_to_elsewhere_is_not_opened(copy: Path, tmp_path: Path):
    for name in ("train-000000.tar", "train-000000.jsonl", INDEX):
        path, elsewhere = copy / name, tmp_path / name
        elsewhere.write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(elsewhere)
        with pytest.raises(UserError, match="is a link to a file outside of its folder"):
            opened(copy)
        if name != INDEX:
            assert len(opened(copy, outside_images=True)) == 12
        path.unlink()
        path.write_bytes(elsewhere.read_bytes())


@pytest.mark.parametrize("name", ["../../etc/passwd-000000", "/etc/x-000000", "a/b-000000", "..", "x\x00-000000", ""])
def test_no_name_in_an_index_leads_out_of_the_folder(copy: Path, name: str):
    index = json.loads((copy / INDEX).read_bytes())
    index["splits"]["train"]["shards"][0]["name"] = name
    (copy / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"shards.json cannot be read: .*name"):
        opened(copy)


def test_the_headers_of_a_tar_file_mean_nothing(copy: Path):
    """Members that are links, devices or paths to elsewhere are never followed: images are bytes at a place."""
    tar = copy / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    for line in (copy / "train-000000.jsonl").read_bytes().splitlines():
        start = json.loads(line)["start"]
        content[start - 512 : start] = tarfile.TarInfo("../../../etc/passwd").tobuf(tarfile.USTAR_FORMAT)
        content[start - 512 + 156] = ord("2")  # a symbolic link
    tar.write_bytes(content)
    assert not read_all(opened(copy), 1).counts


def test_places_outside_of_a_shard_are_refused(copy: Path):
    rewrite_members(copy, lambda lines: [line | {"start": 10**9} for line in lines])
    with pytest.raises(UserError, match="names places outside of its tar file"):
        opened(copy)


def test_another_number_of_images_is_refused(copy: Path):
    rewrite_members(copy, lambda lines: lines[:-1])
    with pytest.raises(UserError, match="names 3 images instead of 4"):
        opened(copy)


def rewrite_members(folder: Path, change: Callable[[list[dict]], list[dict]]) -> None:
    """Change the members of the first training shard, and the index so that it fits."""
    import hashlib

    path = folder / "train-000000.jsonl"
    lines = change([json.loads(line) for line in path.read_bytes().splitlines()])
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    path.write_bytes(content)
    index = json.loads((folder / INDEX).read_bytes())
    about = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    index["splits"]["train"]["shards"][0]["members"] = about
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
