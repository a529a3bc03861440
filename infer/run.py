"""What every inference script does: find images, ask the model, print and write the answers.

Nothing slow is imported before the flags are read and the images are known to be there.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import CFG
from pix2seq.errors import PartlyFailed, UserError, plain
from pix2seq.infer.image_names import Named, find_images, image_ids, read_named, unique_names
from pix2seq.metadata import read_metadata
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import move_contents, output_folder, writing
from pix2seq.runtime.light_imports import leave_out_unused
from pix2seq.schema import read_bytes
from pix2seq.weights.find import find_weights

if TYPE_CHECKING:
    from pix2seq.infer.predictor import Predictor
    from pix2seq.infer.results import Instances, Result
    from pix2seq.task import Task

RESULT = "result.json"  # moved last (in alphabetical order): where it is, an image's files are whole
LISTED = 8  # files that are named at the end


def run(cfg: CFG) -> None:
    """Do `cfg.tasks` on the images of `--image`; the files of each image are written when it is done, all or none.

    An image that cannot be used keeps no other from being written: it is named at the end, by a UserError.
    """
    images, target = find_images(cfg.infer.image), Path(cfg.infer.output_dir)
    weights = find_weights(cfg.infer.weights)
    metadata = read_metadata(weights)  # a file that is none is refused before torch is imported
    leave_out_unused(metadata.cfg.model.backbone)
    from pix2seq.tasks import choose_tasks

    tasks = choose_tasks(cfg.tasks)
    box = parse_box(cfg, tasks)
    written: list[Path] = []
    failures: list[str] = []
    skipped = 0
    with output_folder(target) as staging:
        from pix2seq.infer.introduction import introduce
        from pix2seq.infer.load import load_predictor

        predictor = load_predictor(cfg)
        predictor.require(needed(tasks, box))
        said = introduce(weights, predictor.about)
        for path, name, image_id in zip(images, unique_names(images), image_ids(images), strict=True):
            below = name if len(images) > 1 else "."
            if cfg.infer.skip_existing and is_done(target / below, tasks):
                skipped += 1
                continue
            try:
                with memory_for(path):
                    image = read_named(path, cfg.infer)
                    instances = prompted_instance(predictor, cfg, box, image) if box else None
                    result = predictor.describe(image, list(tasks), instances)
            except UserError as error:
                failures.append(str(error))
                continue
            with writing(target), memory_for(path):
                files = write_result(staging / below, target / below, image_id, image, result, predictor)
                move_contents(staging, target)
            written += files
            print(f"{plain(str(path))}\n{summary(result, predictor)}")
            if not (said or len(result.instances)) and any(task.about_objects for task in tasks.values()):
                said = introduce(weights, predictor.about, again=True)
        if len(failures) == len(images):
            raise UserError(failures[0] if len(images) == 1 else named_failures(failures, len(images)))
    if skipped:
        tell(f"{skipped} of {len(images)} images were left out, whose results are there (--skip-existing)")
    print(f"wrote {listed(written)}" if written else "wrote nothing")
    if failures:
        raise PartlyFailed(named_failures(failures, len(images)))


@contextlib.contextmanager
def memory_for(image: Named) -> Iterator[None]:
    """Turn a lack of memory into a UserError about an image."""
    from pix2seq.runtime.device import lacks_memory

    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        advice = "make it smaller, or lower --num-samples"
        raise UserError(f"{image} needs more memory than there is; {advice}") from None


def named_failures(failures: Sequence[str], count: int) -> str:
    """A sentence about the images that could not be used, of `count`."""
    more = f"; and {len(failures) - LISTED} more" if len(failures) > LISTED else ""
    return f"{len(failures)} of {count} images could not be used: {'; '.join(failures[:LISTED])}{more}"


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


def write_result(
    folder: Path, target: Path, image_id: int | str, image: np.ndarray, result: Result, predictor: Predictor
) -> list[Path]:
    """Write the JSON and the PNG of each task into `folder`; return where the files lie once moved to `target`."""
    from pix2seq.infer.overlay import save_png
    from pix2seq.infer.results import coco_results

    folder.mkdir(exist_ok=True)
    entries = coco_results(image_id, result, predictor.tasks, predictor.category_ids)
    names = [results_file(target, entries, result, predictor)]
    (folder / names[0]).write_text(json.dumps(entries, indent=1), encoding="utf-8")
    for name, predictions in result.predictions.items():
        inference = predictor.tasks[name].inference
        if inference.IMAGE_FILE:
            names.append(inference.IMAGE_FILE)
            save_png(folder / names[-1], inference.draw(image, result.instances, predictions, predictor.drawing))
    return [target / name for name in names]


def is_done(folder: Path, tasks: Mapping[str, Task]) -> bool:
    """Whether `folder` holds the results of `tasks` about an image, not only those of others (see `results_file`)."""
    if (folder / _own_name(tasks)).is_file():
        return True
    pictures = [task.inference.IMAGE_FILE for task in tasks.values() if task.inference.IMAGE_FILE]
    there = _results_in(folder)
    if there is None:
        return False
    has_whole = any("category_id" not in entry for entry in there)
    needs_whole = not all(task.about_objects for task in tasks.values())
    return has_whole >= needs_whole and all((folder / name).is_file() for name in pictures)


def results_file(folder: Path, entries: Sequence[dict], result: Result, predictor: Predictor) -> str:
    """`result.json`, or a name with the tasks if a file of that name in `folder` has fields that would be lost."""
    fields = {field for entry in _results_in(folder) or () for field in entry}
    own = {field for entry in entries for field in entry}
    if any(predictor.tasks[name].about_objects for name in result.predictions):
        own |= {"category_id", "bbox", "score"}  # of what is not found, too
    return RESULT if fields <= own | {"image_id"} else _own_name(result.predictions)


def _results_in(folder: Path) -> list[dict] | None:
    """The results that `folder` holds; None if there are none, or another program's file has their name."""
    try:
        there = json.loads(read_bytes(folder / RESULT))
    except (OSError, ValueError, RecursionError):
        return None
    return there if isinstance(there, list) and all(isinstance(entry, dict) for entry in there) else None


def _own_name(tasks: Iterable[str]) -> str:
    """The name of a file of results that leaves the place of `result.json` to other tasks."""
    return f"result_{'_'.join(tasks)}.json"


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
