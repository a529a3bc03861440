"""Ask a model about the images of a split, on as many processes as there are, and score its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from pix2seq.dataset.batches import Batch, Readable, collate
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.keypoint import has_keypoints
from pix2seq.dataset.samples import Sample, SequenceDataset
from pix2seq.dataset.segmentation import has_mask
from pix2seq.errors import UserError
from pix2seq.evaluate.captioning import score_captioning
from pix2seq.evaluate.detection import score_detection
from pix2seq.evaluate.keypoint import score_keypoint
from pix2seq.evaluate.predictions import Answers, Scores
from pix2seq.evaluate.segmentation import mask_ious, score_segmentation
from pix2seq.evaluate.tokens import FreePredictor, TokenCounts
from pix2seq.infer.predictor import Encoded, Predictor
from pix2seq.infer.results import Instances
from pix2seq.runtime import distributed

FREE_IMAGES = 64  # images that a model is asked about once more without its grammar


@dataclass
class Evaluation:
    """What came of one: `answers` by image in the split's order, `scores` and figures of `tokens` by task."""

    answers: list[Answers]
    scores: dict[str, Scores]
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The figures of each task."""
        return {task: scores.metrics for task, scores in self.scores.items()}


def evaluate(predictor: Predictor, split: ImageDataset, tasks: Sequence[str], tokens: bool = True) -> Evaluation:
    """Figures of `tasks` on `split`, or on its first `max_images`; with `tokens` those of single tokens too.

    Images that cannot be read are left out of answers and truth and counted in the `problems` of `split`.
    Each process asks about some of the chunks of `eval_batch_size` images that one process would ask about, so that
    the answers are the same; all processes return them all, the first one alone with `scores`.
    """
    split.leave_out_unreadable()
    split.read_unknown_sizes()
    taught = SequenceDataset(split, predictor.tokenizers, predictor.taught, augment=False) if tokens else None
    free = FreePredictor(predictor) if tokens else None
    count = min(len(split), predictor.cfg.infer.max_images or len(split))
    chunks = _own_chunks(count, predictor.cfg.infer.eval_batch_size)
    answers: list[Answers] = []
    damaged: list[tuple[int, str]] = []
    loader = DataLoader(Readable(split), batch_sampler=chunks, collate_fn=list, num_workers=predictor.cfg.data.workers)
    with _bar("evaluating", chunks) as bar:
        for chunk, loaded in zip(chunks, loader, strict=True):
            found = dict(zip(chunk, loaded, strict=True))
            damaged += [(index, str(error)) for index, error in found.items() if isinstance(error, UserError)]
            read = {index: example for index, example in found.items() if isinstance(example, Example)}
            answers += ask(predictor, tasks, list(read), list(read.values()))
            few = {index: example for index, example in read.items() if index < FREE_IMAGES}
            if free and few:
                ask(free, tasks, list(few), list(few.values()), detected_boxes=False)
            bar.update(len(chunk))
    for _, error in sorted(distributed.gather(damaged)):
        split.problems.add("image that cannot be read whole, left out", error)
    answers = sorted(distributed.gather(answers), key=lambda answer: answer.index)
    if not answers:
        raise UserError(f"{split.folder} has no image that can be read: {'; '.join(split.problems.lines())}")
    figures = _token_figures(count_tokens(predictor, taught, tasks), free) if free else {}
    scores = score(answers, split, tasks, predictor) if distributed.rank() == 0 else {}
    return Evaluation(answers, scores, figures)


def _own_chunks(count: int, size: int) -> list[list[int]]:
    """This process's share of `count` images in chunks of `size`."""
    chunks = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    return chunks[distributed.rank() :: distributed.world_size()]


def _bar(title: str, chunks: list[list[int]]) -> tqdm:
    return tqdm(total=sum(map(len, chunks)), desc=title, unit=" images", disable=distributed.rank() > 0)


def ask(
    predictor: Predictor,
    tasks: Sequence[str],
    indices: Sequence[int],
    examples: Sequence[Example],
    detected_boxes: bool = True,
) -> list[Answers]:
    """All `tasks` about some images; masks and poses of the true instances and, if asked, of the detected ones."""
    images = [example.image for example in examples]
    answers = [Answers(index, example.image_id) for index, example in zip(indices, examples, strict=True)]
    detects = "detection" in predictor.trained_tasks and set(tasks) != {"captioning"}
    whole = predictor.encode_images(images) if detects or "captioning" in tasks else None
    if "captioning" in tasks:
        captions = predictor.caption(images, whole)
        for answer, example, caption in zip(answers, examples, captions, strict=True):
            answer.caption, answer.references = caption, example.captions
    if "segmentation" in tasks:
        _ask_for_masks(predictor, answers, examples, images, whole)
    if "keypoint" in tasks:
        _ask_for_poses(predictor, answers, examples, images)
    if detects:
        found = predictor.detect(images, whole)
        about = tasks if detected_boxes else ()
        for answer, result in zip(answers, predictor.describe_instances(images, about, found, whole), strict=True):
            answer.detected = result
    return answers


def _ask_for_masks(
    predictor: Predictor,
    answers: list[Answers],
    examples: Sequence[Example],
    images: list[np.ndarray],
    whole: Encoded | None,
) -> None:
    chosen = [np.flatnonzero(has_mask(example)) for example in examples]
    results = predictor.describe_instances(images, ("segmentation",), _true_instances(examples, chosen), whole)
    for answer, example, indices, result in zip(answers, examples, chosen, results, strict=True):
        answer.segmented = result
        polygons = [example.polygons[index] for index in indices]
        answer.mask_ious = mask_ious(result, polygons, *example.image.shape[:2])


def _ask_for_poses(
    predictor: Predictor, answers: list[Answers], examples: Sequence[Example], images: list[np.ndarray]
) -> None:
    chosen = [np.flatnonzero(has_keypoints(example)) for example in examples]
    results = predictor.describe_instances(images, ("keypoint",), _true_instances(examples, chosen))
    for answer, result in zip(answers, results, strict=True):
        answer.posed = result


def _true_instances(examples: Sequence[Example], chosen: Sequence[np.ndarray]) -> list[Instances]:
    return [
        Instances(example.boxes[indices], example.classes[indices], np.ones(len(indices)))
        for example, indices in zip(examples, chosen, strict=True)
    ]


def score(
    answers: Sequence[Answers], split: ImageDataset, tasks: Sequence[str], predictor: Predictor
) -> dict[str, Scores]:
    """The figures of each task."""
    infer = predictor.cfg.infer
    scorers = {
        "detection": lambda: score_detection(answers, split, infer.score_threshold),
        "segmentation": lambda: score_segmentation(answers, split),
        "keypoint": lambda: score_keypoint(answers, split, infer.points_score_weight),
        "captioning": lambda: score_captioning(answers),
    }
    return {task: scorers[task]() for task in tasks}


@torch.inference_mode()
def count_tokens(predictor: Predictor, taught: SequenceDataset, tasks: Sequence[str]) -> dict[str, TokenCounts]:
    """How well true tokens are told, the true ones before each being given, on at most `eval_images` images."""
    size = predictor.cfg.model.image_size
    count = min(len(taught), predictor.cfg.train.eval_images, predictor.cfg.infer.max_images or len(taught))
    chunks = _own_chunks(count, predictor.cfg.infer.eval_batch_size)
    parts: list[tuple[int, str, TokenCounts]] = []
    text_end = predictor.tokenizers["captioning"].text.end
    with _bar("counting tokens", chunks) as bar:
        for chunk in chunks:
            loaded = (Readable(taught)[0, index, size] for index in chunk)
            samples = [sample for sample in loaded if isinstance(sample, Sample)]
            if samples:
                parts += [(chunk[0], *counted) for counted in _counted(predictor, collate(samples), text_end)]
            bar.update(len(chunk))
    sums: dict[str, TokenCounts] = {}
    for _, task, counts in sorted(distributed.gather(parts), key=lambda part: part[:2]):
        sums[task] = sums.get(task, TokenCounts(text_end)) + counts
    return {task: sums[task] for task in tasks if task in sums}


def _counted(predictor: Predictor, batch: Batch, text_end: int) -> list[tuple[str, TokenCounts]]:
    batch = batch.to(predictor.device)
    groups = [(part.tokens, part.image_index) for part in batch.tasks.values()]
    answers, parts = predictor.model.forward_groups(batch.images, groups), []
    for (task, part), logits in zip(batch.tasks.items(), answers, strict=True):
        counts = TokenCounts(text_end)
        counts.add(logits, part.targets, part.weights)
        parts.append((task, counts))
    return parts


def _token_figures(counts: dict[str, TokenCounts], free: FreePredictor) -> dict[str, dict[str, Any]]:
    sums = {task: [0, 0] for task in counts}
    for task, valid, asked in distributed.gather([(task, free.valid[task], free.asked[task]) for task in counts]):
        sums[task] = [sums[task][0] + valid, sums[task][1] + asked]
    return {
        task: {
            "accuracy": told.accuracy,
            "perplexity": told.perplexity,
            "valid without grammar": sums[task][0] / max(sums[task][1], 1),
            "accuracy by position": told.accuracy_by_position,
        }
        for task, told in counts.items()
    }
