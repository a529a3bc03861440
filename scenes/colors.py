"""Helpers of all drawings: colors by name, random choices, and the article before a noun."""

import numpy as np

Color = tuple[int, int, int]
Rng = np.random.Generator

COLORS: dict[str, Color] = {
    "red": (208, 40, 42), "orange": (242, 138, 30), "yellow": (246, 214, 52), "green": (48, 150, 72),
    "blue": (40, 88, 204), "purple": (128, 66, 170), "pink": (242, 140, 184), "white": (240, 240, 240),
    "black": (42, 42, 48), "gray": (142, 142, 148), "brown": (132, 86, 50),
}  # fmt: skip
BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
PAINT = ("red", "orange", "yellow", "green", "blue", "white", "black", "gray")
FURNITURE = ("red", "green", "blue", "white", "black", "brown")
FUR = ("brown", "black", "white", "gray")
SKIN: tuple[Color, ...] = ((248, 212, 184), (232, 184, 148), (196, 140, 100), (146, 96, 64), (104, 68, 48))
HAIR: tuple[Color, ...] = ((40, 30, 26), (84, 52, 30), (140, 88, 44), (222, 184, 100), (150, 150, 154), (164, 66, 30))
GLASS: Color = (176, 212, 232)
DARK: Color = (38, 38, 42)
PALE: Color = (246, 246, 242)


def shade(color: Color, factor: float) -> Color:
    return tuple(int(min(255, max(0, channel * factor))) for channel in color)


def pick(rng: Rng, names: tuple[str, ...]) -> tuple[str, Color]:
    """The name of a random color of `names`, and a random variation of its RGB."""
    name = names[rng.integers(len(names))]
    jitter = rng.integers(-12, 13, 3)
    return name, tuple(int(min(255, max(0, c + j))) for c, j in zip(COLORS[name], jitter, strict=True))


def choose(rng: Rng, options: tuple) -> object:
    return options[rng.integers(len(options))]


def with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
