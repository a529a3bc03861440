"""Captions as tokens: `13` → text ids + 3000, then the end.

What the text ids stand for is a text vocabulary's business: words, or the pieces of a SentencePiece model. Each knows
its length, how to `encode` and `decode` a text, which of its ids are `predictable`, and the token that is the `end`.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pix2seq.errors import UserError, plain
from pix2seq.schema import read_bytes
from pix2seq.token_ids import END, FAKE, TEXT_SHIFT
from pix2seq.tokenizers.vocabulary import Grammar, LabelSpace, TokenSequence, until_end
from pix2seq.tokenizers.words import as_seen, join_words, split_words

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

    from pix2seq.config import CFG

PROMPT = 13
UNKNOWN = "<unk>"
SPACE = "\u2581"  # how SentencePiece spells a space in its pieces
MOST_OF_CAPTION = 10_000  # characters


@dataclass(frozen=True)
class WordVocabulary:
    """Words by text id, `<unk>` first."""

    words: Sequence[str]
    end = END

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int) -> WordVocabulary:
        """All words that occur at least `min_count` times, commonest first, after `<unk>`."""
        counts: dict[str, int] = {}
        for caption in captions:
            for word in split_words(caption):
                counts[word] = counts.get(word, 0) + 1
        counts.pop(UNKNOWN, None)
        common = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
        return cls([UNKNOWN, *common])

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """Text ids of a caption."""
        return [self._ids.get(word, 0) for word in split_words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption of text ids; ids beyond the vocabulary read as `<unk>`."""
        return join_words([self.words[index] if index < len(self.words) else UNKNOWN for index in ids])

    def word(self, index: int) -> str:
        """The word of a text id of this vocabulary."""
        return self.words[index]

    @property
    def predictable(self) -> np.ndarray:
        """Text ids that an answer may hold: all but `<unk>`."""
        return np.arange(1, len(self))

    def describe(self) -> dict[str, Any]:
        """What `read_text` makes this vocabulary from again, for JSON."""
        return {"words": list(self.words)}


@dataclass(frozen=True)
class SentencePieceVocabulary:
    """Pieces by text id, of a SentencePiece model (Kudo & Richardson, 2018): `model` is its file's content.

    Raises ValueError if it is none, or if it has no piece for the end, with which official captions end.
    """

    model: bytes

    def __post_init__(self) -> None:
        if self._pieces.eos_id() < 0:
            raise ValueError("it has no end-of-sentence piece")

    @classmethod
    def read(cls, path: Path) -> SentencePieceVocabulary:
        """The vocabulary of a `.model` file."""
        try:
            return cls(read_bytes(path))
        except OSError as error:
            raise UserError(f"the text model {path} cannot be read ({error.strerror}); check its path") from None
        except ValueError as error:
            raise UserError(f"{path} is not a SentencePiece model of captions: {error}; get it again") from None

    @cached_property
    def _pieces(self) -> SentencePieceProcessor:
        from sentencepiece import SentencePieceProcessor  # word lists do not need it

        if not self.model:  # the package takes this for a model yet to come
            raise ValueError("it is empty")
        try:
            return SentencePieceProcessor(model_proto=self.model)
        except RuntimeError:
            raise ValueError("its content is damaged or of another kind") from None

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def end(self) -> int:
        """The token of the model's end-of-sentence piece."""
        return self._pieces.eos_id() + TEXT_SHIFT

    def encode(self, text: str) -> list[int]:
        """Text ids of a caption."""
        return self._pieces.encode(as_seen(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The caption of text ids; ids beyond the vocabulary are left out."""
        return plain(self._pieces.decode([int(index) for index in ids if index < len(self)]), MOST_OF_CAPTION)

    def word(self, index: int) -> str:
        """The piece of a text id of this vocabulary, with the space before it if it begins a word."""
        piece = self._pieces.id_to_piece(index).replace(SPACE, " ")
        return "".join(character for character in piece if character.isprintable())

    @property
    def predictable(self) -> np.ndarray:
        """Text ids that an answer may hold: all that spell something."""
        pieces = self._pieces
        mute = (pieces.is_unknown, pieces.is_control, pieces.is_unused)
        return np.array([index for index in range(len(self)) if not any(is_kind(index) for is_kind in mute)], dtype=int)

    def describe(self) -> dict[str, Any]:
        """What `read_text` makes this vocabulary from again, for JSON."""
        return {"sentencepiece": base64.b64encode(self.model).decode()}


TextVocabulary = WordVocabulary | SentencePieceVocabulary


def read_text(description: dict[str, Any], vocab_size: int) -> TextVocabulary:
    """The text vocabulary that `describe` described, of a model with `vocab_size` token ids."""
    try:
        if "sentencepiece" in description:
            text = SentencePieceVocabulary(base64.b64decode(description["sentencepiece"], validate=True))
        else:
            text = WordVocabulary(description["words"])
    except (ValueError, KeyError) as error:
        raise UserError(f"the caption vocabulary cannot be read ({error}); get the weights file again") from None
    if len(text) > 1 and TEXT_SHIFT + len(text) > vocab_size:  # one that knows no word is used for no caption
        raise UserError(
            f"the caption vocabulary has {len(text)} entries, and the model {vocab_size} token ids, of which "
            f"{TEXT_SHIFT} are no text; get the weights file again"
        )
    return text


@dataclass(frozen=True)
class CaptioningTokenizer:
    """Captions to tokens and back."""

    vocab_size: int
    text: TextVocabulary
    max_words: int  # words or pieces; longer captions are cut
    end_weight: float
    prompt_length = 1
    roles = ("text", "end")

    @classmethod
    def build(cls, cfg: CFG, labels: LabelSpace) -> CaptioningTokenizer:
        """The tokenizer of a model with these settings."""
        if not len(labels.text.predictable):
            raise UserError("captioning expects a caption vocabulary with words, got one without; leave the task out")
        return cls(cfg.model.vocab_size, labels.text, cfg.model.max_words, cfg.train.caption_end_weight)

    @property
    def max_response(self) -> int:
        """The words and the end."""
        return self.max_words + 1

    def prompt(self) -> np.ndarray:
        """(1,)"""
        return np.array([PROMPT])

    def encode(self, caption: str) -> TokenSequence:
        """A caption and its end as targets."""
        words = np.array(self.text.encode(caption)[: self.max_words], dtype=np.int64)
        response = np.append(words + TEXT_SHIFT, self.text.end)
        return TokenSequence.from_response(self.prompt(), response, np.append(np.ones(len(words)), self.end_weight))

    def grammar(self) -> Grammar:
        """At least one known word, then words until the end."""
        grammar = Grammar(2, self.vocab_size, scored_states=())
        words = self.text.predictable + TEXT_SHIFT
        grammar.allow(0, words, 1, "word")
        grammar.allow(1, words, 1, "word")
        grammar.allow(1, self.text.end, grammar.end, "end")
        return grammar

    def decode(self, tokens: np.ndarray) -> str:
        """The caption in `tokens` (T,) without the prompt; tokens that are not text are left out."""
        tokens = until_end(np.asarray(tokens), self.text.end)
        return self.text.decode(tokens[tokens >= TEXT_SHIFT] - TEXT_SHIFT)


def drop_words(sequence: TokenSequence, rate: float, rng: np.random.Generator) -> TokenSequence:
    """Hide each input token, the prompt too, with chance `rate`: the answer must then lean on the image.

    The official models are trained with a rate of 0.5.
    """
    hidden = rng.random(len(sequence.input)) < rate
    return dataclasses.replace(sequence, input=np.where(hidden, FAKE, sequence.input))
