"""Backgrounds: a random setting (ground, sky or wall, horizon) and its painting."""

from dataclasses import dataclass

import cv2
import numpy as np

from pix2seq.scenes.colors import Color, Rng, pick, shade
from pix2seq.scenes.shapes import whole_pixels


@dataclass
class Setting:
    """The background: the ground's name, phrases for captions, and the horizon as a fraction of the height."""

    ground: str
    place: str
    backdrop: str
    wall: Color
    sky: tuple[Color, Color]
    horizon: float


@dataclass(frozen=True)
class Ground:
    """Color, probability, and noise: its number of `cells` (across, down) and, as `grain`, its relative deviation."""

    color: Color
    probability: float
    cells: tuple[int, int]
    grain: float


GROUNDS = {
    "grass": Ground((98, 152, 66), 0.26, (90, 60), 0.1),
    "sand": Ground((222, 196, 142), 0.16, (120, 120), 0.04),
    "road": Ground((112, 112, 118), 0.2, (150, 150), 0.05),
    "snow": Ground((232, 238, 246), 0.1, (8, 8), 0.02),
    "water": Ground((58, 128, 168), 0.12, (8, 60), 0.07),
    "floor": Ground((168, 124, 84), 0.16, (3, 80), 0.04),
}
SKIES: dict[str, tuple[Color, Color]] = {
    "a blue sky": ((84, 148, 226), (192, 222, 246)), "a gray sky": ((140, 146, 156), (206, 210, 214)),
    "an orange sky": ((214, 120, 90), (252, 214, 140)), "a dark sky": ((18, 24, 60), (66, 72, 124)),
}  # fmt: skip


def draw_setting(rng: Rng) -> Setting:
    ground = str(rng.choice(list(GROUNDS), p=[ground.probability for ground in GROUNDS.values()]))
    place = f"in the {ground}" if ground in ("snow", "water") else f"on the {ground}"
    horizon = rng.uniform(0.3, 0.6)
    if ground == "floor":
        word, wall = pick(rng, ("pink", "green", "blue", "white", "yellow", "gray"))
        wall = tuple(int(0.65 * channel + 70) for channel in wall)
        return Setting(ground, place, f"in front of a {word} wall", wall, (wall, wall), horizon + 0.12)
    sky = str(rng.choice(list(SKIES), p=(0.5, 0.2, 0.18, 0.12)))
    return Setting(ground, place, f"under {sky}", (0, 0, 0), SKIES[sky], horizon)


def paint_background(rng: Rng, setting: Setting, size_px: tuple[int, int]) -> np.ndarray:
    width, height = size_px
    horizon = round(setting.horizon * height)
    image = np.empty((height, width, 3), np.float32)
    blend = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    top, bottom = np.array(setting.sky, np.float32)
    image[:horizon] = top * (1 - blend) + bottom * blend
    if setting.ground == "floor":
        paint_wall(rng, image[:horizon], setting.wall)
    else:
        paint_sky(rng, image[:horizon], setting)

    depth = np.linspace(0.86, 1.06, height - horizon, dtype=np.float32)[:, None]
    size = (width, height - horizon)
    ground = GROUNDS[setting.ground]
    texture = 1 + 0.05 * smooth_noise(rng, size, (5, 4)) + ground.grain * smooth_noise(rng, size, ground.cells)
    base = np.array(ground.color, np.float32) + rng.uniform(-10, 10, 3).astype(np.float32)
    image[horizon:] = base * (depth * texture)[:, :, None]
    paint_ground_marks(rng, image, setting.ground, horizon)
    return np.clip(image, 0, 255).astype(np.uint8)


def paint_wall(rng: Rng, wall: np.ndarray, color: Color) -> None:
    """Stripes, or a plain wall, above a skirting board."""
    height, width = wall.shape[:2]
    if rng.random() < 0.6:
        step = width / rng.integers(6, 16)
        stripes = (np.arange(width) // step % 2 == 0).astype(np.float32)
        wall *= 1 - 0.09 * stripes[None, :, None]
    wall *= 1 + 0.03 * smooth_noise(rng, (width, height), (4, 4))[:, :, None]
    wall[-max(2, height // 24) :] = shade(color, 0.6)


def paint_sky(rng: Rng, sky: np.ndarray, setting: Setting) -> None:
    """Clouds, and hills or trees at the horizon."""
    height, width = sky.shape[:2]
    clouds = smooth_noise(rng, (width, height), (6, 5)) + 0.4 * smooth_noise(rng, (width, height), (24, 20))
    clouds = np.clip(0.6 * (clouds - rng.uniform(0, 1.5)), 0, 0.8)[:, :, None]
    sky += clouds * (np.minimum(np.array(setting.sky[1], np.float32) * 1.15, 255) - sky)
    if rng.random() < 0.6:
        far = GROUNDS["grass"].color if setting.ground != "water" else (90, 110, 130)
        color = np.array(far) * rng.uniform(0.5, 0.9)
        xs = np.linspace(0, width, 24)
        waves = np.sin(xs / width * rng.uniform(3, 9) + rng.uniform(0, 6)) + rng.uniform(0, 0.6) * rng.random(24)
        ys = height * (1 - rng.uniform(0.08, 0.2) * (1.2 + waves) / 2)
        ridge = np.concatenate([np.column_stack([xs, ys]), [(width, height + 1), (0, height + 1)]])
        cv2.fillPoly(sky, [whole_pixels(ridge)], color.tolist())


TUFT = np.array([(-0.5, 0), (-0.33, -1), (0, -0.33), (0.33, -1), (0.5, 0)])


def paint_ground_marks(rng: Rng, image: np.ndarray, ground: str, horizon: int) -> None:
    """Paint the details of a ground: lanes on a road, planks on a floor, tufts in grass."""
    height, width = image.shape[:2]
    span = height - horizon
    if ground == "road":
        for x in np.arange(-0.2, 1.3, 0.25) + rng.uniform(0, 0.2):
            dash = np.array([(x, 0.55), (x + 0.12, 0.55), (x + 0.13, 0.59), (x - 0.01, 0.59)])
            cv2.fillPoly(image, [whole_pixels(dash * (width, span) + (0, horizon))], (228, 228, 214))
        image[horizon : horizon + max(2, span // 20)] = (176, 172, 164)
    elif ground == "floor":
        for share in np.linspace(0, 1, 7)[1:] ** 1.6:
            image[min(height - 1, horizon + int(share * span))] *= 0.75
    elif ground == "grass":
        for x, y in rng.random((40, 2)):
            tuft = (0.01 + 0.02 * y) * height * TUFT + (x * width, horizon + y * span)
            cv2.fillPoly(image, [whole_pixels(tuft)], (70, 124, 48))


def smooth_noise(rng: Rng, size_px: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Soft random noise (H, W) of unit deviation with about `cells` (across, down) independent values."""
    grid = rng.standard_normal((cells[1] + 1, cells[0] + 1), dtype=np.float32)
    return cv2.resize(grid, size_px, interpolation=cv2.INTER_CUBIC)
