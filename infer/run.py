"""What every inference script does: find images, ask the model, print and write the answers.

Nothing slow is imported before the flags are read and the images are known to be there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import CFG
from pix2seq.errors import Unreadable, UserError, plain
from pix2seq.metadata import read_metadata
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import output_folder, writing
from pix2seq.runtime.paths import weights_path

if TYPE_CHECKING:
    from pix2seq.infer.predictor import Predictor
    from pix2seq.infer.results import Instances, Result
    from pix2seq.task import Task

RESULT = "result.json"  # moved last (in alphabetical order): where it is, an image's files are whole
LISTED = 8  # files that are named at the end
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def run(cfg: CFG) -> None:
    """Do `cfg.tasks` on the images of `--image`. The files of each are written when it is done, all of them or none; of
    several images, those that cannot be read are left out and named at the end, in a UserError."""
    images, target = find_images(cfg.infer.image), Path(cfg.infer.output_dir)
    read_metadata(weights_path(cfg.infer.weights))  # a file that is none is refused before torch is imported
    from pix2seq.tasks import choose_tasks

    tasks = choose_tasks(cfg.tasks)
    box = parse_box(cfg, tasks)
    with output_folder(target):  # it can be written to; where nothing is written, none is left
        from pix2seq.infer.introduction import introduce
        from pix2seq.infer.load import load_predictor

        predictor = load_predictor(cfg)
        predictor.require(needed(tasks, box))
        said = introduce(weights_path(cfg.infer.weights), predictor.about)
        written: list[Path] = []
        skipped, unreadable = 0, []
        for path, name in zip(images, unique_names(images), strict=True):
            folder = target / name if len(images) > 1 else target
            if cfg.infer.skip_existing and (folder / RESULT).is_file():
                skipped += 1
                continue
            try:
                result, files = describe_image(predictor, cfg, box, list(tasks), path, folder)
            except Unreadable as error:
                if len(images) == 1:
                    raise
                tell(str(error))
                unreadable.append(path)
                continue
            written += files
            print(f"{plain(str(path))}\n{summary(result, predictor)}")
            if not (said or len(result.instances)) and any(task.about_objects for task in tasks.values()):
                said = introduce(weights_path(cfg.infer.weights), predictor.about, again=True)
        if skipped:
            tell(f"{skipped} of {len(images)} images were left out, whose {RESULT} is there (--skip-existing)")
        print(f"wrote {listed(written)}" if written else "wrote nothing")
        if unreadable:
            raise UserError(
                f"{len(unreadable)} of {len(images)} images cannot be read and were left out: {listed(unreadable)}"
            )


def describe_image(
    predictor: Predictor, cfg: CFG, box: tuple[float, ...], tasks: list[str], path: Path, folder: Path
) -> tuple[Result, list[Path]]:
    """The predictions about the image at `path`, and their files, which are moved into `folder` together."""
    from pix2seq.dataset.images import read_image

    image = read_image(path, cfg.infer.max_megapixels)
    instances = prompted_instance(predictor, cfg, box, image) if box else None
    result = predictor.describe(image, tasks, instances)
    with output_folder(folder) as staging, writing(folder):
        files = write_result(staging, path, image, result, predictor)
    return result, [folder / file.name for file in files]


def needed(tasks: Mapping[str, Task], box: Sequence[float]) -> list[str]:
    """The tasks that the model must know: without a box, instances have to be found first."""
    from pix2seq.tasks import TASKS

    find = not box and any(task.about_objects for task in tasks.values())
    finders = [task.name for task in TASKS.values() if task.finds_instances and find]
    return list(dict.fromkeys([*finders, *tasks]))


def listed(files: Sequence[Path]) -> str:
    """The files by folder, the first few of many."""
    names = [plain(str(path)) for path in files[:LISTED]]
    more = len(files) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files among `names`, and those in the folders among them; raise UserError if there are none."""
    if not names:
        raise UserError("--image expects an image or a folder of images, got none")
    images: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UserError(f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            images += inside
        elif path.is_file():
            images.append(path)
        else:
            raise UserError(f"there is no image {path}; check the path")
    return images


def parse_box(cfg: CFG, tasks: Mapping[str, Task]) -> tuple[float, ...]:
    """--box as x, y, w, h in pixels; empty if not given."""
    text = cfg.infer.box
    if not text:
        return ()
    try:
        box = tuple(float(number) for number in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise UserError(f"--box expects four numbers x,y,w,h in pixels, got {text!r}")
    if min(box[2:]) <= 0:
        raise UserError(f"--box expects a width and a height above zero, got {text!r}")
    if not any(task.is_prompted for task in tasks.values()):
        raise UserError("--box points at an instance to segment or to find keypoints in; leave it out for this task")
    return box


def prompted_instance(predictor: Predictor, cfg: CFG, box: tuple[float, ...], image: np.ndarray) -> Instances:
    """The one instance that --box and --box-class point at, as if it had been detected for certain."""
    from pix2seq.infer.results import Instances

    ids = [class_id for class_id, name in predictor.class_names.items() if name == cfg.infer.box_class]
    if not ids:
        known = ", ".join(predictor.class_names.values())
        raise UserError(f"--box-class expects one of {known}; got {cfg.infer.box_class!r}")
    posed = [predictor.class_names[class_id] for class_id in predictor.skeleton.class_ids]
    if all(predictor.tasks[name].needs_skeleton for name in cfg.tasks) and cfg.infer.box_class not in posed:
        raise UserError(f"only a {' or '.join(posed)} has keypoints; --box-class is {cfg.infer.box_class!r}")
    x, y, width, height = box
    limits = image.shape[1], image.shape[0], image.shape[1], image.shape[0]
    clipped = np.clip([[x, y, x + width, y + height]], 0, limits)
    if (clipped[0, 2:] <= clipped[0, :2]).any():
        raise UserError(f"--box {cfg.infer.box} lies outside the image of {image.shape[1]} × {image.shape[0]} pixels")
    return Instances(clipped, np.array(ids[:1]), np.ones(1))


def unique_names(images: Sequence[Path]) -> list[str]:
    """A folder name for each image: its stem, with a number where another image has the same."""
    names: list[str] = []
    for path in images:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}_{number}"
        names.append(name)
    return names


def write_result(folder: Path, path: Path, image: np.ndarray, result: Result, predictor: Predictor) -> list[Path]:
    """Write `result.json` and the PNG of each task into `folder`; return the files."""
    from pix2seq.infer.overlay import save_png
    from pix2seq.infer.results import coco_results

    image_id = int(path.stem) if path.stem.isdecimal() else path.stem  # COCO's files are named after their ids
    entries = coco_results(image_id, result, predictor.tasks, predictor.category_ids)
    files = [folder / RESULT]
    files[0].write_text(json.dumps(entries, indent=1), encoding="utf-8")
    for name, predictions in result.predictions.items():
        inference = predictor.tasks[name].inference
        if inference.IMAGE_FILE:
            files.append(folder / inference.IMAGE_FILE)
            save_png(files[-1], inference.draw(image, result.instances, predictions, predictor.drawing))
    return files


def summary(result: Result, predictor: Predictor) -> str:
    """A table of the instances, and what is predicted about the whole image."""
    instances, names = result.instances, predictor.class_names
    lines = [
        f"  {predictor.tasks[name].inference.describe(prediction)}"
        for name, prediction in result.predictions.items()
        if not predictor.tasks[name].about_objects
    ]
    if len(instances):
        return "\n".join([*_table(instances, names), *lines])
    if len(lines) < len(result.predictions):
        lines.insert(0, "  nothing found; a lower --score-threshold shows what is less sure")
    return "\n".join(lines)


def _table(instances: Instances, class_names: Mapping[int, str]) -> list[str]:
    names = [class_names.get(class_id, str(class_id)) for class_id in instances.classes.tolist()]
    width = max(len("class"), *map(len, names))
    lines = [f"  {'class':<{width}}  score" + "".join(f"{title:>8}" for title in "xywh")]
    for name, score, (x1, y1, x2, y2) in zip(names, instances.scores, instances.boxes, strict=True):
        numbers = "".join(f"{value:8.1f}" for value in (x1, y1, x2 - x1, y2 - y1))
        lines.append(f"  {name:<{width}}  {score:5.2f}{numbers}")
    return lines
