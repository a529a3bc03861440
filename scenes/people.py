"""People: a skeleton is rotated, projected and covered with polygons, nearer ones over farther ones; 17 keypoints.

Projected axes: x to the right, y down, z (the depth) towards the viewer.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pix2seq.coco_person import KEYPOINTS
from pix2seq.scenes.colors import BRIGHT, DARK, HAIR, PALE, SKIN, Color, Rng, choose, pick, shade, with_article
from pix2seq.scenes.poses import HEAD_RADIUS, SIDES, draw_pose, draw_turn, pose_joints
from pix2seq.scenes.shapes import Sprite, capsule, ellipse, hull

CAMERA_DROP = 0.18  # seen from a little above: what is nearer appears lower


@dataclass
class Part:
    """A part of the body: its name, polygon (K, 2), depth (larger is nearer) and color."""

    name: str
    points: np.ndarray
    depth: float
    color: Color


@dataclass
class Outfit:
    shirt: Color
    trousers: Color
    skin: Color
    hair: Color
    shoes: Color
    long_sleeves: bool
    shorts: bool
    long_hair: bool


def draw_person(rng: Rng) -> Sprite:
    action, limbs = draw_pose(rng)
    turn = draw_turn(rng, action)
    joints = {name: turn @ np.asarray(point, float) for name, point in pose_joints(limbs).items()}
    word, shirt = pick(rng, (*BRIGHT, "black", "gray"))
    outfit = Outfit(
        shirt, pick(rng, ("blue", "black", "gray", "brown", "green"))[1], choose(rng, SKIN), choose(rng, HAIR),
        choose(rng, (DARK, PALE, (150, 40, 40))), rng.random() < 0.5, rng.random() < 0.35, rng.random() < 0.4,
    )  # fmt: skip
    parts = sorted(body_parts(joints, outfit) + head_parts(joints, outfit, turn), key=lambda part: part.depth)
    person = Sprite(phrase=f"a person in {with_article(word)} shirt", action=action)
    for part in parts:
        person.add(part.points, part.color)
    person.keypoints = body_keypoints(joints, parts)
    return person


def on_screen(point: np.ndarray) -> np.ndarray:
    return np.array([point[0], point[1] + CAMERA_DROP * point[2]])


def body_parts(joints: dict[str, np.ndarray], outfit: Outfit) -> list[Part]:
    def limb(name: str, start: str, stop: str, r0: float, r1: float, color: Color, nearer: float = 0.0) -> Part:
        points = capsule(on_screen(joints[start]), on_screen(joints[stop]), r0, r1)
        return Part(name, points, (joints[start][2] + joints[stop][2]) / 2 + nearer, color)

    parts = []
    sleeve = outfit.shirt if outfit.long_sleeves else outfit.skin
    shin = outfit.skin if outfit.shorts else outfit.trousers
    for side, _ in SIDES:
        parts += [
            limb(f"{side}_shin", f"{side}_knee", f"{side}_ankle", 0.068, 0.05, shin),
            limb(f"{side}_foot", f"{side}_ankle", f"{side}_toe", 0.062, 0.05, outfit.shoes, 0.01),
            limb(f"{side}_thigh", f"{side}_hip", f"{side}_knee", 0.1, 0.072, outfit.trousers, 0.005),
            limb(f"{side}_hand", f"{side}_wrist", f"{side}_hand", 0.045, 0.045, outfit.skin, 0.03),
            limb(f"{side}_forearm", f"{side}_elbow", f"{side}_wrist", 0.052, 0.042, sleeve, 0.035),
            limb(f"{side}_arm", f"{side}_shoulder", f"{side}_elbow", 0.068, 0.056, shade(outfit.shirt, 0.9), 0.04),
        ]
    corners = [on_screen(joints[name]) for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")]
    radii = (0.085, 0.085, 0.1, 0.1)
    circles = [ellipse(*corner, radius, radius) for corner, radius in zip(corners, radii, strict=True)]
    parts.append(Part("torso", hull(*circles), 0.012, outfit.shirt))
    parts.append(limb("neck", "neck", "head", 0.055, 0.055, outfit.skin, 0.01))
    return parts


def head_parts(joints: dict[str, np.ndarray], outfit: Outfit, turn: np.ndarray) -> list[Part]:
    """The parts of a head. Hair is a ball slightly behind the face: from the back it covers the whole face."""
    head, forward = joints["head"], turn[:, 2]
    depth = head[2] + 0.06

    def disc(name: str, center: np.ndarray, rx: float, ry: float, nearer: float, color: Color) -> Part:
        return Part(name, ellipse(*on_screen(center), rx, ry), depth + nearer, color)

    facing = forward[2] > -0.25
    hair = head - 0.03 * forward - (0, 0.025, 0)
    parts = [
        disc("hair", hair, HEAD_RADIUS, HEAD_RADIUS + 0.005, -0.001 if facing else 0.02, outfit.hair),
        disc("face", head + 0.025 * forward + (0, 0.018, 0), 0.112, 0.132, 0.0, outfit.skin),
    ]
    if outfit.long_hair:
        crown, tip = np.add(hair, (0, 0.03, 0)), np.add(hair, (0, 0.2, 0)) - 0.04 * forward
        tips = capsule(on_screen(crown), on_screen(tip), 0.13, 0.12)
        parts.append(Part("hair", tips, depth - 0.08 if facing else depth + 0.01, outfit.hair))
    for side, _ in SIDES:
        if in_view(joints, f"{side}_ear"):
            parts.append(disc("ear", joints[f"{side}_ear"], 0.03, 0.038, 0.021, shade(outfit.skin, 0.9)))
        if in_view(joints, f"{side}_eye"):
            parts.append(disc("eye", joints[f"{side}_eye"], 0.03, 0.024, 0.022, PALE))
            parts.append(disc("eye", joints[f"{side}_eye"] + 0.006 * forward, 0.016, 0.02, 0.023, DARK))
    if in_view(joints, "nose"):
        parts.append(disc("nose", joints["nose"], 0.02, 0.026, 0.022, shade(outfit.skin, 0.78)))
    if forward[2] > 0.1:
        parts.append(disc("mouth", joints["mouth"], 0.02 + 0.025 * forward[2], 0.014, 0.022, (170, 50, 50)))
    return parts


def body_keypoints(joints: dict[str, np.ndarray], parts: list[Part]) -> np.ndarray:
    """(17, 3) x, y, v: v is 2 in view and 1 behind the person's own body."""
    rows = []
    for name in KEYPOINTS:
        point = on_screen(joints[name])
        seen = in_view(joints, name) and not covered(name, point, joints[name][2], parts)
        rows.append((*point, 2 if seen else 1))
    return np.array(rows)


def in_view(joints: dict[str, np.ndarray], name: str) -> bool:
    """Whether a point of the head is on the viewer's side; True for all other joints, see `covered`."""
    reach = {"ear": -0.045, "eye": 0.01, "nose": -0.02}.get(name.split("_")[-1], -np.inf)
    return joints[name][2] - joints["head"][2] > reach


OWN_PARTS = {
    "shoulder": ("arm",), "elbow": ("arm", "forearm"), "wrist": ("forearm", "hand"),
    "hip": ("thigh",), "knee": ("thigh", "shin"), "ankle": ("shin", "foot"),
}  # fmt: skip


def covered(name: str, point: np.ndarray, depth: float, parts: list[Part]) -> bool:
    """Whether another part of the body, painted after the joint's own parts, covers the joint."""
    side, _, joint = name.partition("_")
    own = {f"{side}_{part}" for part in OWN_PARTS.get(joint, ())}
    if joint in ("shoulder", "hip") and depth > -0.05:
        own |= {"torso", "neck", f"{side}_arm", f"{side}_thigh", "left_thigh", "right_thigh"}
    if joint not in OWN_PARTS:
        own = {"face", "hair", "ear", "eye", "nose", "mouth", "neck"}
    last = max(i for i, part in enumerate(parts) if part.name in own)
    later = [part.points.astype(np.float32) for part in parts[last + 1 :] if part.name not in own]
    return any(cv2.pointPolygonTest(points, (float(point[0]), float(point[1])), False) > 0 for points in later)
