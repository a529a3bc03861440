"""The caption vocabulary of a dataset, and how many token ids it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import CFG, replace
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.plausibility import doubt_about_words, only_unusable
from pix2seq.errors import UserError
from pix2seq.runtime.console import tell
from pix2seq.runtime.text import decode_text
from pix2seq.schema import decode, read_bytes
from pix2seq.token_ids import TEXT_SHIFT
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import UNKNOWN, SentencePieceVocabulary, TextVocabulary, WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace

if TYPE_CHECKING:
    from pix2seq.task import Task

SIZE_UNIT = 64  # matrices are multiplied faster if their number of rows is a multiple of this


def caption_vocabulary(captions: list[str], cfg: CFG) -> TextVocabulary:
    """The vocabulary of `--text-model` or `--vocab` if one of them is named, else the words of `captions`."""
    return _named_vocabulary(cfg) or WordVocabulary.build(captions, cfg.data.caption_min_count)


def split_vocabulary(split: ImageDataset, cfg: CFG) -> TextVocabulary:
    """The vocabulary for the captions of a split, which are not read if their words are already known."""
    if split.caption_words:
        return _named_vocabulary(cfg) or WordVocabulary([UNKNOWN, *split.caption_words])
    captions = split.all_captions()
    if not captions:
        raise UserError(f"{split.folder} has no captions; leave captioning out of --task{only_unusable(split)}")
    text = caption_vocabulary(captions, cfg)
    if isinstance(text, WordVocabulary) and (doubt := doubt_about_words(text, captions)):
        tell(doubt)
    return text


def _named_vocabulary(cfg: CFG) -> TextVocabulary | None:
    data = cfg.data
    if data.text_model and data.vocab:
        raise UserError("--text-model and --vocab both name a caption vocabulary; leave one of them out")
    if data.text_model:
        return SentencePieceVocabulary.read(Path(data.text_model))
    if data.vocab:
        return WordVocabulary(read_vocab(Path(data.vocab)))
    return None


def token_ids_for(text: TextVocabulary, least: int) -> int:
    """The number of token ids, at least `least`, of a model with the vocabulary `text`."""
    needed = TEXT_SHIFT + len(text)
    return least if needed <= least else -(-needed // SIZE_UNIT) * SIZE_UNIT


def read_vocab(path: Path) -> list[str]:
    """The words of a file that build_captioning_vocab.py wrote."""
    try:
        text = decode_text(read_bytes(path), path)
    except OSError as error:
        raise UserError(
            f"the word list {path} cannot be read ({error.strerror}); make it with build_captioning_vocab.py"
        ) from None
    words = decode(text, list[str], f"the word list {path}", "make it again with build_captioning_vocab.py")
    if words[:1] != [UNKNOWN]:
        raise UserError(f"{path} must begin with {UNKNOWN}; make it again with build_captioning_vocab.py")
    return words


def training_tokenizers(
    training: ImageDataset, tasks: Mapping[str, Task], cfg: CFG, text: TextVocabulary | None = None
) -> Tokenizers:
    """The tokenizers of `tasks` for the labels of this split: its classes, keypoints, and the words of its captions, or
    `text`, the vocabulary that a run began with.

    Their `vocab_size` is that of the settings, or larger where the captions' words need more token ids.
    """
    has_captions = any(task.samples.COCO_FILE == "captions" for task in tasks.values())
    if text is None:
        text = split_vocabulary(training, cfg) if has_captions else WordVocabulary([])
    cfg = replace(cfg, vocab_size=token_ids_for(text, cfg.model.vocab_size))
    labels = LabelSpace(sorted(training.class_names), len(training.skeleton), text)
    return Tokenizers.build(tasks, cfg, labels)
