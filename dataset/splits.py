"""The splits of a dataset: what tools call them, and which images are held out where there is no validation split."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# What COCO, Pascal VOC, Roboflow, CVAT, Label Studio and Ultralytics call the same split; case does not matter.
TRAIN = ("train", "train2017", "training")
VAL = ("val", "val2017", "valid", "validation")
TEST = ("test", "test2017", "testing")
COPY = re.compile(r"[._]rf\.[0-9a-zA-Z]{8,}(?=\.\w+$)")  # Roboflow's mark of one of several copies of an image


@dataclass(frozen=True)
class Part:
    """The images of `split`, by its name in a layout; with `side`, TRAIN or VAL, only those on that side of the cut
    that holds out a `share` of them for validation."""

    split: str
    side: tuple[str, ...] = ()
    share: float = 0.0

    def chosen(self, names: Sequence[str]) -> list[bool]:
        """Which of all images of the split, by their files' names, belong to the part."""
        if not self.side:
            return [True] * len(names)
        return [held == (self.side == VAL) for held in held_out(names, self.share)]

    def describe(self) -> str:
        """How the part was made, as the end of a sentence."""
        if not self.side:
            return ""
        what = "held out" if self.side == VAL else "without those held out"
        return f", {what} by the hash of their names (--val-share {self.share:g})"


def held_out(names: Sequence[str], share: float) -> list[bool]:
    """Which images are for validation: a `share` of them, at least one, whose names have the lowest hashes.

    This depends on the names alone, not on their order or the machine; the images of a smaller share are among those of
    a larger one. Copies of an image that Roboflow augmented are on the same side. Of less than two, none is held out.
    """
    hashes = [_hash(name) for name in names]
    groups = sorted(Counter(hashes).items())
    held, count = set(), 0
    for number, size in groups[:-1]:
        if held and count + size / 2 > share * len(names):
            break
        held.add(number)
        count += size
    return [number in held for number in hashes]


def _hash(name: str) -> bytes:
    """What only depends on what an image is called, in any spelling of its path."""
    path = unicodedata.normalize("NFC", COPY.sub("", name.replace("\\", "/")))
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()


def role_of(split: str) -> tuple[str, ...]:
    """TRAIN, VAL or TEST if `split` is one of their names, else nothing."""
    return next((role for role in (TRAIN, VAL, TEST) if split.casefold() in role), ())


def packed_name(split: str, role: tuple[str, ...]) -> str:
    """What a split is called where it becomes a part of files' names: that of its role, or its own if it is a plain
    word; else that of the `role` it is used in."""
    own = role_of(split)
    return own[0] if own else split if re.fullmatch(r"\w[\w.-]{0,99}", split) else role[0]


def role_in(text: str) -> tuple[str, ...]:
    """The role that a file's name tells by one of its words, as `my_train_v2` does; nothing if it tells none or two."""
    roles = {role for word in re.findall(r"[a-z]+(?:2017)?", text.casefold()) if (role := role_of(word))}
    return roles.pop() if len(roles) == 1 else ()


def split_folders(root: Path) -> dict[str, Path]:
    """The folders in `root` that are named after a split, by these names, training first."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
    order = [name for role in (TRAIN, VAL, TEST) for name in role]
    named = {path.name: path for path in folders if path.name.casefold() in order}
    return dict(sorted(named.items(), key=lambda item: order.index(item[0].casefold())))


def name_in(split: str, known: Iterable[str]) -> str | None:
    """The name that `split` has among the `known` ones: its own, or another one of its role; None if it has none."""
    known = list(known)
    if split in known:
        return split
    lowered = {name.casefold(): name for name in reversed(known)}
    return next((lowered[name] for name in (split.casefold(), *role_of(split)) if name in lowered), None)


def whole_of(known: Iterable[str]) -> str | None:
    """The split of which some images can be held out: the training split, or the only one that is no other role's."""
    known = list(known)
    unnamed = [name for name in known if not role_of(name)]
    return name_in("train", known) or (unnamed[0] if len(unnamed) == 1 else None)
