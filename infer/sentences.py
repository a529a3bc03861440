"""What a model decoded, token by token, as people read it: every prediction is a sentence, prompt and response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Result
from pix2seq.token_ids import CLASS_SHIFT, COORD_SHIFT, TEXT_SHIFT, is_coord
from pix2seq.tokenizers.vocabulary import PROMPT_ROLES, dequantize

if TYPE_CHECKING:
    from pix2seq.infer.predictor import Predictor


@dataclass(frozen=True)
class Token:
    """A token by its `id` in the vocabulary.

    `role` is what it stands for where it is: task, y1, x1, y2, x2, class, y, x, separator, invisible, word, end; of a
    task that was added, what its grammar calls it. `text` is the number in pixels, the name or the word; elsewhere the
    role. `value` is a coordinate in pixels of the image, None of other tokens. `probability` is that in the softmax
    over the whole vocabulary, before grammar, temperature and nucleus; 1 in a prompt, which is given. `item` counts the
    objects of a list, or the polygons of an outline.
    """

    id: int
    role: str
    text: str
    value: float | None
    probability: float
    item: int = 0


@dataclass(frozen=True)
class Sentence:
    """A sequence that was decoded for a `task`: `response` to `prompt`.

    `instance` is the index of the instance that the prompt points at, None if it is about the image. Where several
    sequences vote on a prediction, `sample` numbers those of a prompt.
    """

    task: str
    instance: int | None
    sample: int
    prompt: tuple[Token, ...]
    response: tuple[Token, ...]

    def __str__(self) -> str:
        prompt, response = (" ".join(token.text.strip() for token in part) for part in (self.prompt, self.response))
        return f"{prompt} → {response}"


def sentences_of(result: Result, predictor: Predictor) -> list[Sentence]:
    """All that was decoded for a result with answers: of each task in turn every prompt, and of this every sample."""
    return [
        sentence_of(
            task, None if canvas.prompt is None else number, sample, prompt, response, canvas.geometry, predictor
        )
        for task, answers in result.answers.items()
        for number, answer in enumerate(answers)
        if answer is not None
        for sample, (prompt, response, canvas) in enumerate(
            zip(answer.prompts, answer.responses, answer.canvases, strict=True)
        )
    ]


def sentence_of(
    task: str,
    instance: int | None,
    sample: int,
    prompt: np.ndarray,
    response: Response,
    geometry: Geometry,
    predictor: Predictor,
) -> Sentence:
    """The sentence of a `response`, which may not have come to its end yet, to a `prompt` (P,) about a canvas."""
    parsed = predictor.grammars[task].parse(response.tokens.tolist())
    prompted = [
        _token(token, role, geometry, predictor, 1.0, task)
        for token, role in zip(prompt.tolist(), PROMPT_ROLES, strict=False)
    ]
    spoken = [
        _token(token, role, geometry, predictor, probability, role, item)
        for token, probability, (role, item) in zip(
            response.tokens.tolist(), response.probs.tolist(), parsed, strict=False
        )
    ]
    return Sentence(task, instance, sample, tuple(prompted), tuple(spoken))


def _token(
    token: int, role: str, geometry: Geometry, predictor: Predictor, probability: float, otherwise: str, item: int = 0
) -> Token:
    """A token by its id, whose text is `otherwise` where it is no number, name or word."""
    value = None
    if is_coord(token):
        x, y = geometry.from_fractions(np.full((1, 2), dequantize(token)))[0].tolist()
        value = y if role.startswith("y") else x
        text = f"{value:.1f}"
    elif CLASS_SHIFT <= token < COORD_SHIFT:
        text = predictor.class_names.get(token - CLASS_SHIFT, str(token - CLASS_SHIFT))
    elif token >= TEXT_SHIFT and role != "end":  # which of some vocabularies is a piece of text
        text = predictor.tokenizers.labels.text.word(token - TEXT_SHIFT)
    else:
        text = otherwise
    return Token(token, role, text, value, probability, item)
