"""The files of images' results, and what the terminal shows of them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.errors import UserError, plain
from pix2seq.infer.result_log import ResultLog, begin, line_about, put_together
from pix2seq.runtime.files import move_contents, writing
from pix2seq.schema import read_bytes

if TYPE_CHECKING:
    from pix2seq.infer.pipeline import Failed, Job, Predicted
    from pix2seq.infer.predictor import Predictor
    from pix2seq.infer.results import Result
    from pix2seq.task import Task

NAMED = 8  # files, and images that could not be used, that are named at the end
LINE = 116  # characters of a line about an instance
RESULT = "result.json"  # moved last (in alphabetical order): where it is, an image's files are whole


@dataclass(frozen=True)
class Written:
    """A job whose files are there, and its result."""

    job: Job
    result: Result


class Output:
    """Writes results into the folder `target`, from files in `staging` when they are whole.

    A single image's results and `pictures` lie in the folder itself. Of `many` images each has a folder for them, if
    there are pictures, and a line in a log. In all `count` files are written, of which the first few are `named`.
    """

    def __init__(
        self,
        target: Path,
        staging: Path,
        tasks: Mapping[str, Task],
        predictor: Predictor,
        pictures: bool = True,
        many: bool = False,
    ) -> None:
        self.target, self.staging, self.tasks, self.predictor = target, staging, tasks, predictor
        self.pictures, self.many = pictures, many
        self.log: ResultLog | None = None
        self.named: list[Path] = []
        self.count = 0
        self.again = False  # whether some images have lines in the log already

    def begin(self, jobs: Sequence[Job], go_on: bool) -> tuple[Path | None, list[int]]:
        """The path of the log of several images, and the numbers of the jobs to be done: of a run that is to `go_on`,
        those whose results are not there."""
        if not self.many:
            return None, [] if go_on and is_done(self.target, self.tasks, self.pictures) else [0]
        with writing(self.target):
            path, known = begin(self.target, list(self.tasks), go_on)
        left = [number for number, job in enumerate(jobs) if not (job.file_name in known and self._is_done(job))]
        self.again = any(jobs[number].file_name in known for number in left)
        return path, left

    def _is_done(self, job: Job) -> bool:
        return not self.pictures or is_done(self.target / job.folder, self.tasks)

    def open_log(self, path: Path, rank: int) -> None:
        """Have process `rank` add what it writes to a log."""
        self.log = ResultLog(path, rank)

    def write(self, item: Predicted | Failed) -> Written | Failed:
        """Write the files of a result, those of pictures before the line that says that the image is done."""
        from pix2seq.infer.pipeline import Failed, memory_for

        if isinstance(item, Failed):
            return item
        (loaded, result), files = item, []
        job, below = loaded.job, loaded.job.folder if self.many else "."
        entries = self.predictor.to_coco(job.image_id, result)
        with writing(self.target), memory_for(job.image):
            if self.pictures or not self.many:
                drawn = loaded.pixels, result, self.predictor, self.pictures
                files = write_result(self.staging / below, self.target / below, entries, *drawn)
                move_contents(self.staging, self.target)
            if self.log:
                size = loaded.pixels.shape[1], loaded.pixels.shape[0]
                self.log.add(line_about(job.file_name, job.image_id, size, list(self.tasks), entries))
        self._name(files)
        return Written(job, result)

    def _name(self, files: Sequence[Path]) -> None:
        self.count += len(files)
        self.named += files[: NAMED - len(self.named)]

    def close(self) -> None:
        """Have everything on the disk."""
        if self.log:
            with writing(self.target):
                self.log.close()

    def finish(self, jobs: Sequence[Job], count: int) -> tuple[list[Path], int]:
        """Put together what all processes wrote, once they have ended; `count` are their files. Return the first few
        files, and how many there are."""
        if not self.log:
            return self.named, count
        with writing(self.target):
            put_together(self.log.path, [job.file_name for job in jobs], self.again)
        return [self.log.path, *self.named][:NAMED], count + 1


def write_result(
    folder: Path,
    target: Path,
    entries: Sequence[dict],
    image: np.ndarray,
    result: Result,
    predictor: Predictor,
    pictures: bool = True,
) -> list[Path]:
    """Write `entries`, which are COCO's results, and with `pictures` the PNG of each task into `folder`; return where
    the files lie once moved to `target`."""
    from pix2seq.infer.overlay import save_png

    folder.mkdir(exist_ok=True)
    names = [results_file(target, entries, result, predictor)]
    (folder / names[0]).write_text(json.dumps(entries, indent=1), encoding="utf-8")
    for name, predictions in result.predictions.items():
        inference = predictor.tasks[name].inference
        if pictures and inference.IMAGE_FILE:
            names.append(inference.IMAGE_FILE)
            save_png(folder / names[-1], inference.draw(image, result.instances, predictions, predictor.drawing))
    return [target / name for name in names]


def would_be_replaced(name: str) -> UserError:
    """The error about an input that lies where results of its name would be written."""
    return UserError(
        f"{plain(name)} would be replaced by the results, which have its name; name another folder with --output-dir"
    )


def is_done(folder: Path, tasks: Mapping[str, Task], pictures: bool = True) -> bool:
    """Whether `folder` holds the results of `tasks` about an image, not only those of others (see `results_file`)."""
    if (folder / _own_name(tasks)).is_file():
        return True
    there = _results_in(folder)
    if there is None:
        return False
    has_whole = any("category_id" not in entry for entry in there)
    needs_whole = not all(task.about_objects for task in tasks.values())
    drawn = [task.inference.IMAGE_FILE for task in tasks.values() if pictures and task.inference.IMAGE_FILE]
    return has_whole >= needs_whole and all((folder / name).is_file() for name in drawn)


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
    """A table of the instances with what is predicted about each, and what is predicted about the whole image."""
    lines = _table(result, predictor) if len(result.instances) else []
    about_image = [name for name in result.predictions if not predictor.tasks[name].about_objects]
    if not lines and len(about_image) < len(result.predictions):
        lines = ["  nothing found; a lower --score-threshold shows what is less sure"]
    for name in about_image:
        described = predictor.tasks[name].inference.describe(result.predictions[name], predictor.drawing)
        lines += [f"  {line}" for line in described.splitlines()]
    return "\n".join(lines)


def _table(result: Result, predictor: Predictor) -> list[str]:
    instances, class_names = result.instances, predictor.class_names
    names = [class_names.get(class_id, str(class_id)) for class_id in instances.classes.tolist()]
    width = max(len("class"), *map(len, names))
    lines = [f"  {'class':<{width}}  score" + "".join(f"{title:>8}" for title in "xywh")]
    for index, (name, score, (x1, y1, x2, y2)) in enumerate(zip(names, instances.scores, instances.boxes, strict=True)):
        numbers = "".join(f"{value:8.1f}" for value in (x1, y1, x2 - x1, y2 - y1))
        lines.append(f"  {name:<{width}}  {score:5.2f}{numbers}")
        lines += _about_instance(result, index, predictor)
    return lines


def _about_instance(result: Result, index: int, predictor: Predictor) -> Iterator[str]:
    """Lines with what tasks predict about an instance, below its row."""
    for name, predictions in result.predictions.items():
        if predictor.tasks[name].is_prompted and predictions[index] is not None:
            described = predictor.tasks[name].inference.describe(predictions[index], predictor.drawing)
            yield from textwrap.wrap(
                described, LINE, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False
            )


def named_failures(failures: Sequence[str], count: int) -> str:
    """A sentence about the images that could not be used, of `count`."""
    more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
    return f"{len(failures)} of {count} images could not be used: {'; '.join(failures[:NAMED])}{more}"
