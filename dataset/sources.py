"""Open the datasets that the settings name, or the synthetic scenes if none is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import CFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.coco_layouts import FileLayout
from pix2seq.dataset.layout import ChosenLabels
from pix2seq.dataset.layouts import DataFolder, Found, may_hold_out, refuse_images
from pix2seq.dataset.scenes import SceneDataset, complete_scenes
from pix2seq.dataset.shard_files import folder_of, is_address
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.dataset.splits import TRAIN, VAL, Part
from pix2seq.errors import UserError
from pix2seq.names import split_names
from pix2seq.scenes.kept import KeptScenes
from pix2seq.scenes.root import scenes_root
from pix2seq.scenes.scene import SPLITS

if TYPE_CHECKING:
    from pix2seq.task import Task


def open_split(
    cfg: CFG,
    split: str,
    tasks: Mapping[str, Task],
    class_names: Mapping[int, str] | None = None,
    complete: bool = True,
    skeleton: Skeleton | None = None,
    hold_out: bool = False,
    folder: DataFolder | None = None,
) -> ImageDataset:
    """One split (`--train-split` or `--val-split`) of one dataset, with annotations for `tasks`.

    It is read from `--train-json` or `--val-json` if named, else from `--data-root`, whose layout is found (`layouts`);
    `folder` is that folder if its layouts may be known already. Without `--data-root` it consists of synthetic scenes,
    which are all drawn first if the split must be `complete`, else when they are loaded.
    A dataset without a validation split has some of its images for it, which are left out of the training split with
    `hold_out`. `class_names` and `skeleton` are those of a model or of the training images; without them the dataset's
    own classes and keypoints are used.
    """
    roots = data_roots(cfg)
    if len(roots) > 1:
        raise UserError(f"--data-root names {len(roots)} folders, but this takes one dataset: name one of them")
    if cfg.data.data_weights:
        raise UserError("--data-weights weighs several folders of --data-root; leave it out for one dataset")
    labels = ChosenLabels(class_names, chosen_classes(cfg), skeleton)
    _check_split_names(cfg)
    folder = folder or DataFolder(next(iter(roots), Path()), cfg.data, tasks)
    images = _explicit_images(cfg, split)
    if found := _explicit_json(cfg, split, hold_out) or (folder.require(split, hold_out) if roots else None):
        opened = found.dataset(cfg.data, tasks, labels, images)
    else:
        refuse_images(images, "the set of synthetic scenes")
        opened = _open_scenes(cfg, split, tasks, labels, complete)
    require_chosen_classes([opened])
    if class_names is not None and any(task.about_objects for task in tasks.values()):
        opened.require_common_class()
    return opened


def labeled_tasks(cfg: CFG, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Those of `tasks` for whose annotations a split of one dataset has a place."""
    roots = data_roots(cfg)
    if len(roots) != 1 or cfg.data.train_json or cfg.data.val_json:
        return dict(tasks)
    return DataFolder(roots[0], cfg.data, tasks).require(split).tasks(tasks)


def data_roots(cfg: CFG) -> list[Path]:
    """The folders of `--data-root`: one, or several with commas; none for the synthetic scenes. Of an address it is the
    folder that stands for it (see `folder_of`)."""
    text = cfg.data.data_root
    if not text:
        return []
    names = [text] if Path(text).exists() else [name.strip() for name in text.split(",") if name.strip()]
    return [folder_of(name) if is_address(name) else Path(name) for name in names] or [Path(text)]


def chosen_classes(cfg: CFG) -> tuple[str, ...]:
    """The names of `--classes`."""
    return split_names(cfg.data.classes, "--classes")


def require_chosen_classes(datasets: Sequence[ImageDataset]) -> None:
    """Raise UserError for a name of `--classes` that no dataset has among its categories."""
    missing = [name for name in datasets[0].missing_classes if all(name in d.missing_classes for d in datasets)]
    if missing:
        known = ", ".join(dict.fromkeys(name for dataset in datasets for name in dataset.known_classes))
        raise UserError(f"--classes names {missing[0]!r}, which is not among the categories of the files: {known}")


def _open_scenes(cfg: CFG, split: str, tasks: Mapping[str, Task], labels: ChosenLabels, complete: bool) -> ImageDataset:
    """The synthetic scenes of a split."""
    scenes, count = _scenes(cfg, split)
    chosen = labels.class_names, labels.classes, labels.skeleton
    return (complete_scenes if complete else SceneDataset)(scenes, count, tasks, *chosen)


def _check_split_names(cfg: CFG) -> None:
    """Raise UserError if both splits have the same name but different files: the flags of one would be ignored."""
    data = cfg.data
    for train, val, flag in ((data.train_json, data.val_json, "json"), (data.train_images, data.val_images, "images")):
        if data.train_split == data.val_split and val not in ("", train):
            raise UserError(
                f"--train-split and --val-split are both {data.val_split!r}, but --val-{flag} is not --train-{flag}: "
                "give the splits different names"
            )


def _explicit_json(cfg: CFG, split: str, hold_out: bool) -> Found | None:
    """The annotation file that the flags name for a split, and the part of it that is used: of `--train-json` alone,
    images are held out for validation."""
    data, name, side = cfg.data, "", ()
    if split == data.val_split and data.val_json:
        name = data.val_json
    elif split == data.train_split and data.train_json:
        name = data.train_json
        side = TRAIN if hold_out and may_hold_out(data) and not data.val_json else ()
    elif split == data.val_split and data.train_json and may_hold_out(data):
        name, side = data.train_json, VAL
    elif data.train_json or data.val_json:
        raise UserError(
            f"the split {split!r} has no annotation file: name both --train-json and --val-json, or neither"
        )
    if not name:
        return None
    root = Path(data.data_root)
    return Found(
        root, FileLayout(root, {split: _below(root, name)}), Part(split, side, data.val_share if side else 0.0)
    )


def _explicit_images(cfg: CFG, split: str) -> Path | None:
    """The image folder that the flags name for a split."""
    data = cfg.data
    name = data.train_images if split == data.train_split else data.val_images or data.train_images
    folder = _below(Path(data.data_root), name) if name else None
    if folder and not folder.is_dir():
        raise UserError(f"there is no folder of images {folder}; check --train-images and --val-images")
    return folder


def _below(root: Path, name: str) -> Path:
    """The path `name` if it exists, else the path below the data root."""
    return Path(name) if Path(name).exists() else root / name


def _scenes(cfg: CFG, split: str) -> tuple[KeptScenes, int]:
    """The stored scenes of a split, and how many of them are used."""
    if split not in SPLITS:
        raise UserError(
            f"the synthetic scenes have the splits {' and '.join(SPLITS)}, got {split!r}; leave out --train-split and "
            "--val-split, or name a dataset with --data-root"
        )
    data = cfg.data
    count = data.scenes_train if split == SPLITS[0] else data.scenes_val
    return KeptScenes(scenes_root(data.scenes_seed), split, data.scenes_seed), count
