"""The token ids that all tasks share: the published layout of the official multi-task models.

| ids         | meaning                                                         |
| 0           | padding, and the end of a sequence                              |
| 10 … 29     | task prompts                                                    |
| 30          | fake class (noise objects) or fake text (dropped caption words) |
| 40, 41      | polygon separator, invisible keypoint                           |
| 100 … 999   | class id + 100                                                  |
| 1000 … 1999 | coordinate bin + 1000, y before x                               |
| 3000 …      | text id + 3000                                                  |

Each task's prompt stands in its tokenizer's file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

END = 0
FAKE = 30
SEPARATOR = 40
INVISIBLE = 41
CLASS_SHIFT = 100
COORD_SHIFT = 1000
COORD_BINS = 1000
TEXT_SHIFT = 3000
MOST_KEYPOINTS = 150  # of an instance; whole bodies have 133

COORDS = slice(COORD_SHIFT, COORD_SHIFT + COORD_BINS)


def is_coord(tokens: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Which tokens (…) are coordinates, in NumPy or torch as they come."""
    return (tokens >= COORDS.start) & (tokens < COORDS.stop)
