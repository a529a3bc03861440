"""Names of classes and keypoints: which of two lists mean the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Pascal VOC's names of classes that COCO calls otherwise.
ALIASES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


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
