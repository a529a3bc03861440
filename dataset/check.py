"""Look through a dataset before training: counts, mistakes, lengths of sequences, and a sheet of what is taught.

python dataset/check.py --data-root /data/coco --output-dir results/check

Training begins with the quick part of it, which decodes no image (`--no-check-data` leaves it out). `taught.png`
shows training images as they are augmented, with what their token sequences say: what the model is taught.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pix2seq.command_line import command_line
from pix2seq.config import CFG
from pix2seq.dataset.annotations import Problems
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.images import UNREADABLE, read_image
from pix2seq.errors import UserError
from pix2seq.runtime.console import bar
from pix2seq.runtime.paths import writable_folder

LOOKED_AT = 2000  # images whose sequences are measured before training
SHEET_IMAGES = 12
BAR = 40  # characters of the longest bar of a histogram


@dataclass
class Lengths:
    """Tokens (n,) of a task's sequences as the annotations have them, and how many are `cut` at a `flag`'s limit."""

    tokens: list[int]
    cut: int
    flag: str
    what: str

    def lines(self, task: str) -> list[str]:
        """A summary and a histogram."""
        if not self.tokens:
            return [f"{task}: nothing to teach"]
        tokens = np.array(self.tokens)
        span = f"{tokens.min()} to {tokens.max()} tokens, mean {tokens.mean():.0f}"
        cut = f"{self.cut} ({100 * self.cut / len(tokens):.1f} %) {self.what}" if self.cut else "none exceeds"
        return [f"{task}: {len(tokens)} sequences of {span}; {cut} {self.flag}", *histogram(tokens)]


def histogram(values: np.ndarray, bins: int = 8) -> list[str]:
    """Bars of how many values (n,) fall into equal ranges of whole numbers."""
    low, high = int(values.min()), int(values.max())
    step = max(-(-(high - low + 1) // bins), 1)
    counts = np.bincount((values - low) // step)
    width = len(str(high + step))
    return [
        f"  {low + k * step:>{width}} to {low + (k + 1) * step - 1:<{width}} "
        f"{bar(round(BAR * count / counts.max()))} {count}"
        for k, count in enumerate(counts.tolist())
    ]


def counts(examples: ImageDataset, tasks: Sequence[str]) -> list[str]:
    """What there is to learn from."""
    objects = [entry for entries in examples.objects.values() for entry in entries]
    lines = [f"{examples.folder}: {len(examples)} images, {len(examples.class_names)} classes"]
    if set(tasks) != {"captioning"}:
        empty = sum(image["id"] not in examples.objects for image in examples.images)
        used = len({entry["category_id"] for entry in objects})
        lines.append(f"  {len(objects)} objects of {used} classes; {empty} images without objects")
        extras = {
            "with a mask": sum(bool(entry.get("segmentation")) for entry in objects),
            "with keypoints": sum("keypoints" in entry for entry in objects),
            "difficult": sum(entry["difficult"] for entry in objects),
            "crowds, which are not taught": sum(examples.crowds.values()),
        }
        lines += [f"  {number} {what}" for what, number in extras.items() if number]
    if examples.captions:
        lines.append(f"  {len(examples.all_captions())} captions of {len(examples.captions)} images")
    return lines


def measure(examples: ImageDataset, tokenizers: Mapping, cfg: CFG, most: int = LOOKED_AT) -> dict[str, Lengths]:
    """The lengths of each task's sequences about `most` images, evenly chosen."""
    model, found = cfg.model, {}
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(most, len(examples))).astype(int))
    targets = [examples.target(index) for index in chosen]
    if not cfg.data.train_difficult:
        targets = [target.without(target.difficult) for target in targets]
    if "detection" in cfg.tasks:
        numbers = [len(target.classes) for target in targets]
        flag = f"--max-objects {model.max_objects}"
        cut = sum(number > model.max_objects for number in numbers)
        found["detection"] = Lengths([5 * n + 1 for n in numbers], cut, flag, "are cut at")
    if "segmentation" in cfg.tasks:
        shapes = [shape for target in targets for shape in target.polygons if shape]
        numbers = [sum(map(len, shape)) for shape in shapes]
        tokens = [2 * n + len(shape) for n, shape in zip(numbers, shapes, strict=True)]
        flag = f"--max-points {model.max_points}"
        found["segmentation"] = Lengths(tokens, sum(n > model.max_points for n in numbers), flag, "are simplified to")
    if "keypoint" in cfg.tasks:
        people = sum(int((target.keypoints[:, :, 2] > 0).any(axis=1).sum()) for target in targets)
        found["keypoint"] = Lengths([2 * len(examples.skeleton)] * people, 0, f"--max-tokens {model.max_tokens}", "")
    if "captioning" in cfg.tasks:
        encode = tokenizers["captioning"].text.encode
        numbers = [len(encode(caption)) for target in targets for caption in target.captions]
        flag = f"--max-words {model.max_words}"
        cut = sum(number > model.max_words for number in numbers)
        found["captioning"] = Lengths([number + 1 for number in numbers], cut, flag, "are cut at")
    return found


def report(examples: ImageDataset, tokenizers: Mapping, cfg: CFG, most: int = LOOKED_AT) -> str:
    """Counts, mistakes and lengths, without a look into the images."""
    lines = counts(examples, cfg.tasks)
    lines += [f"  left out or mended: {line}" for line in examples.problems.lines()]
    for task, lengths in measure(examples, tokenizers, cfg, most).items():
        lines += lengths.lines(task)
    return "\n".join(lines)


def read_all(examples: ImageDataset, workers: int) -> Problems:
    """Read every image; what cannot be read, or has another size than its annotations say, is a problem."""
    from tqdm import tqdm

    problems = Problems()

    def look(index: int) -> tuple[str, str] | None:
        entry = examples.images[index]
        try:
            height, width = read_image(examples.path(index)).shape[:2]
        except UserError as error:
            return UNREADABLE, str(error)
        said = entry.get("width", width), entry.get("height", height)
        if said != (width, height):
            return "image of another size than its annotations say", f"{entry['file_name']}: {width} × {height}"
        return None

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for found in tqdm(pool.map(look, range(len(examples))), "reading", len(examples), unit=" images"):
            if found:
                problems.add(*found)
    return problems


def main(cfg: CFG) -> None:
    from pix2seq.dataset.caption_vocabulary import training_tokenizers
    from pix2seq.dataset.overlay import save_png
    from pix2seq.dataset.sample_grid import draw_sheet
    from pix2seq.dataset.samples import SequenceDataset
    from pix2seq.dataset.sources import open_split

    path = writable_folder(Path(cfg.infer.output_dir), "--output-dir") / "taught.png"
    training = open_split(cfg, cfg.data.train_split, cfg.tasks)
    validation = open_split(cfg, cfg.data.val_split, cfg.tasks, training.class_names)
    tokenizers = training_tokenizers(training, cfg)
    for name, examples in (("training", training), ("validation", validation)):
        examples.leave_out_unreadable()
        print(f"{name}\n{report(examples, tokenizers, cfg, len(examples))}")
        problems = read_all(examples, cfg.data.workers)
        print("\n".join(problems.lines()) or "every image can be read")
        if problems.counts.get(UNREADABLE, 0) == len(examples):
            raise UserError(f"{examples.folder} has no image that can be read")
    taught = SequenceDataset(training, tokenizers, cfg, augment=True, stand_ins=True)
    save_png(path, draw_sheet(taught, training.class_names, SHEET_IMAGES))
    print(f"wrote {path}: what the model is taught")


if __name__ == "__main__":
    command_line(main, __doc__, output_dir="results/check")
