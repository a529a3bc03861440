"""The overfitting test chooses images, trains, evaluates and compares the metrics with its goals."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.sources import open_split
from pix2seq.errors import UserError
from pix2seq.tasks import TASKS


@pytest.fixture
def overfit(bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = bench("overfit")
    for name, value in (("IMAGES", 3), ("COPIES", 2), ("MIN_OBJECTS", 1)):
        monkeypatch.setattr(module, name, value)
    return module


def test_a_hardly_trained_model_misses_its_goals(overfit: ModuleType, tiny_cfg: CFG, capsys):
    with pytest.raises(SystemExit) as ended:
        overfit.main(config.replace(tiny_cfg, batch_size=3, eval_images=3, check_data=False))
    assert ended.value.code == 1
    rows = {line[:35].rstrip(): line[35:].split() for line in capsys.readouterr().out.splitlines()[-5:]}
    assert rows.keys() == {f"{task} {name}" for task, names in overfit.AIMED.items() for name in names}
    reached, aims, upper_bounds = zip(*(map(float, figures) for figures in rows.values()), strict=True)
    assert max(reached) < min(aims) and min(upper_bounds) > 0.89


def test_the_chosen_images_suit_every_task_and_have_large_objects(overfit: ModuleType, tiny_cfg: CFG):
    split = open_split(tiny_cfg, "train2017", TASKS)
    chosen = overfit.choose(split, TASKS)
    assert len(chosen) == 3 and all(set(chosen) <= set(split.indices_for([task])) for task in TASKS.values())

    def smallest(index: int) -> float:
        boxes = split.target(index).boxes
        return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).min()

    serving = set.intersection(*(set(split.indices_for([task])) for task in TASKS.values()))
    assert min(map(smallest, chosen)) >= max(map(smallest, serving - set(chosen)))


def test_an_epoch_trains_on_every_image_as_often(overfit: ModuleType, tiny_cfg: CFG):
    split = open_split(tiny_cfg, "train2017", TASKS)
    chosen = overfit.choose(split, TASKS)
    cfg = overfit.write_dataset(split, TASKS, Path(tiny_cfg.train.run_dir), tiny_cfg)
    train, val = (open_split(cfg, name, TASKS) for name in (cfg.data.train_split, cfg.data.val_split))
    assert (len(train), len(val)) == (6, 3)
    assert sorted(map(str, train.captions.values())) == sorted(2 * [str(split[index].captions) for index in chosen])
    assert set(train.problems.counts) == {"image file with several ids and the same objects"}
    by_id = {split[index].image_id: split[index] for index in chosen}
    for index in range(3):
        found, expected = val[index], by_id[val[index].image_id]
        assert (found.image == expected.image).all() and (found.boxes == expected.boxes).all()
        assert (found.keypoints == expected.keypoints).all() and (found.classes == expected.classes).all()


def test_too_few_images_are_a_user_error(overfit: ModuleType, tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overfit, "MIN_OBJECTS", 1000)
    with pytest.raises(UserError, match="has 0 images with 1000 objects"):
        overfit.choose(open_split(tiny_cfg, "train2017", TASKS), TASKS)
