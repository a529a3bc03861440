"""The tokenizers of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.tokenizers.captioning import CaptioningTokenizer, TextVocabulary
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer

COCO_POINTS = 17


def build_tokenizers(cfg: CFG, class_ids: Sequence[int], text: TextVocabulary, num_points: int = COCO_POINTS) -> dict:
    """The tokenizer of every task by its name; `num_points` are the keypoints of an instance."""
    vocab_size = cfg.model.vocab_size
    return {
        "detection": DetectionTokenizer(
            vocab_size, class_ids, cfg.train.end_weight, cfg.train.noise_weight, cfg.model.full_detection
        ),
        "segmentation": SegmentationTokenizer(vocab_size, separators=cfg.model.separators),
        "keypoint": KeypointTokenizer(vocab_size, num_points, cfg.train.invisible_weight),
        "captioning": CaptioningTokenizer(vocab_size, text, cfg.model.max_words, cfg.train.caption_end_weight),
    }


def check_lengths(cfg: CFG, num_points: int = COCO_POINTS) -> None:
    """Raise UserError unless the longest sequence that may be taught fits into the decoder."""
    objects, points, words = cfg.model.max_objects, cfg.model.max_points, cfg.model.max_words
    longest = {
        "detection": (5 * objects + 1, f"--max-objects {objects}"),
        "segmentation": (2 * points + cfg.model.separators * (points // 3) + 5, f"--max-points {points}"),
        "keypoint": (2 * num_points + 5, f"an instance of {num_points} keypoints"),
        "captioning": (words + 1, f"--max-words {words}"),
    }
    for task, (length, flag) in longest.items():
        if task in cfg.tasks and length > cfg.model.max_tokens:
            raise UserError(
                f"{flag} makes {task} sequences of up to {length} tokens, but --max-tokens is {cfg.model.max_tokens}; "
                f"lower the one or raise the other"
            )
