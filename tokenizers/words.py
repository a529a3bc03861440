"""Captions to words and back: one splitter, by which captions are learned and by which they are scored.

Its rules are those of Stanford's PTBTokenizer (the Penn Treebank's, as COCO's caption server runs it), in lower case:
on 11,603 captions of COCO both give the same words. What differs on purpose: characters of scripts without spaces, and
symbols beyond ASCII such as emoji, are words of their own.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import cache
from html.entities import html5
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tokenize import RegexpTokenizer

# Scripts that put no spaces between words: Thai to Khmer, kana, Chinese characters, and the marks that go with these.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff65"
LETTER = r"[^\s!-/:-@\[-`{-~]"  # anything but white space and ASCII's punctuation
CLITIC = "n't|'(?:s|m|d|re|ve|ll)"  # what the Treebank splits from the word before it

# Abbreviations whose full stop belongs to the word, of those that PTBTokenizer knows.
ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|inc|cos?|corp|ltd|dept|assn|univ|est|ext|"
    "jr|sr|bros|esq|mrs?|ms|drs?|prof|sen|rep|lt|col|gen|gov|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|blvd|rd|pres|hon|mt|ft|"
    r"etc|al|vs|cf|ph\.d"
)
ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});", re.IGNORECASE)
MARKUP = re.compile(r"</?(?:br|p|b|i|u|em|strong|span|div|font)\b[^<>]*>", re.IGNORECASE)
SAME_AS = str.maketrans(
    dict.fromkeys("‘’‛`", "'") | dict.fromkeys("“”„«»", '"') | {"…": " ... ", "–": " -- ", "—": " -- "}
)
ZERO_WIDTH_SPACE = "\u200b"
WORD = rf"""<\w+>                                                # a name in place of a word, such as <unk>
    |(?:{CLITIC}|'t|(?<!\S)'n')(?!{LETTER})
    |(?<!{LETTER})(?:(?:[a-z]\.)+[a-z]?|(?:{ABBREVIATIONS})\.)(?!{LETTER})  # u.s. t.v. e.g. st.
    |(?<!{LETTER})\.\d+
    |{LETTER}+(?:(?:[-./&_]|(?<=\d)[,:](?=\d)|(?<=[^\W\d])'(?=[^\W\d])){LETTER}+)*  # 3,000-pound t-shirt and/or o'clock
    |\.\.\.|--|[!?]+|\S"""


@cache
def _rules() -> tuple[list[tuple[re.Pattern, str]], RegexpTokenizer]:
    """What is spelled apart, by patterns and replacements, and what splits the rest into words."""
    from nltk.tokenize import RegexpTokenizer  # takes a quarter of a second, and who only joins words needs none of it
    from nltk.tokenize.destructive import MacIntyreContractions

    # The Treebank's cannot, gimme, gonna, 'tis; not its more'n and d'ye, which Stanford's tokenizer leaves whole.
    contractions = [
        *(pattern for pattern in MacIntyreContractions.CONTRACTIONS2 if "'" not in pattern),
        *MacIntyreContractions.CONTRACTIONS3,
    ]
    spelled_apart = [
        (re.compile(rf"([{UNSPACED}])"), r" \1 "),
        (re.compile(rf"(?<={LETTER})({CLITIC})(?!{LETTER})"), r" \1"),
        *((re.compile(pattern), r" \1 \2") for pattern in contractions),
        (re.compile(r"\.{2,}"), " ... "),
        (re.compile(r"-{2,}"), " -- "),
    ]
    return spelled_apart, RegexpTokenizer(WORD, flags=re.VERBOSE)


def split_words(text: str) -> list[str]:
    """The lower-case words and punctuation marks of a caption; curly quotes are straight ones."""
    text = " ".join(as_seen(text).lower().translate(SAME_AS).split())
    spaced = " " + (text if text.isascii() else "".join(map(_spaced, text)))  # nltk's 'tis comes after a space
    spelled_apart, splitter = _rules()
    for pattern, replacement in spelled_apart:
        spaced = pattern.sub(replacement, spaced)
    return splitter.tokenize(spaced)


def as_seen(text: str) -> str:
    """A caption as people see it: HTML's entities are the characters that they stand for, its tags and control
    characters are left out, any white space is one space, and letters and their accents are one character (NFC)."""
    for _ in range(2):  # some exports escape what was escaped before
        text = ENTITY.sub(_character, text)
    text = " ".join(MARKUP.sub(" ", text).replace(ZERO_WIDTH_SPACE, " ").split())
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    return unicodedata.normalize("NFC", text)


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; one that HTML does not know stands for itself."""
    name = entity[0]
    return html.unescape(name) if name[1] == "#" else html5.get(name[1:], name)


def _spaced(character: str) -> str:
    """A character; between spaces if it is a mark or symbol beyond ASCII."""
    is_word = character.isascii() or unicodedata.category(character)[0] not in "PS"
    return character if is_word else f" {character} "


def join_words(words: list[str]) -> str:
    """The text of words: a space between two, but for scripts without spaces and for contractions."""
    text = " ".join(words)
    text = re.sub(f"(?<=[{UNSPACED}]) (?=[{UNSPACED}])", "", text)
    return re.sub(rf"(?<={LETTER}) (?=(?:{CLITIC})(?!{LETTER}))", "", text)
