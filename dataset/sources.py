"""Open the dataset that the settings name, or the synthetic scenes if none is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import CFG
from pix2seq.dataset.coco import CocoDataset, ImageDataset, annotation_path, read_annotations
from pix2seq.dataset.scenes import SceneDataset, complete_scenes
from pix2seq.dataset.voc import VocDataset, find_voc_folders
from pix2seq.errors import UserError
from pix2seq.scenes.kept import KeptScenes
from pix2seq.scenes.root import scenes_root
from pix2seq.scenes.scene import SPLITS

if TYPE_CHECKING:
    from pix2seq.task import Task

LOOKED_FOR = 100  # images of a JSON, some of which may be missing, that are tried to find its image folder


def open_split(
    cfg: CFG, split: str, tasks: Mapping[str, Task], class_names: Mapping[int, str] | None = None, complete: bool = True
) -> ImageDataset:
    """One split (`--train-split` or `--val-split`) with annotations for `tasks`.

    It is read from `--train-json` or `--val-json` if named, else from `--data-root`: COCO 2017's layout, Pascal VOC's,
    or a COCO-format JSON beside its images. Without `--data-root` it consists of synthetic scenes, which are all drawn
    first if the split must be `complete`, else when they are loaded.
    `class_names` are those of a model or of the training images; without them the dataset's own classes are used.
    """
    opened = _open(cfg, split, tasks, class_names, complete)
    if class_names is not None and any(task.about_objects for task in tasks.values()):
        opened.require_common_class()
    return opened


def _open(
    cfg: CFG, split: str, tasks: Mapping[str, Task], class_names: Mapping[int, str] | None, complete: bool
) -> ImageDataset:
    data = cfg.data
    classes = tuple(name.strip() for name in data.classes.split(",") if name.strip())
    root = Path(data.data_root)
    _check_split_names(cfg)
    json_file, folder = _explicit_json(cfg, split), _explicit_images(cfg, split)
    if json_file:
        return open_json(_below(root, json_file), folder, root, class_names, classes)
    if not data.data_root:
        _refuse_images(folder, "the set of synthetic scenes")
        scenes, count = _scenes(cfg, split)
        return (complete_scenes if complete else SceneDataset)(scenes, count, tasks, class_names, classes)
    files = dict.fromkeys(task.samples.COCO_FILE for task in tasks.values())
    if any(annotation_path(root, file, split).is_file() for file in files):
        return CocoDataset(root, split, tasks, class_names, classes, folder)
    if find_voc_folders(root):
        _refuse_images(folder, "Pascal VOC's layout")
        return VocDataset(root, split, tasks, class_names, classes)
    for name in (f"{split}.json", f"annotations/{split}.json", f"{split}/_annotations.coco.json"):
        if (root / name).is_file():
            return open_json(root / name, folder, root, class_names, classes)
    raise UserError(
        f"found no dataset for the split {split!r} at --data-root {root}: looked for COCO's "
        f"annotations/{next(iter(files))}_{split}.json, for Pascal VOC's JPEGImages/ and Annotations/ there or one or "
        f"two folders below, and for {split}.json; name files with --train-json and --val-json, or splits with "
        "--train-split and --val-split"
    )


def open_json(
    path: Path, folder: Path | None, root: Path, class_names: Mapping[int, str] | None, classes: Sequence[str]
) -> ImageDataset:
    """A file in COCO's annotation format with its images in `folder`, or in a folder near it where some are found."""
    if not folder:
        names = [image["file_name"] for image in read_annotations(path)["images"][:LOOKED_FOR]]
        near = (path.parent, path.with_suffix(""), path.parent / "images", root / path.stem, root, root / "images")
        folder = next((place for place in near if any((place / name).is_file() for name in names)), None)
        if folder is None:
            raise UserError(
                f"{path} names {f'images such as {names[0]}' if names else 'no image'}, none of which is in "
                f"{', '.join(dict.fromkeys(map(str, near)))}; name their folder with --train-images and --val-images"
            )
    return ImageDataset(folder, {path.name: partial(read_annotations, path)}, class_names, classes)


def _check_split_names(cfg: CFG) -> None:
    """Raise UserError if both splits have the same name but different files: the flags of one would be ignored."""
    data = cfg.data
    for train, val, flag in ((data.train_json, data.val_json, "json"), (data.train_images, data.val_images, "images")):
        if data.train_split == data.val_split and val not in ("", train):
            raise UserError(
                f"--train-split and --val-split are both {data.val_split!r}, but --val-{flag} is not --train-{flag}: "
                "give the splits different names"
            )


def _explicit_json(cfg: CFG, split: str) -> str:
    """The annotation file that the flags name for a split."""
    data = cfg.data
    if split == data.train_split and data.train_json:
        return data.train_json
    if split == data.val_split and data.val_json:
        return data.val_json
    if data.train_json or data.val_json:
        raise UserError(
            f"the split {split!r} has no annotation file: name both --train-json and --val-json, or neither"
        )
    return ""


def _explicit_images(cfg: CFG, split: str) -> Path | None:
    """The image folder that the flags name for a split."""
    data = cfg.data
    name = data.train_images if split == data.train_split else data.val_images or data.train_images
    folder = _below(Path(data.data_root), name) if name else None
    if folder and not folder.is_dir():
        raise UserError(f"there is no folder of images {folder}; check --train-images and --val-images")
    return folder


def _refuse_images(folder: Path | None, layout: str) -> None:
    if folder:
        raise UserError(f"--train-images and --val-images are for COCO's format; leave them out, {layout} has its own")


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
