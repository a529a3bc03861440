"""Open the datasets that the settings name, or the synthetic scenes if none is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import CFG
from pix2seq.dataset.annotation_files import read_annotations
from pix2seq.dataset.coco import CocoDataset, ImageDataset, annotation_path
from pix2seq.dataset.file_names import FileNames
from pix2seq.dataset.scenes import SceneDataset, complete_scenes
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.dataset.voc import VOC_FILE, VocDataset, find_voc_folders, has_image_sets
from pix2seq.errors import UserError
from pix2seq.runtime.console import tell
from pix2seq.scenes.kept import KeptScenes
from pix2seq.scenes.root import scenes_root
from pix2seq.scenes.scene import SPLITS

if TYPE_CHECKING:
    from pix2seq.task import Task

LOOKED_FOR = 100  # images of a JSON, some of which may be missing, that are tried to find its image folder
# What one layout calls a split that has this name in another: COCO's and Pascal VOC's.
OTHER_NAMES = {"train2017": "train", "val2017": "val", "train": "train2017", "val": "val2017"}


def open_split(
    cfg: CFG,
    split: str,
    tasks: Mapping[str, Task],
    class_names: Mapping[int, str] | None = None,
    complete: bool = True,
    skeleton: Skeleton | None = None,
) -> ImageDataset:
    """One split (`--train-split` or `--val-split`) of one dataset, with annotations for `tasks`.

    It is read from `--train-json` or `--val-json` if named, else from `--data-root`: COCO 2017's layout, Pascal VOC's,
    or a COCO-format JSON beside its images. Without `--data-root` it consists of synthetic scenes, which are all drawn
    first if the split must be `complete`, else when they are loaded.
    `class_names` and `skeleton` are those of a model or of the training images; without them the dataset's own classes
    and keypoints are used.
    """
    roots = data_roots(cfg)
    if len(roots) > 1:
        raise UserError(f"--data-root names {len(roots)} folders, but this takes one dataset: name one of them")
    if cfg.data.data_weights:
        raise UserError("--data-weights weighs several folders of --data-root; leave it out for one dataset")
    opened = _open(cfg, split, tasks, class_names, skeleton, complete)
    if roots:
        opened.root = roots[0]
    opened.may_leave = cfg.data.outside_images
    require_chosen_classes([opened])
    if class_names is not None and any(task.about_objects for task in tasks.values()):
        opened.require_common_class()
    return opened


def data_roots(cfg: CFG) -> list[Path]:
    """The folders of `--data-root`: one, or several with commas; none for the synthetic scenes."""
    text = cfg.data.data_root
    if not text:
        return []
    names = [text] if Path(text).exists() else [name.strip() for name in text.split(",") if name.strip()]
    return [Path(name) for name in names] or [Path(text)]


def chosen_classes(cfg: CFG) -> tuple[str, ...]:
    """The names of `--classes`."""
    return tuple(name.strip() for name in cfg.data.classes.split(",") if name.strip())


def require_chosen_classes(datasets: Sequence[ImageDataset]) -> None:
    """Raise UserError for a name of `--classes` that no dataset has among its categories."""
    missing = [name for name in datasets[0].missing_classes if all(name in d.missing_classes for d in datasets)]
    if missing:
        known = ", ".join(dict.fromkeys(name for dataset in datasets for name in dataset.known_classes))
        raise UserError(f"--classes names {missing[0]!r}, which is not among the categories of the files: {known}")


def _open(
    cfg: CFG,
    split: str,
    tasks: Mapping[str, Task],
    class_names: Mapping[int, str] | None,
    skeleton: Skeleton | None,
    complete: bool,
) -> ImageDataset:
    data, classes = cfg.data, chosen_classes(cfg)
    root = Path(data.data_root)
    _check_split_names(cfg)
    json_file, folder = _explicit_json(cfg, split), _explicit_images(cfg, split)
    if json_file:
        return open_json(_below(root, json_file), folder, root, class_names, classes, skeleton)
    if not data.data_root:
        _refuse_images(folder, "the set of synthetic scenes")
        scenes, count = _scenes(cfg, split)
        return (complete_scenes if complete else SceneDataset)(scenes, count, tasks, class_names, classes, skeleton)
    return open_folder(root, split, tasks, folder, class_names, classes, skeleton)


def open_folder(
    root: Path,
    split: str,
    tasks: Mapping[str, Task],
    images: Path | None = None,
    class_names: Mapping[int, str] | None = None,
    classes: Sequence[str] = (),
    skeleton: Skeleton | None = None,
) -> ImageDataset:
    """A split of the dataset in the folder `root`, of whatever layout; `images` is the folder of COCO's images if they
    lie elsewhere. A split that has another layout's name is opened by its own, which is reported."""
    found = find_split(root, split, tasks) or split
    if found != split:
        tell(f"{root} has no split {split}, its {found} is used")
    labels = class_names, classes
    if _coco_tasks(root, found, tasks):
        return CocoDataset(root, found, tasks, *labels, images, skeleton)
    if find_voc_folders(root):
        _refuse_images(images, "Pascal VOC's layout")
        return VocDataset(root, found, tasks, *labels, skeleton)
    if path := _find_json(root, found):
        return open_json(path, images, root, *labels, skeleton)
    file = next(iter(tasks.values())).samples.COCO_FILE
    raise UserError(
        f"found no dataset for the split {split!r} at --data-root {root}: looked for COCO's "
        f"annotations/{file}_{split}.json, for Pascal VOC's JPEGImages/ and Annotations/ there or one or "
        f"two folders below, and for {split}.json; name files with --train-json and --val-json, or splits with "
        "--train-split and --val-split"
    )


def find_split(root: Path, split: str, tasks: Mapping[str, Task]) -> str | None:
    """The name that `split` has in the folder `root`: its own or that of another layout; None if it is not there."""
    for name in split_names(split):
        if _coco_tasks(root, name, tasks) or has_image_sets(root, name) or _find_json(root, name):
            return name
    return None


def split_names(split: str) -> list[str]:
    """The names that a split may have: its own, then that of another layout."""
    return [name for name in (split, OTHER_NAMES.get(split)) if name]


def tasks_of(root: Path, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Those of `tasks` for whose annotations the layout of `root` has a place in this split."""
    if coco := _coco_tasks(root, split, tasks):
        return coco
    if find_voc_folders(root):
        return {name: task for name, task in tasks.items() if task.samples.COCO_FILE == VOC_FILE}
    return dict(tasks) if _find_json(root, split) else {}


def _coco_tasks(root: Path, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Those of `tasks` whose annotation file is there in COCO's layout."""
    return {name: t for name, t in tasks.items() if annotation_path(root, t.samples.COCO_FILE, split).is_file()}


def _find_json(root: Path, split: str) -> Path | None:
    """The file of a split in COCO's format that holds all its annotations."""
    names = f"{split}.json", f"annotations/{split}.json", f"{split}/_annotations.coco.json"
    return next((root / name for name in names if (root / name).is_file()), None)


def open_json(
    path: Path,
    folder: Path | None,
    root: Path,
    class_names: Mapping[int, str] | None,
    classes: Sequence[str],
    skeleton: Skeleton | None = None,
) -> ImageDataset:
    """A file in COCO's annotation format with its images in `folder`, or in a folder near it where some are found."""
    if not folder:
        names = [image["file_name"] for image in read_annotations(path)["images"][:LOOKED_FOR]]
        near = (path.parent, path.with_suffix(""), path.parent / "images", root / path.stem, root, root / "images")
        folder = next((place for place in near if _holds_some(place, names)), None)
        if folder is None:
            raise UserError(
                f"{path} names {f'images such as {names[0]}' if names else 'no image'}, none of which is in "
                f"{', '.join(dict.fromkeys(map(str, near)))}; name their folder with --train-images and --val-images"
            )
    return ImageDataset(folder, {path.name: partial(read_annotations, path)}, class_names, classes, skeleton)


def _holds_some(folder: Path, names: Sequence[str]) -> bool:
    """Whether some image is in a folder, by its own name or by another spelling of it."""
    if any((folder / name).is_file() for name in names):
        return True
    files = FileNames(folder)
    return any(files.find(name) for name in names)


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
