"""What every inference script does: find images, ask the model, print and write the answers.

Nothing slow is imported before the flags are read and the images are known to be there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import CFG
from pix2seq.errors import PartlyFailed, UserError, plain
from pix2seq.infer.image_names import Named, file_names, find_images, image_ids, read_named, unique_names
from pix2seq.infer.output import Output, named_failures, summary, would_be_replaced
from pix2seq.metadata import read_metadata
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import output_folder
from pix2seq.runtime.light_imports import leave_out_unused, without_garbage
from pix2seq.weights.find import find_weights

if TYPE_CHECKING:
    from pix2seq.infer.pipeline import Failed, Job, Loaded
    from pix2seq.infer.predictor import Predictor
    from pix2seq.infer.results import Instances
    from pix2seq.task import Task


def run(cfg: CFG) -> None:
    """Do `cfg.tasks` on the images of `--image`, with torchrun on a share of them in each process; the files of each
    image are written when it is done, all or none.

    An image that cannot be used keeps no other from being written: it is named at the end, by a UserError.
    """
    images, target = find_images(cfg.infer.image), Path(cfg.infer.output_dir)
    weights = find_weights(cfg.infer.weights)
    if not (exported := weights.is_dir()):  # torch is not imported for an exported model, nor for a file that is none
        leave_out_unused(read_metadata(weights).cfg.model.backbone)
    with without_garbage():
        from pix2seq.infer.load import load_predictor
        from pix2seq.runtime import distributed
        from pix2seq.tasks import choose_tasks

        if not exported:
            from pix2seq.infer import generator  # noqa: F401 - all that takes long to import
            from pix2seq.runtime.device import pick_device
    tasks, jobs = choose_tasks(cfg.tasks), jobs_of(images)
    if cfg.infer.pictures:
        require_kept(jobs, target, tasks)
    box = parse_box(cfg, tasks)
    if exported:
        if distributed.is_launched():
            raise UserError(f"{weights} is an exported model, which predicts in one process; start it without torchrun")
    else:
        cfg = dataclasses.replace(cfg, device=str(distributed.start(pick_device(cfg.device))))
    try:
        with output_folder(target) as staging:
            predictor = load_predictor(cfg)
            predictor.require(needed(tasks, box))
            output = Output(target, staging, tasks, predictor, cfg.infer.pictures, len(images) > 1)
            failures = describe_all(cfg, jobs, box, output, weights)
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
            print(f"{plain(str(item.job.image))}\n{summary(item.result, predictor)}", flush=True)
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
    from pix2seq.infer.pipeline import Failed, Loaded, memory_for

    try:
        with memory_for(job.image):
            pixels = read_named(job.image, cfg.infer)
        return Loaded(job, pixels, prompted_instance(predictor, cfg, box, pixels) if box else None)
    except UserError as error:
        return Failed(job, str(error))


def jobs_of(images: Sequence[Named]) -> list[Job]:
    """A job for each image."""
    from pix2seq.infer.pipeline import Job

    columns = images, file_names(images), unique_names(images), image_ids(images)
    return [Job(*row) for row in zip(*columns, strict=True)]


def require_kept(jobs: Sequence[Job], target: Path, tasks: Mapping[str, Task]) -> None:
    """Raise UserError if a picture of the results would take the place of an image that is to be read."""
    names = {task.inference.IMAGE_FILE for task in tasks.values()}
    images = [job.image for job in jobs if isinstance(job.image, Path) and job.image.name in names]
    folders = {(target / job.folder if len(jobs) > 1 else target).resolve() for job in jobs} if images else set()
    for image in images:
        if image.parent.resolve() in folders:
            raise would_be_replaced(str(image))


def shown_once(error: UserError) -> UserError:
    """An error that all processes of a run raise."""
    error.everywhere = True
    return error


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
    from pix2seq.infer.prompts import pointed_at

    x, y, width, height = box
    needs_skeleton = all(predictor.tasks[name].needs_skeleton for name in cfg.tasks)
    allowed = predictor.skeleton.class_ids if needs_skeleton else None
    try:
        corners = (x, y, x + width, y + height)
        return pointed_at(corners, cfg.infer.box_class, predictor.class_names, *image.shape[1::-1], allowed)
    except UserError as error:
        raise UserError(f"--box and --box-class: {error}") from None
