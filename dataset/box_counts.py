"""What the numbers of a dataset look like as a whole: pixels, boxes x y w h, or something else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

ENOUGH_BOXES = 5  # fewer different ones may look like corners by chance
TOLERANCE_PX = 1.0  # a box that reaches further beyond its image is reported
BOXES, POLYGONS, KEYPOINTS = "boxes", "polygons", "keypoints"
EXPECTED = {BOXES: "x, y, width, height", POLYGONS: "x, y of their corners", KEYPOINTS: "x, y, v"}


@dataclass
class BoxCounts:
    """How many boxes, polygons and keypoints objects have, and how many look as if their numbers meant something else
    than pixels, or than x y w h."""

    total: Counter[str] = field(default_factory=Counter)
    fractions: Counter[str] = field(default_factory=Counter)
    beyond: int = 0
    corners: int = 0
    different: set[tuple[float, ...]] = field(default_factory=set)  # boxes, until there are ENOUGH_BOXES

    def add(self, box: Sequence[float], image: Mapping) -> None:
        """Count a box x, y, width, height as it was given."""
        x, y, width, height = box
        limit_x, limit_y = (image.get(side, math.inf) + TOLERANCE_PX for side in ("width", "height"))
        self.add_numbers(BOXES, box)
        if len(self.different) < ENOUGH_BOXES:
            self.different.add(tuple(box))
        self.beyond += x + width > limit_x or y + height > limit_y
        self.corners += x < width <= limit_x and y < height <= limit_y

    def add_numbers(self, kind: str, numbers: Iterable[float]) -> None:
        """Count the POLYGONS or KEYPOINTS of an object by all their coordinates."""
        self.total[kind] += 1
        self.fractions[kind] += max(numbers, default=0) <= 1

    def fault(self, kinds: Collection[str] = (BOXES,)) -> str:
        """What the numbers of all objects together look like; empty if like what they are."""
        for kind in kinds:
            if self.total[kind] and self.fractions[kind] == self.total[kind]:
                return (
                    f"all {self.total[kind]} {kind} have no number above 1, as if they were fractions of the image's "
                    f"sides; expected {EXPECTED[kind]} in pixels: multiply by the sides"
                )
        if self._are_beyond() and self.corners == self.total[BOXES]:
            return (
                f"{self.beyond} of {self.total[BOXES]} boxes reach beyond their images, and all fit as x1, y1, x2, y2; "
                "expected x, y, width, height: subtract the first corner from the second"
            )
        return ""

    def doubt(self) -> str:
        """What is doubtful about the boxes, if anything."""
        if not self._are_beyond():
            return ""
        return (
            f"{self.beyond} of {self.total[BOXES]} boxes reach beyond their images, as if they were of larger ones, or "
            "their numbers something else than x, y, width, height: look at samples.png of dataset/check.py"
        )

    def _are_beyond(self) -> bool:
        """Whether most boxes reach beyond their images, and these are not only a few."""
        return 2 * self.beyond > self.total[BOXES] and len(self.different) == ENOUGH_BOXES
