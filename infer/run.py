"""What every inference script does: find images, ask the model, print and write the answers.

Nothing slow is imported before the flags are read and the images are known to be there.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import CFG
from pix2seq.errors import PartlyFailed, UserError, plain
from pix2seq.infer.output import Output, summary
from pix2seq.metadata import read_metadata
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import output_folder
from pix2seq.runtime.light_imports import leave_out_unused
from pix2seq.weights.find import find_weights

if TYPE_CHECKING:
    from pix2seq.infer.pipeline import Failed, Job, Loaded
    from pix2seq.infer.predictor import Predictor
    from pix2seq.infer.results import Instances
    from pix2seq.task import Task

LISTED = 8  # images that could not be used, at the end


def run(cfg: CFG) -> None:
    """Do `cfg.tasks` on the images of `--image`, with torchrun on a share of them in each process; the files of each
    image are written when it is done, all or none.

    An image that cannot be used keeps no other from being written: it is named at the end, by a UserError.
    """
    images, target = find_images(cfg.infer.image), Path(cfg.infer.output_dir)
    weights = find_weights(cfg.infer.weights)
    metadata = read_metadata(weights)  # a file that is none is refused before torch is imported
    leave_out_unused(metadata.cfg.model.backbone)
    from pix2seq.tasks import choose_tasks

    tasks = choose_tasks(cfg.tasks)
    box = parse_box(cfg, tasks)
    from pix2seq.runtime import distributed
    from pix2seq.runtime.device import pick_device

    device = distributed.start(pick_device(cfg.device))
    try:
        with output_folder(target) as staging:
            from pix2seq.infer.load import load_predictor

            predictor = load_predictor(dataclasses.replace(cfg, device=str(device)))
            predictor.require(needed(tasks, box))
            output = Output(target, staging, tasks, predictor, cfg.infer.pictures, len(images) > 1)
            failures = describe_all(cfg, jobs_of(images), box, output, weights)
    finally:
        distributed.stop()
    if failures:
        raise shown_once(PartlyFailed(named_failures(failures, len(images))))


def describe_all(cfg: CFG, jobs: Sequence[Job], box: Sequence[float], output: Output, weights: Path) -> list[str]:
    """Predict and write what is not there yet; return what is wrong with the images that could not be used."""
    from pix2seq.infer.introduction import introduce
    from pix2seq.infer.pipeline import Failed, process
    from pix2seq.runtime import distributed

    predictor, first = output.predictor, distributed.rank() == 0
    said = not first or introduce(weights, predictor.about)
    finds = any(task.about_objects for task in output.tasks.values())
    log, left = distributed.from_first(lambda: output.begin(jobs, cfg.infer.skip_existing))
    if log:
        output.open_log(log, distributed.rank())
    own = [jobs[number] for number in left[distributed.rank() :: distributed.world_size()]]
    failures: list[str] = []
    done = 0
    with distributed.together():
        for item in process(predictor, list(output.tasks), own, partial(load, cfg, box, predictor), output.write):
            if isinstance(item, Failed):
                failures.append(item.why)
                continue
            done += 1
            print(f"{plain(str(item.job.path))}\n{summary(item.result, predictor)}", flush=True)
            if not (said or len(item.result.instances)) and finds:
                said = introduce(weights, predictor.about, again=True)
        output.close()
    failures = distributed.gather(failures)
    done, count = (int(number) for number in distributed.total([done, output.count]))
    if len(failures) == len(jobs):
        raise shown_once(UserError(failures[0] if len(jobs) == 1 else named_failures(failures, len(jobs))))
    if first:
        if skipped := len(jobs) - len(left):
            tell(f"{skipped} of {len(jobs)} images were left out, whose results are there (--skip-existing)")
        files, count = output.finish(jobs, count)
        print(f"wrote {listed(files, count)}" if done else "wrote nothing")
    return failures


def load(cfg: CFG, box: Sequence[float], predictor: Predictor, job: Job) -> Loaded | Failed:
    """Read the image of a job."""
    from pix2seq.dataset.images import read_image
    from pix2seq.infer.pipeline import Failed, Loaded, memory_for

    try:
        with memory_for(job.path):
            pixels = read_image(job.path, cfg.infer.max_megapixels)
        return Loaded(job, pixels, prompted_instance(predictor, cfg, box, pixels) if box else None)
    except UserError as error:
        return Failed(job, str(error))


def jobs_of(images: Sequence[Path]) -> list[Job]:
    """A job for each image."""
    from pix2seq.infer.pipeline import Job

    columns = images, file_names(images), unique_names(images), image_ids(images)
    return [Job(*row) for row in zip(*columns, strict=True)]


def shown_once(error: UserError) -> UserError:
    """An error that all processes of a run raise."""
    error.everywhere = True
    return error


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


def listed(files: Sequence[Path], count: int) -> str:
    """The first `files` of `count`."""
    names = [plain(str(path)) for path in files]
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files among `names`, and those in the folders among them; raise UserError if there are none."""
    if not names:
        raise UserError("--image expects an image or a folder of images, got none")
    images: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            images += images_in(path)
        elif path.is_file():
            images.append(path)
        else:
            raise UserError(f"there is no image {path}; check the path")
    return images


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder without hidden ones; names those of other formats, and raises UserError if there are
    none that can be read."""
    from pix2seq.dataset.images import IMAGE_SUFFIXES, OTHER_SUFFIXES

    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    others = [file for file in files if file.suffix.lower() in OTHER_SUFFIXES]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    left_out = f"{len(others)} files are of formats that cannot be read, such as {others[0].name}" if others else ""
    if not images:
        remark = f"; {left_out}: save them as JPEG or PNG" if others else ""
        raise UserError(f"the folder {folder} holds no images ({', '.join(IMAGE_SUFFIXES)}){remark}")
    if others:
        tell(f"{folder}: {left_out}, and are left out; save them as JPEG or PNG")
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
    numbers: dict[str, int] = {}  # the last one that each stem had
    names: dict[str, None] = {}
    for path in images:
        stem = path.stem if path.stem.strip(".") else "image"  # .. would be the folder above
        name, number = stem, numbers.get(stem, 1)
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name], numbers[stem] = None, number
    return list(names)


def file_names(images: Sequence[Path]) -> list[str]:
    """What the images are called in results: their names without folders, as in COCO, unless another has the same."""
    numbers = Counter(path.name for path in images)
    return [path.name if numbers[path.name] == 1 else str(path) for path in images]


def image_ids(images: Sequence[Path]) -> list[int | str]:
    """The images' ids in results: the numbers that they are named after, as in COCO, or the names if these are two
    images' number (1.jpg beside 001.jpg)."""
    numbers = Counter(int(path.stem) for path in images if path.stem.isdecimal())
    return [int(p.stem) if p.stem.isdecimal() and numbers[int(p.stem)] == 1 else p.stem for p in images]
