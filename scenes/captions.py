"""Captions: five short sentences of a closed vocabulary about the visible objects."""

from collections import Counter
from dataclasses import dataclass

from pix2seq.scenes.annotating import Placed, SceneObject
from pix2seq.scenes.backgrounds import Setting
from pix2seq.scenes.colors import Rng, with_article
from pix2seq.scenes.kinds import Kind

COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven")
# Every word of every caption, the most frequent first, in a fixed order so that trained weights keep their token ids.
WORDS = (
    "a", "in", "the", "person", "sky", "under", "shirt", "and", "on", "blue", "an", "with", "white", "orange",
    "ball", "of", "there", "two", "gray", "umbrella", "people", "green", "grass", "red", "bench", "chair", "dog",
    "front", "is", "large", "kite", "bus", "road", "airplane", "yellow", "standing", "black", "to", "car", "floor",
    "stop", "wall", "sand", "sign", "pink", "purple", "are", "water", "three", "dark", "boat", "snow", "brown",
    "lying", "right", "left", "parked", "open", "walking", "flying", "sitting", "below", "waving", "running",
    "jumping", "four", "behind", "picture", "umbrellas", "kites", "airplanes", "floating", "balls", "small", "dogs",
    "chairs", "benches", "above", "signs", "cars", "buses", "boats", "five", "six", "seven",
)  # fmt: skip


@dataclass
class Mention:
    """The data of an object that captions use; `depth` is larger for nearer objects."""

    kind: Kind
    phrase: str
    sized_phrase: str
    action: str
    bbox: tuple[float, float, float, float]
    area: float
    depth: int


def mention(placed: list[Placed], objects: list[SceneObject], size_px: tuple[int, int]) -> list[Mention]:
    """The objects for the captions of an image, the largest first."""
    mentions = []
    for depth, (item, annotation) in enumerate(zip(placed, objects, strict=True)):
        share = max(annotation.bbox[2:]) / max(size_px)
        size = "large " if share > 0.45 else "small " if share < 0.2 else ""
        phrase = item.sprite.phrase
        sized = with_article(size + phrase.split(" ", 1)[1])
        mentions.append(Mention(item.kind, phrase, sized, item.sprite.action, annotation.bbox, annotation.area, depth))
    return sorted(mentions, key=lambda mention: -mention.area)


def write_captions(rng: Rng, setting: Setting, mentions: list[Mention]) -> list[str]:
    """Five captions about the two largest objects, the number of objects, the ground and the backdrop."""
    first = mentions[0]
    main, action = first.phrase, first.action
    place = "in the sky" if first.kind.in_sky else setting.place
    counts = count_objects(mentions)
    be = "is" if counts.startswith(("a ", "an ")) else "are"
    captions = [
        f"{main} {action} {place}",
        f"{main} {action} {setting.backdrop}",
        f"{first.sized_phrase} {place}",
        f"there {be} {counts} {setting.backdrop}",
        f"{counts} {setting.place}",
    ]
    if len(mentions) > 1:
        second = mentions[1]
        captions += [
            f"{main} {relation(first, second)} {second.phrase}",
            f"{main} and {second.phrase} {setting.backdrop}",
        ]
    else:
        captions += [f"a picture of {main} {place}", f"{main} {place} {setting.backdrop}"]
    return [captions[i] for i in rng.permutation(len(captions))[:5]]


def count_objects(mentions: list[Mention]) -> str:
    """The first categories, three at most, with their counts: "two people with a car and a dog"."""
    counts = Counter(mention.kind for mention in mentions)
    groups = [
        f"{COUNT_WORDS[n]} {kind.plural}" if n > 1 else with_article(kind.noun) for kind, n in list(counts.items())[:3]
    ]
    return groups[0] if len(groups) == 1 else f"{groups[0]} with {' and '.join(groups[1:])}"


def relation(first: Mention, second: Mention) -> str:
    """The position of `first` relative to `second`."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first.bbox, second.bbox
    shared = min(ax + aw, bx + bw) - max(ax, bx)
    if shared > 0.5 * min(aw, bw):
        if ay + ah <= by + 0.2 * bh:
            return "above"
        if by + bh <= ay + 0.2 * ah:
            return "below"
        return "in front of" if first.depth > second.depth else "behind"
    return "to the left of" if ax + aw / 2 < bx + bw / 2 else "to the right of"
