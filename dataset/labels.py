"""What the annotations of an image leave open: not labeled is not the same as not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pix2seq.task import Task


@dataclass(frozen=True)
class Unlabeled:
    """What the source of an image labels nowhere, so that nothing may be learned from its absence.

    `files` are COCO's names of annotation files that it lacks (`instances`, …): tasks that need one learn nothing from
    its images. `classes` are ids of classes that it does not look for: its images may show such objects. `points` are
    indices of keypoints that none of its objects has labeled: they may be visible all the same. `objects`: an object of
    the image cannot be read, so that nothing is learned about any.
    """

    files: frozenset[str] = frozenset()
    classes: tuple[int, ...] = ()
    points: tuple[int, ...] = ()
    objects: bool = False

    @classmethod
    def in_any(cls, records: Sequence[Unlabeled]) -> Unlabeled:
        """What at least one of the `records` leaves open."""
        files = frozenset().union(*(record.files for record in records))
        classes = {number for record in records for number in record.classes}
        points = {index for record in records for index in record.points}
        return cls(files, tuple(sorted(classes)), tuple(sorted(points)), any(record.objects for record in records))

    def taught(self, tasks: Iterable[Task]) -> list[Task]:
        """Those of `tasks` that have their annotations."""
        known = (task for task in tasks if not (self.objects and task.about_objects))
        return [task for task in known if task.samples.COCO_FILE not in self.files]


EVERYTHING_IS_LABELED = Unlabeled()


def files_for(tasks: Mapping[str, Task]) -> list[str]:
    """COCO's names of the annotation files that the tasks need."""
    return list(dict.fromkeys(task.samples.COCO_FILE for task in tasks.values()))
