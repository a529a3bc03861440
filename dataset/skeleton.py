"""The keypoints of a dataset: their names, pairs that swap in a mirrored image, and bones between them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pix2seq import coco_person
from pix2seq.dataset.annotations import Problems
from pix2seq.dataset.mending import are_numbers
from pix2seq.errors import UserError, plain, shown
from pix2seq.names import match_names
from pix2seq.token_ids import MOST_KEYPOINTS


@dataclass(frozen=True)
class Skeleton:
    """`names` (K,), `flip` (K,) the index of each point's mirror image, `bones` pairs of points counted from 0.

    `class_ids`: the classes that have these points. `sigmas` (K,): the points' tolerances in OKS; empty: COCO's own.
    """

    names: tuple[str, ...]
    flip: tuple[int, ...]
    bones: tuple[tuple[int, int], ...] = ()
    class_ids: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def side(self, point: int) -> str:
        """`left`, `right` or `middle`: by the point's name, else the first of a pair is left."""
        if self.flip[point] == point:
            return "middle"
        for side in ("left", "right"):
            if side in self.names[point].lower():
                return side
        return "left" if point < self.flip[point] else "right"

    def places_in(self, other: Skeleton) -> list[int]:
        """For each point of `other` the index of the point here that has its name, -1 if none has."""
        index = {match: self.names.index(name) for name, match in match_names(self.names, other.names).items()}
        return [index.get(name, -1) for name in other.names]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the metadata of a weights file."""
        return dataclasses.asdict(self)

    @classmethod
    def of_weights(cls, values: dict[str, Any], class_names: dict[int, str]) -> Skeleton:
        """The keypoints of a weights file; older files lack them, and have those of COCO's people."""
        return cls.from_dict(values) if values else default_skeleton(class_names)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Skeleton:
        """The skeleton that `to_dict` described, also after a conversion to JSON and back."""
        bones = tuple(tuple(bone) for bone in values["bones"])
        listed = {name: tuple(values[name]) for name in ("names", "flip", "class_ids", "sigmas")}
        return cls(bones=bones, **listed)


def join_skeletons(skeletons: Sequence[Skeleton]) -> Skeleton:
    """The points of all skeletons, those with the same name once: first all of the first one, then new ones."""
    names, sigmas, flip, bones = [], [], [], {}
    for skeleton in skeletons:
        matches = match_names(skeleton.names, names)
        first_new = len(names)
        new = [point for point in range(len(skeleton)) if skeleton.names[point] not in matches]
        names += [skeleton.names[point] for point in new]
        sigmas += [(skeleton.sigmas or coco_person.SIGMAS)[point] for point in new]
        place = [names.index(matches.get(name, name)) for name in skeleton.names]
        flip += range(first_new, len(names))
        for point in new:  # points that others have too keep their partners
            if place[skeleton.flip[point]] >= first_new:
                flip[place[point]] = place[skeleton.flip[point]]
        bones |= dict.fromkeys((place[one], place[other]) for one, other in skeleton.bones)
    class_ids = sorted({class_id for skeleton in skeletons for class_id in skeleton.class_ids})
    tolerances = () if tuple(names) == coco_person.KEYPOINTS and not any(s.sigmas for s in skeletons) else sigmas
    return Skeleton(tuple(names), tuple(flip), tuple(bones), tuple(class_ids), tuple(tolerances))


def flip_by_name(names: Sequence[str]) -> tuple[int, ...]:
    """For each name the index of its mirror image: `left` and `right`, or a leading or final l and r, exchanged."""
    index = {name: number for number, name in enumerate(names)}
    lowered = {name.lower(): number for number, name in enumerate(names)}
    flip = list(range(len(names)))
    for number, name in enumerate(names):
        mirrored = _mirrored(name.lower())
        flip[number] = lowered.get(mirrored, number) if mirrored else index.get(_mirrored_capital(name), number)
    return tuple(flip)


def _mirrored(name: str) -> str:
    """The name of the mirror image of a lower-case name; empty if it has no side that is set apart."""
    for one, other in (("left", "right"), ("right", "left"), ("左", "右"), ("右", "左")):
        if one in name:
            return name.replace(one, other, 1)
    for one, other in (("l", "r"), ("r", "l")):
        for gap in "_-. ":
            if name.startswith(one + gap):
                return other + name[1:]
            if name.endswith(gap + one):
                return name[:-1] + other
    return ""


def _mirrored_capital(name: str) -> str:
    """The mirror image of a name such as LShoulder, lShoulder, Lhip, LX, L1, L or shoulderL, if it is one; else the
    name."""
    if match := re.match("([LR])|([lr])(?=[A-Z0-9])", name):
        return match[0].translate(SIDES) + name[1:]
    if match := re.search("(?<=[a-z0-9])([LR])$", name):
        return name[:-1] + match[1].translate(SIDES)
    return name


SIDES = str.maketrans("LRlr", "RLrl")


COCO_BONES = tuple((one - 1, other - 1) for one, other in coco_person.SKELETON)
MEAN_SIGMA = 0.067  # mean of COCO's 17, for points whose sigma is not known
COCO_PERSON = Skeleton(coco_person.KEYPOINTS, flip_by_name(coco_person.KEYPOINTS), COCO_BONES, class_ids=(1,))


def default_skeleton(class_names: dict[int, str]) -> Skeleton:
    """COCO's 17 points, of the class `person` where there is one."""
    people = tuple(number for number, name in class_names.items() if name == "person")
    return dataclasses.replace(COCO_PERSON, class_ids=people)


def read_skeleton(
    categories: Iterable[dict], class_ids: dict[int, int], class_names: dict[int, str], problems: Problems
) -> Skeleton:
    """The skeleton of COCO `categories` (by file id in `class_ids`), which must agree; `default_skeleton` if none has.

    `keypoints` names the points; `skeleton` holds bones counted from 1; `flip_pairs` (pairs of names, or of indices
    counted from 0) and `sigmas` are optional: without pairs, left and right are found by name; without sigmas, points
    other than COCO's get the mean of COCO's. A bone between points that are not there is left out, and counted among
    the `problems`: bones are only drawn.
    """
    posed = [category for category in categories if category.get("keypoints") and category["id"] in class_ids]
    if not posed:
        return default_skeleton(class_names)
    try:
        return _skeleton_of(posed, class_ids, problems)
    except TypeError as error:
        raise UserError(
            f"the keypoints of the category {posed[0]['name']} are not as COCO writes them: {error}"
        ) from None


def _skeleton_of(posed: Sequence[dict], class_ids: dict[int, int], problems: Problems) -> Skeleton:
    """The skeleton of the categories with keypoints; raise TypeError for what is no list or has no numbers."""
    first = posed[0]
    names = _names_of(first)
    if len(names) > MOST_KEYPOINTS:
        raise UserError(f"{first['name']} has {len(names)} keypoints; a model has at most {MOST_KEYPOINTS}")
    for category in posed[1:]:
        if _names_of(category) != names:
            raise UserError(
                f"the categories {first['name']} and {category['name']} name different keypoints; one model has "
                "one list of points: train them one at a time with --classes"
            )
    pairs = first.get("flip_pairs")
    return Skeleton(
        names=names,
        flip=flip_by_name(names) if pairs is None else _flip_of_pairs(names, pairs),
        bones=_bones(first, names, problems),
        class_ids=tuple(sorted(class_ids[category["id"]] for category in posed)),
        sigmas=_sigmas(names, first.get("sigmas") or ()),
    )


def _names_of(category: dict) -> tuple[str, ...]:
    """The keypoints' names, without what a terminal would obey."""
    return tuple(plain(str(name)) for name in category["keypoints"])


def _bones(category: dict, names: Sequence[str], problems: Problems) -> tuple[tuple[int, int], ...]:
    bones = []
    for bone in category.get("skeleton") or ():
        try:
            bones.append(_indices(names, bone, first=1))
        except UserError:
            where = f"{bone} of the category {category['name']}, which has {len(names)} keypoints"
            problems.add("bone between keypoints that are not there, left out", where)
    return tuple(bones)


def _flip_of_pairs(names: Sequence[str], pairs: Sequence[Sequence[int | str]]) -> tuple[int, ...]:
    flip = list(range(len(names)))
    for pair in pairs:
        one, other = _indices(names, pair, first=0)
        if flip[one] != one or flip[other] != other:
            raise UserError(f"flip_pairs names a keypoint twice, in {list(pair)}; each point swaps with one other")
        flip[one], flip[other] = other, one
    return tuple(flip)


def _indices(names: Sequence[str], pair: Sequence[int | str], first: int) -> tuple[int, int]:
    """A pair of points, by name or by number counted from `first`, as indices."""
    try:
        one, other = (names.index(plain(end)) if isinstance(end, str) else int(end) - first for end in pair)
    except (TypeError, ValueError, OverflowError):
        one, other = -1, -1
    if not (0 <= one < len(names) and 0 <= other < len(names)):
        raise UserError(
            f"a pair of keypoints must be two names or numbers of the {len(names)} points, counted from {first}; "
            f"got {shown(pair)}"
        )
    return one, other


def _sigmas(names: Sequence[str], sigmas: Sequence[float]) -> tuple[float, ...]:
    if sigmas and (len(sigmas) != len(names) or not are_numbers(sigmas) or min(sigmas) <= 0):
        raise UserError(f"sigmas must be {len(names)} numbers above zero, one for each keypoint; got {shown(sigmas)}")
    if not sigmas and tuple(names) != coco_person.KEYPOINTS:
        return (MEAN_SIGMA,) * len(names)
    return tuple(map(float, sigmas))
