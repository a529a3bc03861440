"""Names of classes and keypoints: which of two lists mean the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from pix2seq.errors import UserError, shown

LISTED_NAME = re.compile(r"""\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^"',][^,]*|))\s*(?:,|$)""")

# Pascal VOC's names of classes that COCO calls otherwise.
ALIASES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def split_names(text: str, flag: str) -> tuple[str, ...]:
    """The names in a text, with commas between them; in quotes, double or single, a name may have a comma itself.

    Raises UserError, which names the `flag`, if a quote is not closed.
    """
    names, rest = [], text
    while rest.strip():
        found = LISTED_NAME.match(rest)
        if not found:
            raise UserError(
                f"{flag} expects names with commas between them, and quotes around a name that has a comma, such as "
                f"'tie, bow',cat; got {shown(text)}"
            )
        names.append((found["double"] or found["single"] or found["plain"] or "").strip())
        rest = rest[found.end() :]
    return tuple(name for name in names if name)


def match_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each of `names` that means the same as one of `known`: that one. No two names have the same match.

    The same spelling comes first. Of the rest, names match that differ in case, spaces, hyphens and underscores alone,
    or by ALIASES, unless several in one of the lists do: then it is not known which means which.
    """
    names, known = list(dict.fromkeys(names)), list(dict.fromkeys(known))
    matches = {name: name for name in names if name in set(known)}
    spelled, found = Counter(map(_plain, names)), Counter(map(_plain, known))
    by_plain = {_plain(name): name for name in known}
    for name in names:
        plain = _plain(name)
        if name not in matches and spelled[plain] == found[plain] == 1:
            matches[name] = by_plain[plain]
    return matches


def _plain(name: str) -> str:
    """The name in lower case without spaces, hyphens and underscores, with COCO's word for VOC's."""
    bare = _bare(name)
    return _bare(ALIASES.get(bare, bare))


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold()) or name
