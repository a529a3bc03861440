"""The categories of COCO that are drawn, and the grounds on which each may be placed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pix2seq.scenes.colors import Rng, choose
from pix2seq.scenes.people import draw_person
from pix2seq.scenes.shapes import Sprite
from pix2seq.scenes.things import (
    draw_airplane,
    draw_ball,
    draw_bench,
    draw_boat,
    draw_bus,
    draw_car,
    draw_chair,
    draw_dog,
    draw_kite,
    draw_stop_sign,
    draw_umbrella,
)

OUTDOORS = ("grass", "sand", "road", "snow")
OPEN_AIR = (*OUTDOORS, "water")
DRY = (*OUTDOORS, "floor")
ANY = (*OPEN_AIR, "floor")


@dataclass(frozen=True)
class Kind:
    """A category of COCO: its id and names, how it is drawn, and how it may be placed in the image."""

    category_id: int
    name: str
    supercategory: str
    draw: Callable[[Rng], Sprite]
    plural: str
    in_sky: bool = False
    mirrored: bool = True
    tilt_degrees: float = 0.0
    places: tuple[str, ...] = DRY

    @property
    def noun(self) -> str:
        return self.name.removeprefix("sports ")


KINDS = (
    Kind(1, "person", "person", draw_person, "people", mirrored=False, tilt_degrees=5, places=ANY),
    Kind(3, "car", "vehicle", draw_car, "cars", tilt_degrees=2, places=OUTDOORS),
    Kind(5, "airplane", "vehicle", draw_airplane, "airplanes", in_sky=True, tilt_degrees=16, places=OPEN_AIR),
    Kind(6, "bus", "vehicle", draw_bus, "buses", places=OUTDOORS),
    Kind(9, "boat", "vehicle", draw_boat, "boats", tilt_degrees=4, places=("water", "sand")),
    Kind(13, "stop sign", "outdoor", draw_stop_sign, "stop signs", mirrored=False, tilt_degrees=3, places=OUTDOORS),
    Kind(15, "bench", "outdoor", draw_bench, "benches"),
    Kind(18, "dog", "animal", draw_dog, "dogs", tilt_degrees=4),
    Kind(28, "umbrella", "accessory", draw_umbrella, "umbrellas", tilt_degrees=20, places=ANY),
    Kind(37, "sports ball", "sports", draw_ball, "balls", tilt_degrees=180, places=ANY),
    Kind(38, "kite", "sports", draw_kite, "kites", in_sky=True, tilt_degrees=35, places=OPEN_AIR),
    Kind(62, "chair", "furniture", draw_chair, "chairs", tilt_degrees=2),
)
PERSON = KINDS[0]


def draw_kinds(rng: Rng, ground: str) -> list[Kind]:
    """One to seven random categories that suit the ground; people are the most frequent."""
    count = rng.choice(np.arange(1, 8), p=(0.06, 0.1, 0.14, 0.17, 0.19, 0.18, 0.16))
    others = [kind for kind in KINDS[1:] if ground in kind.places]
    if rng.random() > 0.77:
        return [choose(rng, others) for _ in range(count)]
    return [PERSON] + [PERSON if rng.random() < 0.34 else choose(rng, others) for _ in range(count - 1)]
