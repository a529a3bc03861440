"""Ask a model about the images of a split, on as many processes as there are, and score its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from pix2seq.config import CFG
from pix2seq.dataset.batches import Batch, Readable, collate, read_items
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.plausibility import require_plausible
from pix2seq.dataset.samples import Sample, SampleDataset
from pix2seq.errors import Unreadable, UserError
from pix2seq.evaluate.predictions import ImagePredictions, Scores, true_instances
from pix2seq.evaluate.tokens import TokenCounts, UnconstrainedGenerator
from pix2seq.infer.generator import ModelGenerator
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.results import Instances
from pix2seq.runtime import distributed
from pix2seq.runtime.console import tell

DAMAGED = "image that cannot be read completely, left out"
UNCONSTRAINED_IMAGES = 64  # images that a model is asked about once more without its grammars


@dataclass
class Evaluation:
    """What came of one: `predictions` by image in the split's order, `scores` and figures of `tokens` by task."""

    predictions: list[ImagePredictions]
    scores: dict[str, Scores]
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The figures of each task."""
        return {task: scores.metrics for task, scores in self.scores.items()}


@dataclass(frozen=True)
class Sizes:
    """How much is asked at once and in all: images of a chunk, all images (0: every one), images whose target tokens
    are counted, and loading processes."""

    chunk: int
    images: int = 0
    token_images: int = 0
    workers: int = 0

    @classmethod
    def of(cls, cfg: CFG) -> Sizes:
        """Those of the settings."""
        return cls(cfg.infer.eval_batch_size, cfg.infer.max_images, cfg.train.eval_images, cfg.data.workers)

    def count(self, split: ImageDataset) -> int:
        """How many images of a split are asked about."""
        return min(len(split), self.images or len(split))


def evaluate(predictor: Predictor, split: ImageDataset, names: Sequence[str], sizes: Sizes) -> Evaluation:
    """Figures of the named tasks on `split`; where `token_images` are asked for, those of single tokens too.

    Images that cannot be read are left out of predictions and ground truth and counted in the `problems` of `split`.
    Each process asks about some of the chunks of images that one process would ask about, so that the predictions are
    the same; all processes return them all, the first one alone with `scores`.
    """
    split.leave_out_unreadable()
    require_plausible(split, {name: predictor.tasks[name] for name in names})
    counter = None
    if sizes.token_images and isinstance(predictor.generator, ModelGenerator):
        counter = TokenCounter(predictor, split, names)
    elif sizes.token_images:
        tell("accuracies of tokens are left out: they need a weights file, as no exported model reads given tokens")
    count = sizes.count(split)
    chunks = _own_chunks(count, sizes.chunk)
    predictions: list[ImagePredictions] = []
    damaged: list[tuple[int, str]] = []
    with _bar("evaluating", chunks) as bar:
        for found in read_chunks(split, chunks, sizes.workers):
            damaged += [(index, str(error)) for index, error in found.items() if isinstance(error, Unreadable)]
            read = {index: example for index, example in found.items() if isinstance(example, Example)}
            predictions += ask(predictor, names, read)
            few = {index: example for index, example in read.items() if index < UNCONSTRAINED_IMAGES}
            if counter and few:
                counter.ask_unconstrained(few)
            bar.update(len(found))
    for _, error in sorted(distributed.gather(damaged)):
        split.problems.add(DAMAGED, error)
    predictions = sorted(distributed.gather(predictions), key=lambda each: each.index)
    if not predictions:
        raise UserError(f"{split.folder} has no image that can be read: {'; '.join(split.problems.lines())}")
    tokens = counter.figures(min(count, sizes.token_images), sizes.chunk) if counter else {}
    scores = {}
    if distributed.rank() == 0:
        tasks = (predictor.tasks[name] for name in names)
        scores = {task.name: task.evaluation.score(predictions, split, predictor.settings) for task in tasks}
    return Evaluation(predictions, scores, tokens)


def chunks_of(count: int, size: int) -> list[list[int]]:
    """The numbers of `count` images in chunks of `size`."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def read_chunks(
    split: ImageDataset, chunks: Sequence[list[int]], workers: int
) -> Iterator[dict[int, Example | Unreadable]]:
    """The images of each chunk by their number, read by loading processes; of one that cannot be read, why."""
    loader = DataLoader(Readable(split), batch_sampler=chunks, collate_fn=list, num_workers=workers)
    for chunk, items in zip(chunks, loader, strict=True):
        yield dict(zip(chunk, read_items(items), strict=True))


def _own_chunks(count: int, size: int) -> list[list[int]]:
    """This process's share of them."""
    return chunks_of(count, size)[distributed.rank() :: distributed.world_size()]


def _bar(title: str, chunks: list[list[int]]) -> tqdm:
    return tqdm(total=sum(map(len, chunks)), desc=title, unit=" images", disable=distributed.rank() > 0)


def ask(
    predictor: Predictor, names: Sequence[str], examples: Mapping[int, Example], about_detected: bool = True
) -> list[ImagePredictions]:
    """The named tasks about some images, by their number in the split: about the ground truth's instances and, with
    `about_detected`, about those that the model finds with a score of at least `prompt_threshold`."""
    images = [example.image for example in examples.values()]
    predictions = [ImagePredictions(index, example.image_id) for index, example in examples.items()]
    tasks = [predictor.tasks[name] for name in names]
    finds = predictor.finder is not None and any(task.about_objects for task in tasks)
    whole = None
    if finds or not all(task.is_prompted for task in tasks):
        whole = predictor.encode_images(images, [*names, *([predictor.finder.name] if finds else [])])
    for task in tasks:
        if task.is_prompted:
            chosen = [_chosen(example, task.samples.labeled(example)) for example in examples.values()]
            for each, result in zip(
                predictions, predictor.describe_instances(images, [task.name], chosen, whole), strict=True
            ):
                each.prompted[task.name] = result
        elif not task.finds_instances:
            for each, prediction in zip(predictions, predictor.predict(task.name, images, encoded=whole), strict=True):
                each.whole[task.name] = prediction
    if finds:
        found = predictor.predict(predictor.finder.name, images, encoded=whole)
        for each, instances in zip(predictions, found, strict=True):
            each.found = instances
        if about_detected and any(task.is_prompted for task in tasks):
            lowest = predictor.settings.prompt_threshold
            sure = [instances[instances.scores >= lowest] for instances in found]
            for each, result in zip(predictions, predictor.describe_instances(images, names, sure, whole), strict=True):
                each.detected = result
    for each, example in zip(predictions, examples.values(), strict=True):
        each.evidence = {task.name: task.evaluation.evidence(example, each) for task in tasks}
    return predictions


def _chosen(example: Example, labeled: np.ndarray) -> Instances:
    return true_instances(example)[np.flatnonzero(labeled)]


class TokenCounter:
    """How well single tokens are predicted: with the right tokens before each of them, and without a grammar."""

    def __init__(self, predictor: Predictor, split: ImageDataset, names: Sequence[str]) -> None:
        self.names, self.model, self.device = names, predictor.generator.model, predictor.generator.device
        tasks = {name: predictor.tasks[name] for name in names}
        self.samples = SampleDataset(split, tasks, predictor.tokenizers, predictor.trained, augment=False)
        self.text_end = predictor.tokenizers.labels.text.end
        self.unconstrained = UnconstrainedGenerator(predictor.generator)
        self.predictor = predictor.with_generator(self.unconstrained)

    def ask_unconstrained(self, examples: Mapping[int, Example]) -> None:
        """Count the responses about these images that obey the grammars unasked."""
        ask(self.predictor, self.names, examples, about_detected=False)

    @torch.inference_mode()
    def figures(self, count: int, chunk_size: int) -> dict[str, dict[str, Any]]:
        """Accuracy and perplexity on `count` images, and the share of valid responses without a grammar, by task."""
        chunks = _own_chunks(min(count, len(self.samples)), chunk_size)
        parts: list[tuple[int, str, TokenCounts]] = []
        with _bar("counting tokens", chunks) as bar:
            for chunk in chunks:
                size = self.samples.cfg.model.image_size
                items = read_items(Readable(self.samples)[0, index, size] for index in chunk)
                samples = [sample for sample in items if isinstance(sample, Sample)]
                if samples:
                    parts += [(chunk[0], *counted) for counted in self._count(collate(samples))]
                bar.update(len(chunk))
        sums: dict[str, TokenCounts] = {}
        for _, task, counts in sorted(distributed.gather(parts), key=lambda part: part[:2]):
            sums[task] = sums.get(task, TokenCounts(self.text_end)) + counts
        return self._table({task: sums[task] for task in self.names if task in sums})

    def _count(self, batch: Batch) -> list[tuple[str, TokenCounts]]:
        batch = batch.to(self.device)
        logits, parts = self.model.score(self.model.encode(batch.images), batch.packing), []
        for (task, part), of_task in zip(batch.tasks.items(), batch.packing.by_part(logits), strict=True):
            counts = TokenCounts(self.text_end)
            counts.add(of_task, part.targets, part.weights)
            parts.append((task, counts))
        return parts

    def _table(self, counts: Mapping[str, TokenCounts]) -> dict[str, dict[str, Any]]:
        sums = {task: [0, 0] for task in counts}
        own = [(task, self.unconstrained.valid[task], self.unconstrained.total[task]) for task in counts]
        for task, valid, asked in distributed.gather(own):
            sums[task] = [sums[task][0] + valid, sums[task][1] + asked]
        return {
            task: {
                "accuracy": counted.accuracy,
                "perplexity": counted.perplexity,
                "valid without grammar": sums[task][0] / max(sums[task][1], 1),
                "accuracy by position": counted.accuracy_by_position,
            }
            for task, counted in counts.items()
        }
