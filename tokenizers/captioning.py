"""Captions as tokens: `13` → text ids + 3000, then the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenizers.vocabulary import END, PROMPTS, TEXT_SHIFT, Grammar, TokenSequence, until_end

UNKNOWN = "<unk>"


def split_words(text: str) -> list[str]:
    """Lower-case words and punctuation marks, by nltk's Toktok rules (which need no downloaded corpus)."""
    from nltk.tokenize.toktok import ToktokTokenizer  # slow to import, and not needed to read a model's answer

    return ToktokTokenizer().tokenize(text.lower())


@dataclass(frozen=True)
class WordVocabulary:
    """Words by text id. Another text model fits in here if it has `encode`, `decode` and a length."""

    words: Sequence[str]

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
        return " ".join(self.words[index] if index < len(self.words) else UNKNOWN for index in ids)


@dataclass(frozen=True)
class CaptioningTokenizer:
    """Captions to tokens and back."""

    vocab_size: int
    text: WordVocabulary
    max_words: int = 64  # longer captions are cut; COCO's longest has fewer

    def prompt(self) -> np.ndarray:
        """(1,)"""
        return np.array([PROMPTS["captioning"]])

    def encode(self, caption: str) -> TokenSequence:
        """Teach a caption."""
        words = np.array(self.text.encode(caption)[: self.max_words], dtype=np.int64)
        response = np.append(words + TEXT_SHIFT, END)
        return TokenSequence.teach(self.prompt(), response, np.ones(len(response)))

    def grammar(self) -> Grammar:
        """At least one known word, then words until the end."""
        grammar = Grammar(2, self.vocab_size)
        words = slice(TEXT_SHIFT + 1, TEXT_SHIFT + len(self.text))  # <unk> has text id 0 and is never said
        grammar.allow(0, words, 1)
        grammar.allow(1, words, 1)
        grammar.allow(1, END, grammar.end)
        return grammar

    def decode(self, tokens: np.ndarray) -> str:
        """The caption in `tokens` (T,) without the prompt; tokens that are not text are left out."""
        tokens = until_end(np.asarray(tokens))
        return self.text.decode(tokens[tokens >= TEXT_SHIFT] - TEXT_SHIFT)
