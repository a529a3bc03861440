"""Things, from cars to chairs: each function draws one category of COCO's as a sprite in units of about one."""

import math
from itertools import pairwise

import numpy as np

from pix2seq.scenes.colors import (
    BRIGHT,
    COLORS,
    DARK,
    FUR,
    FURNITURE,
    GLASS,
    PAINT,
    PALE,
    Rng,
    choose,
    pick,
    shade,
    with_article,
)
from pix2seq.scenes.shapes import Sprite, box, capsule, ellipse, hull


def draw_car(rng: Rng) -> Sprite:
    word, paint = pick(rng, PAINT)
    car = Sprite(phrase=f"a {word} car", action="parked")
    back, front = rng.uniform(-0.62, -0.45), rng.uniform(0.28, 0.4)
    roof = rng.uniform(-0.58, -0.5)
    car.add([(back - 0.12, -0.25), (back + 0.08, roof), (front - 0.22, roof), (front + 0.08, -0.25)], paint)
    car.add([(back + 0.0, -0.27), (back + 0.12, roof + 0.06), (-0.1, roof + 0.06), (-0.1, -0.27)], GLASS)
    car.add([(-0.04, -0.27), (-0.04, roof + 0.06), (front - 0.25, roof + 0.06), (front - 0.03, -0.27)], GLASS)
    car.add([(-0.96, -0.2), (-0.9, -0.28), (0.5, -0.28), (0.86, -0.2), (0.98, -0.08), (0.98, 0.1), (-0.98, 0.1)], paint)
    car.add(box(-0.98, 0.05, 0.98, 0.12), shade(paint, 0.6))
    car.add(box(-0.08, -0.25, -0.06, 0.05), shade(paint, 0.6))
    car.add(box(-0.24, -0.2, -0.13, -0.17), DARK)
    car.add(ellipse(0.9, -0.08, 0.06, 0.06), (255, 236, 150))
    car.add(box(-0.98, -0.16, -0.9, -0.06), (190, 30, 30))
    for x in (-0.58, 0.58):
        add_wheel(car, x, 0.1, 0.2)
    return car


def add_wheel(sprite: Sprite, x: float, y: float, radius: float) -> None:
    for share, color in ((1.0, DARK), (0.6, (190, 190, 196)), (0.22, (80, 80, 86))):
        sprite.add(ellipse(x, y, share * radius, share * radius), color)


def draw_bus(rng: Rng) -> Sprite:
    word, paint = pick(rng, ("red", "orange", "yellow", "green", "blue", "white"))
    bus = Sprite(phrase=f"{with_article(word)} bus", action="parked")
    top = rng.uniform(-0.8, -0.62)
    bus.add(box(-1, top, 1, 0.12, 0.1), paint)
    bus.add(box(-1, -0.14, 1, -0.04), shade(paint, 0.55) if word != "white" else COLORS[choose(rng, BRIGHT[:5])])
    count = int(rng.integers(4, 6))
    width = 1.44 / count
    for i in range(count):
        bus.add(box(-0.92 + i * width, top + 0.12, -0.92 + (i + 0.84) * width, -0.24), GLASS)
    bus.add(box(0.56, top + 0.12, 0.76, 0.06), shade(GLASS, 0.75))
    bus.add(box(0.65, top + 0.12, 0.67, 0.06), DARK)
    bus.add(box(0.82, top + 0.12, 1, -0.2), shade(GLASS, 1.08))
    bus.add(ellipse(0.93, -0.0, 0.05, 0.05), (255, 236, 150))
    for x in (-0.6, 0.36):
        add_wheel(bus, x, 0.12, 0.16)
    return bus


def draw_airplane(rng: Rng) -> Sprite:
    word, trim = pick(rng, ("red", "orange", "green", "blue"))
    plane = Sprite(phrase=f"a white and {word} airplane", action="flying")
    body = shade(PALE, rng.uniform(0.86, 1.0))
    plane.add([(-0.35, -0.08), (-0.1, -0.42), (0.02, -0.42), (0.15, -0.08)], shade(body, 0.72))
    plane.add([(-0.98, -0.12), (-1.05, -0.52), (-0.86, -0.52), (-0.6, -0.14)], trim)
    plane.add(hull(ellipse(0.72, 0, 0.28, 0.15), ellipse(-0.4, 0, 0.2, 0.15), ellipse(-0.98, -0.08, 0.06, 0.05)), body)
    plane.add([(-0.98, -0.02), (0.95, 0.02), (0.9, 0.08), (0.7, 0.12), (-0.4, 0.12)], trim)
    plane.add([(0.7, -0.12), (0.84, -0.1), (0.94, -0.03), (0.72, -0.03)], shade(GLASS, 0.6))
    for x in np.arange(-0.55, 0.6, 0.16):
        plane.add(ellipse(x, -0.05, 0.04, 0.045), shade(GLASS, 0.6))
    plane.add([(-0.3, 0.04), (-0.62, 0.48), (-0.44, 0.5), (0.28, 0.06)], shade(body, 0.82))
    plane.add([(-1.0, -0.06), (-1.2, 0.1), (-1.04, 0.1), (-0.72, -0.04)], shade(trim, 0.8))
    return plane


def draw_boat(rng: Rng) -> Sprite:
    word, paint = pick(rng, ("red", "green", "blue", "white", "black", "brown"))
    _, sail = pick(rng, ("white", "white", "yellow", "orange", "red"))
    boat = Sprite(phrase=f"a {word} boat", action="floating")
    mast, height = rng.uniform(-0.15, 0.1), rng.uniform(1.0, 1.35)
    boat.add(box(mast - 0.03, -height, mast + 0.03, 0.02), (110, 76, 46))
    boat.add([(mast - 0.06, -0.1), (mast - 0.06, -height + 0.1), (mast - 0.62, -0.1)], sail)
    boat.add([(mast + 0.06, -0.1), (mast + 0.06, -height + 0.02), (mast + 0.72, -0.14)], shade(sail, 0.88))
    boat.add([(-0.85, 0.0), (0.95, -0.04), (0.6, 0.34), (-0.62, 0.34)], paint)
    boat.add([(-0.85, 0.0), (0.95, -0.04), (0.88, 0.05), (-0.81, 0.08)], PALE if word != "white" else COLORS["blue"])
    return boat


LETTERS = {
    "S": ((1, 0), (0, 0), (0, 1), (1, 1), (1, 2), (0, 2)),
    "T": ((0, 0), (1, 0), (0.5, 0), (0.5, 2)),
    "O": ((0, 0), (1, 0), (1, 2), (0, 2), (0, 0)),
    "P": ((0, 2), (0, 0), (1, 0), (1, 1), (0, 1)),
}


def draw_stop_sign(rng: Rng) -> Sprite:
    sign = Sprite(phrase="a stop sign")
    red = pick(rng, ("red",))[1]
    sign.add(box(-0.06, 0.3, 0.06, rng.uniform(1.6, 2.4)), shade(COLORS["gray"], rng.uniform(0.7, 1.1)))
    corners = np.radians(22.5 + 45 * np.arange(8))
    octagon = np.column_stack([np.cos(corners), np.sin(corners)])
    sign.add(octagon * 0.66, PALE)
    sign.add(octagon * 0.59, red)
    for i, strokes in enumerate(LETTERS.values()):
        path = np.array(strokes) * (0.17, 0.17) + (-0.46 + 0.25 * i, -0.17)
        for start, stop in pairwise(path):
            sign.add(box(*np.minimum(start, stop) - 0.03, *np.maximum(start, stop) + 0.03), PALE)
    return sign


def draw_bench(rng: Rng) -> Sprite:
    word, wood = pick(rng, FURNITURE)
    bench = Sprite(phrase=f"a {word} bench")
    frame = (70, 70, 76)
    for x in (-0.8, 0.8):
        bench.add(box(x - 0.07, 0.0, x + 0.07, 0.42), frame)
    bench.add(box(-0.95, -0.5, 0.95, -0.02), shade(wood, 0.55))
    for y in (-0.52, -0.34, -0.16):
        bench.add(box(-1, y, 1, y + 0.12), wood)
    bench.add([(-0.98, -0.02), (0.98, -0.02), (1.1, 0.12), (-1.1, 0.12)], shade(wood, 1.15))
    bench.add(box(-1.1, 0.12, 1.1, 0.19), shade(wood, 0.75))
    return bench


def draw_chair(rng: Rng) -> Sprite:
    word, paint = pick(rng, FURNITURE)
    chair = Sprite(phrase=f"a {word} chair")
    legs = shade(paint, 0.6)
    height = rng.uniform(0.75, 1.0)
    for x, bottom in ((-0.22, 0.62), (0.46, 0.62), (-0.36, 0.8), (0.32, 0.8)):
        chair.add(box(x - 0.05, 0.0, x + 0.05, bottom), legs)
    chair.add(box(-0.44, -height, -0.28, 0.1, 0.05), shade(paint, 0.8))
    chair.add([(-0.34, -height), (0.02, -height - 0.1), (0.02, -0.1), (-0.34, 0.02)], paint)
    top = -0.7 * height
    chair.add([(-0.28, top), (-0.03, top - 0.06), (-0.03, -0.2), (-0.28, -0.14)], shade(paint, 1.25))
    chair.add([(-0.44, 0.06), (-0.2, -0.1), (0.54, -0.1), (0.4, 0.06)], shade(paint, 1.12))
    chair.add([(-0.44, 0.06), (0.4, 0.06), (0.54, -0.1), (0.54, -0.02), (0.4, 0.16), (-0.44, 0.16)], shade(paint, 0.75))
    return chair


def draw_dog(rng: Rng) -> Sprite:
    word, fur = pick(rng, FUR)
    dog = Sprite(phrase=f"a {word} dog", action=str(choose(rng, ("standing", "walking"))))
    stride = 0.22 if dog.action == "walking" else 0.03
    dark = shade(fur, 0.72)
    tail = rng.uniform(-0.75, -0.3)
    dog.add(capsule((-0.62, -0.2), (-0.98, tail), 0.08, 0.05), dark)
    for x, lean, color in ((-0.5, 1, dark), (0.42, -1, dark), (-0.56, -1, fur), (0.5, 1, fur)):
        dog.add(capsule((x, 0.0), (x + lean * stride, 0.62), 0.11, 0.075), color)
        dog.add(capsule((x + lean * stride, 0.64), (x + lean * stride + 0.08, 0.64), 0.07), shade(fur, 0.9))
    dog.add(capsule((-0.5, -0.08), (0.5, -0.1), 0.24, 0.27), fur)
    dog.add(capsule((0.52, -0.2), (0.72, -0.5), 0.2, 0.16), fur)
    dog.add(capsule((0.58, -0.34), (0.74, -0.28), 0.05), COLORS[choose(rng, BRIGHT[:5])])
    dog.add(ellipse(0.78, -0.58, 0.22, 0.2), fur)
    dog.add(capsule((0.9, -0.52), (1.08, -0.5), 0.12, 0.1), shade(fur, 1.12))
    dog.add(ellipse(1.15, -0.55, 0.055, 0.05), DARK if word != "black" else (110, 80, 80))
    dog.add(capsule((0.64, -0.68), (0.58, -0.42), 0.06, 0.1), dark)
    dog.add(ellipse(0.86, -0.64, 0.05, 0.05), PALE)
    dog.add(ellipse(0.87, -0.64, 0.03, 0.03), DARK)
    return dog


def draw_umbrella(rng: Rng) -> Sprite:
    word, first = pick(rng, BRIGHT)
    second = pick(rng, tuple(name for name in ("white", "yellow", "blue", "red") if name != word))[1]
    umbrella = Sprite(phrase=f"{with_article(word)} umbrella", action="open")
    if rng.random() < 0.5:
        second = shade(first, 0.8)
    umbrella.add(box(-0.04, -0.3, 0.04, 0.95), (96, 70, 48))
    umbrella.add(capsule((0.02, 0.95), (0.18, 0.95), 0.06), (96, 70, 48))
    umbrella.add(capsule((0, -0.7), (0, -0.8), 0.035), DARK)
    edges = np.sin(np.radians(np.linspace(-90, 90, 7)))
    for i, (left, right) in enumerate(pairwise(edges)):
        umbrella.add(canopy_panel(left, right), first if i % 2 == 0 else second)
    return umbrella


def canopy_panel(left: float, right: float) -> np.ndarray:
    """A panel of a dome of radius one between two ribs, with a scalloped lower edge."""
    drop = np.linspace(0, 1, 7)
    rib = np.column_stack([np.sin(drop * math.pi / 2), -0.72 * np.cos(drop * math.pi / 2)])
    along = np.linspace(0, 1, 7)[1:-1]
    scallop = np.column_stack([left + along * (right - left), -0.28 * (right - left) * np.sin(along * math.pi)])
    return np.concatenate([rib * (left, 1), scallop, rib[::-1] * (right, 1)])


def draw_kite(rng: Rng) -> Sprite:
    word, first = pick(rng, ("red", "orange", "yellow", "green", "blue", "purple", "pink"))
    second = pick(rng, tuple(name for name in ("white", "yellow", "blue", "red") if name != word))[1]
    kite = Sprite(phrase=f"{with_article(word)} kite", action="flying")
    tail = np.array([(0, 0.9), (0.12, 1.15), (-0.06, 1.4), (0.1, 1.65)])
    for start, stop in pairwise(tail):
        kite.add(capsule(start, stop, 0.04), shade(first, 0.7))
    for x, y in tail[1:]:
        kite.add([(x - 0.2, y - 0.12), (x + 0.2, y + 0.12), (x + 0.2, y - 0.12), (x - 0.2, y + 0.12)], second)
    top, right, bottom, left, center = (0, -0.8), (0.62, -0.12), (0, 1.0), (-0.62, -0.12), (0, -0.12)
    kite.add([top, right, center], first)
    kite.add([top, left, center], second)
    kite.add([bottom, right, center], second)
    kite.add([bottom, left, center], first)
    return kite


def draw_ball(rng: Rng) -> Sprite:
    """A beach ball with sectors, a football with patches or a basketball with seams."""
    kind = rng.integers(3)
    word, paint = (pick(rng, BRIGHT[:6]), ("white", PALE), ("orange", (232, 120, 40)))[kind]
    ball = Sprite(phrase=f"{with_article(word)} ball", action="lying")
    ball.add(ellipse(0, 0, 1, 1), paint)
    if kind == 0:
        for start in (-90, 30, 150):
            sector = ellipse(0, 0, 1, 1, start, start + 60)
            ball.add(np.concatenate([[(0.0, 0.0)], sector]), PALE)
        ball.add(ellipse(0, 0, 0.18, 0.18), paint)
    elif kind == 1:
        for degrees in range(-90, 270, 72):
            x, y = 0.84 * math.cos(math.radians(degrees)), 0.84 * math.sin(math.radians(degrees))
            rim = ellipse(0, 0, 0.97, 0.97, degrees - 12, degrees + 12)
            ball.add(capsule((0, 0), (x, y), 0.025), DARK)
            ball.add(hull(ellipse(x, y, 0.14, 0.14), rim), DARK)
        ball.add([(0.34 * math.cos(a), 0.34 * math.sin(a)) for a in np.radians(range(-90, 270, 72))], DARK)
    else:
        ball.add(box(-1, -0.04, 1, 0.04), DARK)
        ball.add(box(-0.04, -1, 0.04, 1), DARK)
        for side in (-1, 1):
            arc = ellipse(side * 1.25, 0, 0.8, 0.8, -52, 52) if side < 0 else ellipse(1.25, 0, 0.8, 0.8, 128, 232)
            ball.add(np.concatenate([arc, (arc - (0.07 * -side, 0))[::-1]]), DARK)
    return ball
