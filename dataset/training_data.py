"""Open the training and validation images of a run: one dataset, or several folders of `--data-root` as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import CFG, flag, replace
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.labels import files_for
from pix2seq.dataset.layout import ChosenLabels
from pix2seq.dataset.layouts import DataFolder
from pix2seq.dataset.mixture import Mixture, Source, share_labels, sources_of, teaches
from pix2seq.dataset.sources import chosen_classes, data_roots, open_split, require_chosen_classes
from pix2seq.dataset.splits import role_of
from pix2seq.errors import UserError, plain
from pix2seq.runtime.console import tell

NAMED = 3  # images of a part that are named

if TYPE_CHECKING:
    from pix2seq.task import Task


def open_training(
    cfg: CFG, tasks: Mapping[str, Task], complete: bool = True
) -> tuple[ImageDataset | Mixture, ImageDataset | Mixture]:
    """The training and the validation images: of one dataset (see `open_split`), or of all folders of `--data-root`."""
    folders = data_folders(cfg, tasks)
    training = open_sources(cfg, tasks, complete, hold_out=True, folders=folders)
    if isinstance(training, Mixture):
        return training, _validation(cfg, tasks, training, folders)
    labels = training.class_names, complete, training.skeleton
    return training, open_split(cfg, cfg.data.val_split, tasks, *labels, folder=next(iter(folders), None))


def data_folders(cfg: CFG, tasks: Mapping[str, Task]) -> list[DataFolder]:
    """The folders of `--data-root`."""
    return [DataFolder(root, cfg.data, tasks) for root in data_roots(cfg)]


def describe_layouts(training: ImageDataset | Mixture, validation: ImageDataset | Mixture) -> list[str]:
    """A line for each part of each dataset on disk: what it was recognized as, how many images it has, and which."""
    lines: list[str] = []
    files: dict[str, set[str]] = {}
    for role, examples in (("train", training), ("val", validation)):
        files[role] = set()
        for source in sources_of(examples):
            if dataset := source.dataset if source.dataset.layout else None:
                names = [image["file_name"] for image in dataset.images]
                listed = ", ".join(plain(name, 40) for name in names[:NAMED]) + (", …" if len(names) > NAMED else "")
                lines.append(f"{role}: {len(names)} images of {dataset.layout}: {listed}")
                files[role] |= {str(dataset.path(index)) for index in range(len(dataset))}
    if both := files["train"] & files["val"]:
        lines.append(
            f"{len(both)} of {len(files['val'])} validation images are training images, too: its figures say little"
        )
    return lines


def evaluated_one(cfg: CFG, tasks: Mapping[str, Task], validation: ImageDataset | Mixture) -> CFG:
    """Settings to evaluate with during training: of several sources the first one, on the tasks that it labels."""
    if not isinstance(validation, Mixture):
        return cfg
    source = validation.sources[0]
    labeled = ",".join(name for name, task in tasks.items() if teaches(source.dataset, task))
    return replace(cfg, data_root=str(source.root), data_weights="", task=labeled, task_weights="")


def open_sources(
    cfg: CFG,
    tasks: Mapping[str, Task],
    complete: bool = True,
    hold_out: bool = False,
    folders: Sequence[DataFolder] = (),
) -> ImageDataset | Mixture:
    """The training images of one dataset (see `open_split`), or of all folders of `--data-root`; `folders` are these if
    their layouts may be known already."""
    folders = folders or data_folders(cfg, tasks)
    roots, split = [folder.root for folder in folders], cfg.data.train_split
    if len(roots) < 2:
        only = next(iter(folders), None)
        return open_split(cfg, split, tasks, complete=complete, hold_out=hold_out, folder=only)
    _check_flags(cfg, roots)
    hold_out = hold_out and _are_held_out(cfg, folders)
    labels, sources = ChosenLabels(classes=chosen_classes(cfg)), []
    for folder, name, weight in zip(folders, _titles(roots), _weights(cfg, len(roots)), strict=True):
        dataset = _open_labeled(folder, split, labels, hold_out)
        if dataset:
            sources.append(Source(name, folder.root, dataset, weight))
        else:
            tell(f"{name} has no annotations for {', '.join(tasks)}: left out")
    datasets = [source.dataset for source in sources]
    for task in tasks.values():
        if not any(teaches(dataset, task) for dataset in datasets):
            raise UserError(
                f"no folder of --data-root has annotations for {task.name} in {split} that can be trained on; leave it "
                f"out of --task, or name a folder that has"
            )
    require_chosen_classes(datasets)
    share_labels(datasets)
    return Mixture(sources)


def _validation(cfg: CFG, tasks: Mapping[str, Task], training: Mixture, folders: Sequence[DataFolder]) -> Mixture:
    """The validation images of those sources that have some."""
    split, sources = cfg.data.val_split, []
    labels = ChosenLabels(training.class_names, chosen_classes(cfg), training.skeleton)
    held, by_root = _are_held_out(cfg, folders), {folder.root: folder for folder in folders}
    for source in training.sources:
        folder = by_root[source.root]
        found = folder.find(split)
        there = found and (held or not found.part.side)
        if there and (dataset := _open_labeled(folder, split, labels)):
            sources.append(Source(source.name, source.root, dataset))
        else:
            tell(f"{source.name} has no split {split} for {', '.join(tasks)}: left out of validation")
    if not sources:
        raise UserError(f"no folder of --data-root has the split {split}; name one that has, or another --val-split")
    return Mixture(sources)


def _are_held_out(cfg: CFG, folders: Sequence[DataFolder]) -> bool:
    """Whether images are held out for validation: of several folders only if none has a validation split."""
    splits = (folder.find(cfg.data.val_split) for folder in folders)
    return all(found is None or found.part.side for found in splits)


def _open_labeled(folder: DataFolder, split: str, labels: ChosenLabels, hold_out: bool = False) -> ImageDataset | None:
    """The dataset in a folder, with annotations for those tasks that it has them for; None if for none."""
    found = folder.find(split, hold_out)
    if not found and not _has_other_files(folder.root, split):
        folder.require(split, hold_out)
    labeled = found.tasks(folder.tasks) if found else {}
    if not labeled:
        return None
    dataset = found.dataset(folder.data, labeled, labels)
    dataset.lack({*files_for(folder.tasks)} - {*files_for(labeled)})
    return dataset


def _has_other_files(root: Path, split: str) -> bool:
    """Whether COCO's layout has any annotation file of a split, so that this is no wrong folder or name."""
    ends = tuple(f"_{name}.json" for name in (split, *role_of(split)))
    return any(path.name.endswith(ends) for path in (root / "annotations").glob("*.json"))


def _check_flags(cfg: CFG, roots: Sequence[Path]) -> None:
    """Raise UserError for a folder that is named twice, and for flags that name the files of one dataset."""
    twice = [root for root in roots if roots.count(root) > 1]
    if twice:
        raise UserError(f"--data-root names {twice[0]} twice; --data-weights draws a folder's images more often")
    for name in ("train_json", "val_json", "train_images", "val_images"):
        if getattr(cfg.data, name):
            raise UserError(
                f"{flag(name)} names files of one dataset, but --data-root has {len(roots)} folders; "
                "leave it out: each folder needs a layout that is found by itself"
            )


def _titles(roots: Sequence[Path]) -> list[str]:
    """The folders' own names where they differ, else their paths."""
    names = [root.resolve().name for root in roots]
    return names if len(set(names)) == len(names) else [str(root) for root in roots]


def _weights(cfg: CFG, count: int) -> list[float]:
    """The numbers of `--data-weights`, all 1 where it is empty."""
    text = cfg.data.data_weights
    if not text:
        return [1.0] * count
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        raise UserError(f"--data-weights expects numbers with commas, got {text!r}") from None
    if len(weights) != count:
        raise UserError(f"--data-weights needs {count} numbers, one for each folder of --data-root, got {text}")
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(
            f"--data-weights expects numbers above 0, got {text}; leave a folder out of --data-root instead"
        )
    return weights
