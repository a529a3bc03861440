"""The tasks that there are. To add one, write its column of files (see CONTRIBUTING.md) and a line here."""

from __future__ import annotations

from collections.abc import Sequence

from pix2seq.dataset import captioning as caption_samples
from pix2seq.dataset import detection as detection_samples
from pix2seq.dataset import keypoint as keypoint_samples
from pix2seq.dataset import segmentation as segmentation_samples
from pix2seq.errors import UserError
from pix2seq.evaluate import captioning as caption_scores
from pix2seq.evaluate import detection as detection_scores
from pix2seq.evaluate import keypoint as keypoint_scores
from pix2seq.evaluate import segmentation as segmentation_scores
from pix2seq.infer import captioning as caption_inference
from pix2seq.infer import detection as detection_inference
from pix2seq.infer import keypoint as keypoint_inference
from pix2seq.infer import segmentation as segmentation_inference
from pix2seq.task import Task
from pix2seq.tokenizers.captioning import CaptioningTokenizer
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer

DETECTION = Task(
    "detection",
    "image",
    DetectionTokenizer,
    detection_samples,
    detection_inference,
    detection_scores,
    finds_instances=True,
    hub_task="object-detection",
)
SEGMENTATION = Task(
    "segmentation",
    "instance",
    SegmentationTokenizer,
    segmentation_samples,
    segmentation_inference,
    segmentation_scores,
    uncropped="segment_whole",
    hub_task="image-segmentation",
)
KEYPOINT = Task(
    "keypoint",
    "instance",
    KeypointTokenizer,
    keypoint_samples,
    keypoint_inference,
    keypoint_scores,
    needs_skeleton=True,
    hub_task="keypoint-detection",
)
CAPTIONING = Task(
    "captioning",
    "image",
    CaptioningTokenizer,
    caption_samples,
    caption_inference,
    caption_scores,
    hub_task="image-to-text",
)
TASKS: dict[str, Task] = {task.name: task for task in (DETECTION, SEGMENTATION, KEYPOINT, CAPTIONING)}


def choose_tasks(names: Sequence[str]) -> dict[str, Task]:
    """The tasks of `--task`, in its order; raise UserError on an unknown or repeated name."""
    for name in names:
        if name not in TASKS:
            raise UserError(f"--task expects names among {', '.join(TASKS)} with commas, got {name!r}")
    if len(set(names)) != len(names):
        raise UserError(f"--task names a task twice: {','.join(names)}")
    return {name: TASKS[name] for name in names}
