"""Several datasets as one: names, ids, what each source labels, and what is never taught."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import check
from pix2seq.dataset.batches import ObjectBatch, collate
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.inspection import mixture_table, report
from pix2seq.dataset.mixture import Mixture
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.skeleton import COCO_PERSON
from pix2seq.dataset.sources import open_split
from pix2seq.dataset.training_data import describe_layouts, open_sources, open_training
from pix2seq.errors import UserError
from pix2seq.evaluate.run import evaluate_weights
from pix2seq.models.auxiliary_head import AuxiliaryHead
from pix2seq.models.weights import load_weights
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.token_ids import END, FAKE, INVISIBLE
from pix2seq.train.auxiliary_loss import auxiliary_loss
from pix2seq.train.engine import train

SIZE = 64
ONLY_DETECTION = choose_tasks(["detection"])
LEGS = range(11, 17)
CLASSES = "airplane,person,stop sign"  # of which scenes label all, VOC two


def write_coco(root: Path, categories: Sequence[dict], files: Sequence[str], split: str = "train2017", **entry) -> Path:
    """Two images of 40 × 30 pixels with an object of each category, in COCO's layout: the annotation `files` alone."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number in (1, 2):
        Image.new("RGB", (40, 30), (20 * number, 90, 40)).save(root / split / f"{number}.jpg")
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30} for number in (1, 2)]
    objects = [
        {"image_id": image["id"], "category_id": category["id"], "bbox": [2 + 5 * place, 3, 12, 20]} | entry
        for image in images
        for place, category in enumerate(categories)
    ]
    captions = [{"image_id": number, "caption": f"a {root.name} near a wall"} for number in (1, 2)]
    for file in files:
        found = captions if file == "captions" else objects
        content = {"images": images, "categories": [] if file == "captions" else list(categories)}
        content["annotations"] = [entry | {"id": number} for number, entry in enumerate(found, 1)]
        (root / "annotations" / f"{file}_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def write_voc(root: Path, names: Sequence[str], sets: Sequence[str] = ("train", "val")) -> Path:
    """Two images of 40 × 30 pixels with an object of each name, in Pascal VOC's layout."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    box = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
    for name in ("1", "2"):
        Image.new("RGB", (40, 30), "blue").save(root / "JPEGImages" / f"{name}.jpg")
        size = "<size><width>40</width><height>30</height></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>", encoding="utf-8")
    for name in sets:
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("1\n2\n", encoding="utf-8")
    return root


def legs(number: int = 17) -> list[float]:
    """Keypoints of a person whose legs alone are labeled."""
    return [value for point in range(number) for value in ((5 + point, 9, 2) if point in LEGS else (0, 0, 0))]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Persons with keypoints of their legs, no other annotations; no validation split."""
    person = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names)}
    return write_coco(tmp_path / "people", [person], ["person_keypoints"], keypoints=legs())


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "voc", ["aeroplane", "sofa", "person"])


@pytest.fixture
def mixed(tiny_cfg: CFG, scenes_root: Path, voc: Path, people: Path) -> CFG:
    """Settings of a mixture of scenes with all annotations, a VOC folder and the people."""
    return config.replace(tiny_cfg, data_root=f"{scenes_root},{voc},{people}")


def roots(cfg: CFG, *folders: Path, **values) -> CFG:
    return config.replace(cfg, data_root=",".join(map(str, folders)), **values)


def samples_of(cfg: CFG, augment: bool = True) -> SampleDataset:
    tasks = choose_tasks(cfg.tasks)
    training = open_sources(cfg, tasks)
    return SampleDataset(training, tasks, training_tokenizers(training, tasks, cfg), cfg, augment)


# Names and ids


def test_classes_are_matched_by_name_and_new_ones_get_free_ids(tiny_cfg: CFG, tmp_path: Path):
    coco = write_coco(tmp_path / "a", [{"id": 2, "name": "airplane"}, {"id": 7, "name": "couch"}], ["instances"])
    voc = write_voc(tmp_path / "b", ["sofa", "zebra", "aeroplane"])
    mixture = open_sources(roots(tiny_cfg, coco, voc), ONLY_DETECTION)
    assert mixture.class_names == {2: "airplane", 7: "couch", 1: "zebra"}
    assert mixture.category_ids == {2: 2, 7: 7, 1: 3}
    assert sorted(mixture.target(2).classes.tolist()) == [1, 2, 7]
    assert mixture.target(2).unlabeled.classes == () and mixture.target(0).unlabeled.classes == (1,)
    voc_names = [entry["name"] for entry in mixture.sources[1].dataset.ground_truth("instances")["categories"]]
    assert "sofa" in voc_names and "couch" not in voc_names


def test_results_never_use_a_category_id_twice(tiny_cfg: CFG, tmp_path: Path):
    first = write_coco(tmp_path / "a", [{"id": 0, "name": "cup"}, {"id": 9, "name": "ring"}], ["instances"])
    second = write_coco(tmp_path / "b", [{"id": 9, "name": "hand"}, {"id": 0, "name": "ring"}], ["instances"])
    mixture = open_sources(roots(tiny_cfg, first, second), ONLY_DETECTION)
    assert mixture.class_names == {1: "cup", 2: "ring", 3: "hand"}
    assert len(set(mixture.category_ids.values())) == 3 and mixture.category_ids[2] == 9


def test_classes_are_chosen_in_either_spelling(mixed: CFG):
    for names in ("aeroplane,person", "airplane,person"):
        mixture = open_sources(config.replace(mixed, classes=names), ONLY_DETECTION)
        assert set(mixture.class_names.values()) == {"airplane", "person"}
    with pytest.raises(UserError, match="'zebra', which is not among"):
        open_sources(config.replace(mixed, classes="person,zebra"), ONLY_DETECTION)


def test_coco_s_names_evaluate_a_voc_folder(tiny_cfg: CFG, voc: Path):
    split = open_split(roots(tiny_cfg, voc), "val", ONLY_DETECTION, {1: "person", 5: "airplane", 63: "couch"})
    assert split[0].classes.tolist() == [5, 63, 1]
    assert not any("model does not have" in line for line in split.problems.lines())


def test_equal_image_ids_of_two_sources_are_two_images(tiny_cfg: CFG, tmp_path: Path):
    first = write_coco(tmp_path / "a", [{"id": 1, "name": "cup"}], ["instances"])
    second = write_coco(tmp_path / "b", [{"id": 1, "name": "ring"}], ["instances"])
    mixture = open_sources(roots(tiny_cfg, first, second), ONLY_DETECTION)
    assert [mixture.target(index).image_id for index in range(4)] == [1, 2, 1, 2]
    assert [mixture.class_names[int(mixture.target(i).classes[0])] for i in range(4)] == ["cup", "cup", "ring", "ring"]
    assert mixture.path(2) == second / "train2017" / "1.jpg" and mixture.name_of(2) == "b/1.jpg"


def test_keypoints_are_matched_by_name(tiny_cfg: CFG, tmp_path: Path, people: Path):
    points = ["Nose", "left_knee", "right_knee", "tail"]
    cat = {"id": 17, "name": "cat", "keypoints": points, "skeleton": [[1, 4], [2, 3]]}
    flat = [1, 2, 2, 3, 4, 2, 5, 6, 2, 7, 8, 2]
    cats = write_coco(tmp_path / "cats", [cat], ["person_keypoints"], keypoints=flat)
    mixture = open_sources(roots(tiny_cfg, people, cats), choose_tasks(["keypoint"]))
    skeleton = mixture.skeleton
    assert skeleton.names == (*COCO_PERSON.names, "tail") and skeleton.class_ids == (1, 2)
    assert skeleton.flip == (*COCO_PERSON.flip, 17) and len(skeleton.sigmas) == 18 and skeleton.sigmas[0] == 0.026
    assert set(skeleton.bones) == {(0, 17), (13, 14)}
    found = mixture.target(2).keypoints[0]
    assert found[[0, 13, 14, 17]].tolist() == [[1, 2, 2], [3, 4, 2], [5, 6, 2], [7, 8, 2]]
    assert mixture.target(2).unlabeled.points == tuple(set(range(17)) - {0, 13, 14})
    model_s = open_split(
        roots(tiny_cfg, cats), "train2017", choose_tasks(["keypoint"]), mixture.class_names, skeleton=skeleton
    )
    (first, _) = model_s.ground_truth("person_keypoints", keypoints=True)["annotations"]
    assert len(first["keypoints"]) == 3 * 18 and first["num_keypoints"] == 4


# What is not labeled is not taught


def test_a_source_of_keypoints_alone_gives_no_detection(mixed: CFG):
    samples = samples_of(mixed)
    mixture = samples.examples
    assert mixture.sources[2].dataset.unlabeled.files == {"instances", "captions"}
    assert set(samples[0, len(samples) - 1, SIZE].sequences) == {"keypoint"}
    assert set(samples[0, 12, SIZE].sequences) == {"detection"}
    assert mixture.indices_for([TASKS["detection"]]) == list(range(14))


def test_the_end_of_a_partly_labeled_image_weighs_nothing(mixed: CFG):
    samples = samples_of(config.replace(mixed, task="detection", classes=CLASSES))
    weights = {}
    for index in (0, 12):
        ((_, sequence), *_) = samples[0, index, SIZE].sequences["detection"]
        assert sequence.target[-1] == END and (sequence.weight[:-1] == 1).all()
        weights[index] = float(sequence.weight[-1])
    assert weights == {0: mixed.train.end_weight, 12: 0}


def test_noise_of_a_partly_labeled_image_weighs_nothing(mixed: CFG):
    cfg = config.replace(mixed, task="detection", noise_objects=True, full_detection=True, classes=CLASSES)
    samples = samples_of(cfg)
    for index, expected in ((0, cfg.train.noise_weight), (12, 0)):
        ((_, sequence), *_) = samples[0, index, SIZE].sequences["detection"]
        assert set(sequence.weight[sequence.target == FAKE].tolist()) == {expected}
        assert (sequence.weight == 1).sum() >= 5


def test_unlabeled_keypoints_have_no_loss(tiny_cfg: CFG, people: Path):
    cfg = roots(tiny_cfg, people, task="keypoint", crop_flip=1.0)  # one source alone, mirrored
    samples = samples_of(cfg)
    ((_, sequence),) = samples[0, 0, SIZE].sequences["keypoint"]
    weight = sequence.weight[-34:].reshape(17, 2)
    assert (weight[:11] == 0).all() and (weight[list(LEGS)] > 0).all()
    assert (sequence.target[-34:].reshape(17, 2)[:11] == INVISIBLE).all()
    text = report(samples.examples, samples.tasks, samples.tokenizers, cfg)
    assert "never labeled, so not learned here: nose, left_eye" in text


def head_gradient(unlabeled: list[int], covered: bool = False) -> torch.Tensor:
    """The gradient on the classes' biases (C,) of one canvas with one object, or with none."""
    torch.manual_seed(0)
    head = AuxiliaryHead(width=8, num_classes=5, num_points=2)
    box = [[0.0, 0.0, 1.0, 1.0]] if covered else [[0.0, 0.0, 0.0, 0.0]]
    parts = torch.tensor([box]), torch.tensor([[2 if covered else 0]]), torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2)
    auxiliary_loss(head, torch.randn(1, 4, 8), ObjectBatch(*parts, torch.tensor([unlabeled]))).backward()
    return head.classify.bias.grad


def test_background_does_not_push_unlabeled_classes_down():
    gradient = head_gradient([3, 4])
    assert (gradient[[0, 3, 4]] < 0).all() and (gradient[[1, 2]] > 0).all()
    assert (head_gradient([0])[1:] > 0).all()


def test_background_of_an_image_without_labeled_classes_teaches_no_class():
    assert head_gradient([1, 2, 3, 4]).abs().max() < 1e-6
    assert head_gradient([1, 2, 3, 4], covered=True)[2] < 0


def test_batches_hold_what_each_canvas_leaves_open(mixed: CFG):
    samples = samples_of(mixed)
    batch = collate([samples[0, index, SIZE] for index in (0, 12, 14)])
    known = sorted(samples.examples.class_names)
    rows = [sorted(set(row.tolist()) - {0}) for row in batch.objects.unlabeled]
    scenes, voc = (sorted(set(known) - set(source.dataset.category_ids)) for source in samples.examples.sources[:2])
    assert [rows[0], *rows[-2:]] == [scenes, voc, known] and scenes and voc


def test_other_sources_change_nothing_for_a_fully_labeled_one(mixed: CFG, scenes_root: Path, people: Path):
    alone, beside = samples_of(roots(mixed, scenes_root)), samples_of(roots(mixed, scenes_root, people))
    for index in range(12):
        expected, found = (samples[3, index, SIZE] for samples in (alone, beside))
        assert all(map(np.array_equal, expected.canvases, found.canvases))
        for task, pairs in expected.sequences.items():
            for (_, one), (_, other) in zip(pairs, found.sequences[task], strict=True):
                assert all(map(np.array_equal, vars(one).values(), vars(other).values()))


# Flags


def test_a_folder_with_a_comma_in_its_name_is_one(tiny_cfg: CFG, tmp_path: Path):
    root = write_coco(tmp_path / "a,b", [{"id": 1, "name": "cup"}], ["instances"])
    assert not isinstance(open_sources(roots(tiny_cfg, root), ONLY_DETECTION), Mixture)


def test_splits_have_their_layouts_names(mixed: CFG, capsys: pytest.CaptureFixture):
    training, validation = open_training(mixed, TASKS)
    assert [len(source.dataset) for source in training.sources] == [12, 2, 2]
    assert [source.name for source in validation.sources] == ["scenes", "voc"]
    notes = capsys.readouterr().err
    lines = describe_layouts(training, validation)
    counts = "train: 12 images", "train: 2 images", "train: 2 images", "val: 6 images", "val: 2 images"
    assert tuple(line.split(" of ")[0] for line in lines[:5]) == counts
    assert "people has no split val2017 for detection" in notes


def test_a_source_of_no_requested_task_is_left_out(mixed: CFG, capsys: pytest.CaptureFixture):
    mixture = open_sources(mixed, choose_tasks(["captioning"]))
    assert [source.name for source in mixture.sources] == ["scenes"]
    assert mixture.all_captions()
    assert "people has no annotations for captioning: left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values, message",
    [
        ({"data_weights": "1,2"}, "needs 3 numbers"),
        ({"data_weights": "1,2,x"}, "expects numbers with commas"),
        ({"data_weights": "1,2,0"}, "above 0"),
        ({"train_json": "a.json", "val_json": "b.json"}, "--train-json names files of one dataset"),
        ({"train_split": "test"}, "found no dataset for the split 'test'"),
        ({"val_split": "test"}, "no folder of --data-root has the split test"),
    ],
)
def test_flags_that_do_not_fit_are_refused(mixed: CFG, values: dict, message: str):
    with pytest.raises(UserError, match=message):
        open_training(config.replace(mixed, **values), TASKS)


def test_a_task_that_no_source_labels_is_refused(tiny_cfg: CFG, voc: Path, people: Path):
    with pytest.raises(UserError, match="has annotations for captioning"):
        open_sources(roots(tiny_cfg, voc, people), choose_tasks(["detection", "captioning"]))


def test_one_dataset_is_evaluated_at_a_time(mixed: CFG, voc: Path):
    with pytest.raises(UserError, match="names 3 folders, but this takes one dataset"):
        open_split(mixed, "val2017", ONLY_DETECTION)
    with pytest.raises(UserError, match="--data-weights weighs several folders"):
        open_split(roots(mixed, voc, data_weights="2"), "val", ONLY_DETECTION)
    with pytest.raises(UserError, match="twice"):
        open_sources(roots(mixed, voc, voc), ONLY_DETECTION)


# Epochs


PARTS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0])), min_size=1, max_size=4)


@given(PARTS.filter(lambda parts: any(count for count, _ in parts)), st.integers(0, 3), st.integers(1, 3))
def test_an_epoch_has_each_image_as_often_as_its_weight_says(
    parts: list[tuple[int, float]], epoch: int, world_size: int
):
    samplers = [EpochSampler(parts, 1, 0, rank, world_size) for rank in range(world_size)]
    length = samplers[0].length
    keys = []
    for sampler in samplers:
        sampler.set_epoch(epoch, SIZE)
        keys += [key for (key,) in sampler]
    assert len(keys) == max(length // world_size, 1) * world_size
    if len(keys) == length:
        assert len(set(keys)) == length  # an image that comes again has another key, and so is augmented otherwise
        start = 0
        for count, weight in parts:
            times = np.bincount([key[1] - start for key in keys if start <= key[1] < start + count], minlength=count)
            assert times.sum() == (max(round(count * weight), 1) if count else 0)
            assert all(times.sum() // count <= number <= -(-times.sum() // count) for number in times)
            start += count


def test_halves_differ_between_epochs():
    sampler = EpochSampler([(50, 0.5)], 25, seed=0)
    drawn = []
    for epoch in range(2):
        sampler.set_epoch(epoch, SIZE)
        drawn.append({key[1] for batch in sampler for key in batch})
    assert len(drawn[0]) == 25 and drawn[0] != drawn[1]


def test_weights_of_one_give_the_order_of_one_dataset():
    one, several = EpochSampler(12, 3, seed=4), EpochSampler([(5, 1.0), (7, 1.0)], 3, seed=4)
    assert list(one) == list(several)


def test_a_repeated_image_is_augmented_anew(mixed: CFG):
    samples = samples_of(mixed)
    first, again = samples[0, 0, SIZE], samples[0, 0, SIZE, 1]
    assert not np.array_equal(first.canvases[0], again.canvases[0])


# Troubles of one source, and all of it together


def test_damaged_images_of_one_source_do_not_disturb_others(mixed: CFG, voc: Path):
    (voc / "JPEGImages" / "1.jpg").write_text("no image", encoding="utf-8")
    mixture = open_sources(mixed, TASKS)
    mixture.leave_out_unreadable()
    assert [len(source.dataset) for source in mixture.sources] == [12, 1, 2] and len(mixture) == 15
    assert mixture[12].image_id == 2 and mixture[13].keypoints.shape == (1, 17, 3)
    assert any("first: voc: " in line for line in mixture.problems.lines())


def test_each_source_has_a_cache(mixed: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path / "cache"))
    plain, cached = samples_of(mixed), samples_of(config.replace(mixed, cache_gb=1.0))
    for _ in range(2):
        for index in (0, 12, 14):
            expected, found = plain[0, index, SIZE].canvases, cached[0, index, SIZE].canvases
            assert all(map(np.array_equal, expected, found))
    assert len(list((tmp_path / "cache").rglob("*.pixels"))) == 3


def test_the_table_shows_what_an_epoch_is_made_of(mixed: CFG):
    mixture = open_sources(config.replace(mixed, data_weights="1,2,4"), TASKS)
    _, scenes, voc, people, remark = mixture_table(mixture, TASKS, False).splitlines()
    assert "no source labels all 25 classes" in remark
    assert scenes.split()[:4] == ["scenes", "12", "50.0", "%"] and scenes.endswith("captioning")
    assert voc.split()[:7] == ["voc", "2", "16.7", "%", "20", "of", "25"] and voc.endswith("6  detection")
    assert people.split()[2:7] == ["33.3", "%", "0", "of", "25"] and people.endswith("2  keypoint")


def test_the_check_draws_images_of_every_source(mixed: CFG, tmp_path: Path, capsys: pytest.CaptureFixture):
    check.main(config.replace(mixed, output_dir=str(tmp_path / "check")))
    assert "what an epoch is made of" in capsys.readouterr().out
    assert (tmp_path / "check" / "samples.png").is_file()


def test_a_mixture_is_trained_and_evaluated(mixed: CFG, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    train(config.replace(mixed, data_weights="1,3,2", eval_every=1, num_samples=1))
    printed = capsys.readouterr().out
    assert "16 images in" in printed and "--eval-every evaluates detection,segmentation," in printed
    assert "the evaluation failed" not in printed
    weights = tmp_path / "run" / "last.safetensors"
    assert {"sofa", "airplane", "person", "sheep"} <= set(load_weights(weights).class_names.values())
    evaluate_weights(roots(mixed, voc, weights=str(weights), task="detection", output_dir=str(tmp_path / "results")))
    per_class = json.loads((tmp_path / "results" / "metrics.json").read_text(encoding="utf-8"))
    assert "sofa" in json.dumps(per_class)


def test_the_photographs_counts_are_those_of_their_descriptions(coco_people: Path, tiny_cfg: CFG):
    shared = ROOT.parent / "shared" / "data"
    folders = [shared / name for name in ("coco_people", "coco_more", "voc_animals", "lsp")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"not all datasets are in {shared}")
    training, validation = open_training(roots(tiny_cfg, *folders), TASKS)
    assert [len(source.dataset) for source in training.sources] == [2020, 179, 1778, 1800]
    objects = [sum(map(len, source.dataset.objects.values())) for source in training.sources]
    assert objects == [19308, 1163, 3857, 1800]
    assert [len(source.dataset.unlabeled.classes) for source in training.sources] == [0, 0, 60, 80]
    assert len(training.class_names) == 80 and len(training.all_captions()) == 10102
    assert [len(source.dataset) for source in validation.sources] == [300, 1405, 200]
    assert training.sources[3].dataset.unlabeled.points == (0, 1, 2, 3, 4)
