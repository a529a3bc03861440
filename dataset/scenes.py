"""The synthetic scenes as a dataset: drawn when they are first loaded, or all of them in advance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.labels import files_for
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.errors import UserError
from pix2seq.scenes.captions import WORDS
from pix2seq.scenes.coco_layout import coco_files
from pix2seq.scenes.kept import KeptScenes
from pix2seq.scenes.scene import image_entry

if TYPE_CHECKING:
    from pix2seq.task import Task


class SceneDataset(ImageDataset):
    """The first `count` scenes of a split with the annotations that `tasks` need, drawn when they are first loaded.

    Images, classes and caption words are known at once. `annotations` draws its scene if it is not stored yet.
    `objects` and `captions` stay empty; `all_captions` and `ground_truth` draw every scene.
    """

    complete = False
    has_objects = True
    caption_words = WORDS

    def __init__(
        self,
        scenes: KeptScenes,
        count: int,
        tasks: Mapping[str, Task],
        class_names: Mapping[int, str] | None = None,
        classes: Sequence[str] = (),
        skeleton: Skeleton | None = None,
    ) -> None:
        self.scenes = scenes
        images = [image_entry(scenes.seed, scenes.split, index) for index in range(count)]
        empty = coco_files([{"image": image, "objects": [], "captions": []} for image in images])
        names = files_for(tasks)
        super().__init__(
            scenes.folder, {name: partial(empty.get, name) for name in names}, class_names, classes, skeleton
        )
        self.read = {name: partial(_content, scenes, count, name) for name in names}
        self.to_draw = len(scenes.missing(count))

    def indices_for(self, tasks: Iterable[Task], with_difficult: bool = True) -> list[int]:
        """All images: it is not known which of them `tasks` can be trained on before they are drawn."""
        return list(range(len(self)))

    def annotations(self, index: int) -> tuple[list[dict], list[str]]:
        """The objects of a scene and its captions."""
        record = self.scenes.record(index)
        contents = coco_files([record])
        objects, _ = self._sound_objects([contents[name] for name in self.read])
        return objects.get(index + 1, []), record["captions"] if "captions" in self.read else []

    def all_captions(self) -> list[str]:
        """Every caption of the split."""
        self.scenes.complete(len(self))
        return [text for index in range(len(self)) for text in self.annotations(index)[1]]

    def load(self, index: int, shrink: int = 1) -> Example:
        """The example of a scene, as of any image; a stored file that cannot be read is drawn again."""
        try:
            return super().load(index, shrink)
        except UserError:
            self.scenes.draw(index)
            return super().load(index, shrink)

    def leave_out_unreadable(self) -> None:
        """Nothing to do: a scene that cannot be read is drawn again."""


def complete_scenes(
    scenes: KeptScenes,
    count: int,
    tasks: Mapping[str, Task],
    class_names: Mapping[int, str] | None = None,
    classes: Sequence[str] = (),
    skeleton: Skeleton | None = None,
) -> ImageDataset:
    """The first `count` scenes of a split; missing ones are drawn first."""
    scenes.complete(count)
    records = [scenes.record(index) for index in range(count)]
    read = {name: partial(_file, records, name) for name in files_for(tasks)}
    dataset = ImageDataset(scenes.folder, read, class_names, classes, skeleton)
    dataset.caption_words = WORDS
    return dataset


def _content(scenes: KeptScenes, count: int, name: str) -> dict:
    """The annotation file `name` of scenes, which are drawn first if they are missing."""
    scenes.complete(count)
    return _file([scenes.record(index) for index in range(count)], name)


def _file(records: Sequence[dict], name: str) -> dict:
    return coco_files(records)[name]
