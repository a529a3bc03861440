"""What the boxes of a dataset look like as a whole: pixels x y w h, or numbers that mean something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENOUGH_BOXES = 10  # fewer may look like corners by chance
TOLERANCE_PX = 1.0  # a box that reaches further beyond its image is reported


@dataclass
class BoxCounts:
    """How many boxes there are, and how many look as if their numbers meant something else than pixels x y w h."""

    total: int = 0
    fractions: int = 0
    beyond: int = 0
    corners: int = 0

    def add(self, box: Sequence[float], image: Mapping) -> None:
        """Count a box x, y, width, height as it was given."""
        x, y, width, height = box
        limit_x, limit_y = (image.get(side, math.inf) + TOLERANCE_PX for side in ("width", "height"))
        self.total += 1
        self.fractions += max(box) <= 1
        self.beyond += x + width > limit_x or y + height > limit_y
        self.corners += x < width <= limit_x and y < height <= limit_y

    def fault(self) -> str:
        """What all boxes together look like; empty if like boxes."""
        if self.total and self.fractions == self.total:
            return (
                f"all {self.total} boxes have no number above 1, as if they were fractions of the image's sides; "
                "expected x, y, width, height in pixels: multiply by the sides"
            )
        if 2 * self.beyond > self.total == self.corners >= ENOUGH_BOXES:
            return (
                f"{self.beyond} of {self.total} boxes reach beyond their images, and all fit as x1, y1, x2, y2; "
                "expected x, y, width, height: subtract the first corner from the second"
            )
        return ""
