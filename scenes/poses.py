"""Poses: a skeleton in three dimensions, so that left, right and depth are right by construction.

Body axes in meters: x to the person's left, y down, z forward; the pelvis is the origin.
"""

import math
from functools import partial

import numpy as np

from pix2seq.scenes.colors import Rng, choose

SIDES = (("left", 1), ("right", -1))
HEAD_RADIUS = 0.135


def draw_pose(rng: Rng) -> tuple[str, dict[str, tuple[float, ...]]]:
    """An action, and angles of each limb in degrees: swing (forward) and spread (sideways) of its two segments."""
    action = str(choose(rng, ("standing", "standing", "walking", "running", "waving", "sitting", "jumping")))
    noise = partial(rng.normal, 0)
    lead = choose(rng, (1, -1))
    limbs = {}
    for side, sign in SIDES:
        phase = sign * lead
        bend, spread = rng.uniform(5, 40), rng.uniform(8, 25)
        arm = (noise(6), spread, bend, spread * rng.uniform(-0.5, 0.8))
        leg = (noise(4), rng.uniform(3, 10), noise(3), rng.uniform(2, 8))
        if action == "walking":
            arm = (-26 * phase + noise(5), 8, -10 * phase + 20, 5)
            leg = (27 * phase + noise(4), 2, 22 * phase - 8 if phase > 0 else -42, 2)
        elif action == "running":
            arm = (-45 * phase + noise(8), 10, -35 * phase + 75, 0)
            leg = (48 * phase + noise(6), 2, 12 if phase > 0 else -95 + noise(8), 2)
        elif action == "waving" and phase > 0:
            arm = (10, rng.uniform(80, 125), 10, rng.uniform(150, 200))
        elif action == "jumping":
            lift = rng.uniform(125, 160)
            arm = (0, lift, 0, lift + rng.uniform(-10, 35))
            leg = (noise(5), rng.uniform(18, 35), -20 + noise(8), rng.uniform(5, 25))
        elif action == "sitting":
            arm = (30 + noise(8), 15, 60 + noise(10), 0)
            leg = (118 + noise(4), 8, 38 + noise(4), 4)
        limbs[f"{side}_arm"], limbs[f"{side}_leg"] = arm, leg
    return action, limbs


def draw_turn(rng: Rng, action: str) -> np.ndarray:
    """The rotation (3, 3) from body axes to x right, y down, z towards the viewer. A yaw of 0 faces the viewer."""
    moving = action in ("walking", "running")
    yaws = (60, 90, -60, -90, 0, 180) if moving else (0, 0, 0, 35, -35, 70, -70, 180, 150, -150)
    yaw = math.radians(choose(rng, yaws) + rng.normal(0, 9))
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array([(cos, 0, sin), (0, 1, 0), (-sin, 0, cos)])


def pose_joints(limbs: dict[str, tuple[float, ...]]) -> dict[str, np.ndarray]:
    joints = {"pelvis": np.zeros(3), "neck": np.array([0, -0.54, 0]), "head": np.array([0, -0.74, 0.02])}
    for side, sign in SIDES:
        swing, spread, lower_swing, lower_spread = limbs[f"{side}_arm"]
        shoulder = np.array([sign * 0.19, -0.47, 0])
        elbow = shoulder + segment(0.29, swing, spread, sign)
        forearm = segment(0.26, lower_swing, lower_spread, sign)
        joints |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": elbow + forearm}
        joints[f"{side}_hand"] = elbow + forearm * 1.3
        swing, spread, lower_swing, lower_spread = limbs[f"{side}_leg"]
        hip = np.array([sign * 0.1, 0, 0])
        knee = hip + segment(0.42, swing, spread, sign)
        ankle = knee + segment(0.42, lower_swing, lower_spread, sign)
        toe = ankle + segment(0.17, lower_swing + 78, 8, sign)
        joints |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle, f"{side}_toe": toe}
        joints |= {f"{side}_ear": joints["head"] + (sign * HEAD_RADIUS, 0.01, -0.01)}
        joints |= {f"{side}_eye": joints["head"] + (sign * 0.05, -0.015, 0.115)}
    joints |= {"nose": joints["head"] + (0, 0.025, 0.14), "mouth": joints["head"] + (0, 0.075, 0.11)}
    return joints


def segment(length: float, swing: float, spread: float, sign: int) -> np.ndarray:
    """The vector of a limb that hangs down, swung forward and spread to its own side by angles in degrees."""
    a, b = math.radians(swing), math.radians(spread)
    return length * np.array([sign * math.sin(b), math.cos(b) * math.cos(a), math.cos(b) * math.sin(a)])
