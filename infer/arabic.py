"""Hebrew and Arabic for a renderer that draws letters as they come, from left to right.

The order is that of Unicode's bidirectional algorithm for a line from left to right, as far as names need it: a phrase
of such letters runs from right to left, numbers in it do not. Arabic letters take the form that joins them to their
neighbors; Unicode lists these forms, and which letter each is of.
"""

from __future__ import annotations

import re
import unicodedata

LAM, ALEFS = "\u0644", "\u0622\u0623\u0625\u0627"  # which are drawn as one where they follow each other
TATWEEL = "\u0640"  # a stroke that joins on both sides
RIGHT_TO_LEFT = ("R", "AL")
PRESENTATION_FORMS = (*range(0xFB50, 0xFDFC), *range(0xFE70, 0xFEFD))
PHRASE = re.compile("R(?:[^L]*R)?")  # in a string of directions
NUMBER = re.compile(r"\d[\d.,:/]*")


def _forms() -> dict[str, dict[str, str]]:
    """The forms <isolated>, <final>, <initial> and <medial> of a letter, or of lam with an alef, by that text."""
    forms: dict[str, dict[str, str]] = {}
    for code in PRESENTATION_FORMS:
        kind, *letters = unicodedata.decomposition(chr(code)).split() or [""]
        text = "".join(chr(int(letter, 16)) for letter in letters)
        if len(text) == 1 or (len(text) == 2 and text[0] == LAM and text[1] in ALEFS):
            forms.setdefault(text, {}).setdefault(kind, chr(code))
    return {text: kinds for text, kinds in forms.items() if "<isolated>" in kinds}


FORMS = _forms()
LIGATURES = re.compile("|".join(re.escape(text) for text in FORMS if len(text) == 2) + "|.", re.DOTALL)


def in_writing_order(text: str) -> str:
    """The line with its letters in the order and the forms in which they are seen from left to right."""
    directions = "".join(map(_direction, text))
    if "R" not in directions:
        return text
    line, end = [], 0
    for match in PHRASE.finditer(directions):
        line += [text[end : match.start()], _reversed(joined(text[match.start() : match.end()]))]
        end = match.end()
    return "".join([*line, text[end:]])


def _direction(letter: str) -> str:
    """R or L of a letter that runs from right to left, or from left to right; a dot for others."""
    kind = unicodedata.bidirectional(letter)
    return "R" if kind in RIGHT_TO_LEFT else "L" if kind == "L" else "."


def _reversed(text: str) -> str:
    """The text from its end to its beginning, but numbers as they were."""
    return NUMBER.sub(lambda match: match[0][::-1], text)[::-1]


def joined(text: str) -> str:
    """Arabic letters in the forms that join them, without marks of vowels, which would stand beside their letters."""
    letters = LIGATURES.findall("".join(letter for letter in text if unicodedata.category(letter) != "Mn"))
    shown = []
    for number, letter in enumerate(letters):
        before = letters[number - 1] if number else ""
        after = letters[number + 1] if number + 1 < len(letters) else ""
        to_before = _joins_next(before) and _joins_previous(letter)
        to_after = _joins_next(letter) and _joins_previous(after)
        kind = ("<medial>" if to_before else "<initial>") if to_after else "<final>" if to_before else "<isolated>"
        shown.append(FORMS.get(letter, {}).get(kind, letter))
    return "".join(shown)


def _joins_next(letter: str) -> bool:
    return letter == TATWEEL or "<initial>" in FORMS.get(letter, {})


def _joins_previous(letter: str) -> bool:
    return letter == TATWEEL or "<final>" in FORMS.get(letter, {})
