"""Whether annotations make sense as a whole: entries may each be valid, and all of them mean something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pix2seq.dataset.box_counts import BOXES, KEYPOINTS, POLYGONS
from pix2seq.dataset.mixture import Mixture, datasets_of, teaches
from pix2seq.errors import UserError
from pix2seq.tokenizers.captioning import UNKNOWN, WordVocabulary

if TYPE_CHECKING:
    from pix2seq.config import CFG
    from pix2seq.dataset.coco import ImageDataset
    from pix2seq.task import Task

LOOKED_AT = 2000  # captions whose words are counted


def require_plausible(examples: ImageDataset | Mixture, tasks: Mapping[str, Task]) -> None:
    """Raise UserError if the boxes of a source, or the polygons or keypoints that one of the `tasks` needs, are all
    fractions, if boxes are corners where sides are expected, or if lists of keypoints contradict each other."""
    for dataset in datasets_of(examples):
        if any(task.needs_skeleton for task in tasks.values()) and dataset.skeleton_fault:
            raise UserError(dataset.skeleton_fault)
        about_objects = [task for task in tasks.values() if task.about_objects]
        kinds = [BOXES] if about_objects else []
        kinds += [KEYPOINTS if task.needs_skeleton else POLYGONS for task in about_objects if task.is_prompted]
        if kinds and (fault := dataset.box_counts.fault(kinds)):
            raise UserError(f"{dataset.folder}: {fault}")


def require_learnable(examples: ImageDataset | Mixture, tasks: Mapping[str, Task]) -> None:
    """Raise UserError if there is nothing to learn for one of the `tasks`: weights would claim to know it."""
    datasets = datasets_of(examples)
    if not all(dataset.complete for dataset in datasets):
        return  # not drawn yet
    for name, task in tasks.items():
        if not any(teaches(dataset, task) for dataset in datasets):
            raise UserError(
                f"{examples.folder} has nothing to learn for {name}; leave it out of --task, or correct the "
                f"annotations{only_unusable(examples)}"
            )


def only_unusable(examples: ImageDataset | Mixture) -> str:
    """What was reported about the annotations, as the end of a sentence."""
    datasets = datasets_of(examples)
    mistakes = list(examples.problems.lines())
    crowds = sum(sum(dataset.crowds.values()) for dataset in datasets)
    if crowds and not any(dataset.objects for dataset in datasets):
        mistakes.insert(0, f"all {crowds} objects are crowds (iscrowd is 1), which are not trained on")
    return f"; what they were reported for: {'; '.join(mistakes)}" if mistakes else ""


def doubts_about_boxes(examples: ImageDataset | Mixture, tasks: Mapping[str, Task]) -> list[str]:
    """What is doubtful about the boxes of each source."""
    if not any(task.about_objects for task in tasks.values()):
        return []
    datasets = datasets_of(examples)
    return [f"{dataset.folder}: {doubt}" for dataset in datasets if (doubt := dataset.box_counts.doubt())]


def doubt_about_mirroring(examples: ImageDataset | Mixture, tasks: Mapping[str, Task], cfg: CFG) -> str:
    """What is doubtful about mirrored keypoints: no point has a partner, and no file says that none has."""
    skeleton = examples.skeleton
    if not (cfg.data.flip or cfg.data.crop_flip) or not any(task.needs_skeleton for task in tasks.values()):
        return ""
    given = any("flip_pairs" in category for dataset in datasets_of(examples) for category in dataset.categories)
    if len(skeleton) < 2 or given or any(partner != point for point, partner in enumerate(skeleton.flip)):
        return ""
    return (
        f"images are mirrored, but none of the keypoints {', '.join(skeleton.names[:4])}… changes sides, as no two "
        "names are left and right: list pairs as flip_pairs in the category (an empty list if none has a side), or set "
        "--flip 0 --crop-flip 0"
    )


def doubt_about_words(text: WordVocabulary, captions: Sequence[str]) -> str:
    """What is doubtful about a word list, if anything; raise UserError if it knows no word of the captions."""
    looked_at = captions[:: max(len(captions) // LOOKED_AT, 1)]
    ids = [number for caption in looked_at for number in text.encode(caption)]
    unknown = sum(number == 0 for number in ids)
    way_out = "lower --caption-min-count, or name a SentencePiece model with --text-model"
    if ids and unknown == len(ids):
        raise UserError(
            f"the word list has no word of the captions, such as {captions[0]!r}: all are {UNKNOWN}; {way_out}"
        )
    if 2 * unknown > len(ids):
        return f"{100 * unknown / len(ids):.0f} % of the captions' words are {UNKNOWN}, as they are too rare; {way_out}"
    return ""
