"""Report the contents of a dataset: counts, mistakes, lengths of sequences, and images that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import CFG, flag
from pix2seq.dataset.annotations import Problems
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.images import UNREADABLE
from pix2seq.dataset.mixture import Mixture, datasets_of, teaches
from pix2seq.errors import Unreadable
from pix2seq.runtime.console import bar
from pix2seq.tokenizers.build import Tokenizers

if TYPE_CHECKING:
    from pix2seq.task import Task

LOOKED_AT = 2000  # images whose sequences are measured before training
DARK = 32  # an image without a value of at least this, of 255, shows next to nothing
BAR = 40  # characters of the longest bar of a histogram


@dataclass
class Lengths:
    """Lengths (n,) of a task's sequences in tokens before limits apply, and how many exceed the limit of `flag`."""

    tokens: list[int]
    cut: int
    flag: str
    what: str

    def lines(self, task: str) -> list[str]:
        """A summary and a histogram."""
        if not self.tokens:
            return [f"{task}: nothing to train on"]
        tokens = np.array(self.tokens)
        span = f"{tokens.min()} to {tokens.max()} tokens, mean {tokens.mean():.0f}"
        cut = f"{self.cut} ({100 * self.cut / len(tokens):.1f} %) {self.what}" if self.cut else "none exceeds"
        return [f"{task}: {len(tokens)} sequences of {span}; {cut} {self.flag}", *histogram(tokens)]


def histogram(values: np.ndarray, bins: int = 8) -> list[str]:
    """A histogram of whole numbers (n,) over ranges of equal width, one line each."""
    low, high = int(values.min()), int(values.max())
    step = max(-(-(high - low + 1) // bins), 1)
    counts = np.bincount((values - low) // step)
    width = len(str(high + step))
    return [
        f"  {low + k * step:>{width}} to {low + (k + 1) * step - 1:<{width}} "
        f"{bar(round(BAR * count / counts.max()))} {count}"
        for k, count in enumerate(counts.tolist())
    ]


def counts(examples: ImageDataset, tasks: Mapping[str, Task]) -> list[str]:
    """Lines with the numbers of images, objects and captions."""
    objects = [entry for entries in examples.objects.values() for entry in entries]
    lines = [f"{examples.folder}: {len(examples)} images, {_classes_of(examples)} classes"]
    if any(task.about_objects for task in tasks.values()):
        empty = sum(image["id"] not in examples.objects for image in examples.images)
        used = len({entry["category_id"] for entry in objects})
        lines.append(f"  {len(objects)} objects of {used} classes; {empty} images without objects")
        extras = {
            "with a mask": sum(bool(entry.get("segmentation")) for entry in objects),
            "with keypoints": sum("keypoints" in entry for entry in objects),
            "difficult": sum(entry["difficult"] for entry in objects),
            "crowds, which are not trained on": sum(examples.crowds.values()),
        }
        lines += [f"  {number} {what}" for what, number in extras.items() if number]
        if extras["with keypoints"] and examples.unlabeled.points:
            names = ", ".join(examples.skeleton.names[point] for point in examples.unlabeled.points)
            lines.append(f"  never labeled, so not learned here: {names}")
    if examples.captions:
        lines.append(f"  {len(examples.all_captions())} captions of {len(examples.captions)} images")
    return lines


def _classes_of(examples: ImageDataset) -> str:
    """How many classes are labeled, of how many that there are."""
    known = len(examples.class_names)
    labeled = known - len(examples.unlabeled.classes)
    return str(known) if labeled == known else f"{labeled} of {known}"


def mixture_table(mixture: Mixture, tasks: Mapping[str, Task], with_difficult: bool) -> str:
    """The sources of a mixture: images, share of an epoch's samples, tasks, classes labeled and objects of each."""
    useful = [len(source.dataset.indices_for(tasks.values(), with_difficult)) for source in mixture.sources]
    drawn = [count * source.weight for count, source in zip(useful, mixture.sources, strict=True)]
    rows = [("source", "images", "share", "classes", "objects", "tasks")]
    for source, samples in zip(mixture.sources, drawn, strict=True):
        dataset = source.dataset
        taught = ", ".join(name for name, task in tasks.items() if teaches(dataset, task))
        objects = sum(map(len, dataset.objects.values()))
        share = f"{100 * samples / max(sum(drawn), 1):.1f} %"
        rows.append((source.name, str(len(dataset)), share, _classes_of(dataset), str(objects), taught))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers, taught in rows:
        cells = (f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=False))
        lines.append(f"  {name:<{widths[0]}}  {'  '.join(cells)}  {taught}".rstrip())
    finds = any(task.finds_instances for task in tasks.values())
    if finds and all(source.dataset.unlabeled.classes for source in mixture.sources):
        known = len(mixture.class_names)
        lines.append(f"  no source labels all {known} classes: that an image shows no more objects is never learned")
    return "\n".join(lines)


def measure(
    examples: ImageDataset | Mixture, tasks: Mapping[str, Task], tokenizers: Tokenizers, cfg: CFG, most: int = LOOKED_AT
) -> dict[str, Lengths]:
    """The lengths of each task's sequences for at most `most` images, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(most, len(examples))).astype(int))
    targets = [examples.target(index) for index in chosen]
    if not cfg.data.train_difficult:
        targets = [target.without(target.difficult) for target in targets]
    found = {}
    for name, task in tasks.items():
        labeled = [target for target in targets if target.unlabeled.taught([task])]
        lengths = [length for target in labeled for length in task.samples.lengths(target, tokenizers[name])]
        setting, what = task.samples.LIMIT
        limit = f"{flag(setting)} {getattr(cfg.model, setting)}"
        found[name] = Lengths([tokens for tokens, _ in lengths], sum(cut for _, cut in lengths), limit, what)
    return found


def report(
    examples: ImageDataset | Mixture, tasks: Mapping[str, Task], tokenizers: Tokenizers, cfg: CFG, most: int = LOOKED_AT
) -> str:
    """Counts, mistakes and lengths, without opening the images."""
    lines = []
    for dataset in datasets_of(examples):
        lines += counts(dataset, tasks)
        lines += [f"  {line}" for line in dataset.problems.report()]
    for task, lengths in measure(examples, tasks, tokenizers, cfg, most).items():
        lines += lengths.lines(task)
    return "\n".join(lines)


def read_all(examples: ImageDataset | Mixture, workers: int) -> Problems:
    """Read every image; report those that cannot be read or have another size than the annotations say."""
    from tqdm import tqdm

    problems = Problems()

    def check(index: int) -> tuple[str, str] | None:
        entry = examples.images[index]
        try:
            image, _ = examples.read_pixels(index)
        except Unreadable as error:
            return UNREADABLE, str(error)
        (height, width), brightest = image.shape[:2], int(image.max())
        annotated = entry.get("width", width), entry.get("height", height)
        if annotated != (width, height):
            return "image of another size than its annotations say", f"{examples.name_of(index)}: {width} × {height}"
        if brightest < DARK:
            return "image that is nearly black; scale its values", f"{examples.name_of(index)}: none above {brightest}"
        return None

    in_order = np.argsort(examples.shard_numbers(), kind="stable").tolist()  # one shard after the other
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for found in tqdm(pool.map(check, in_order), "reading", len(examples), unit=" images"):
            if found:
                problems.add(*found)
    return problems
