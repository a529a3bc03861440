"""Several views of what a model is asked about, whose samples vote together: mirrored, on larger and smaller canvases.

A small object shows more on a larger canvas, a large one is seen as a whole on a smaller one, and what the model gets
wrong in one view it often gets right in another (test-time augmentation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.encoded import Encoded

SCALES = (1, 4 / 3, 2 / 3)  # canvases by the side of the model's own; there are two views of each, the second mirrored
MOST = 2 * len(SCALES)
STEP = 32  # a canvas side is a multiple of this, the stride of most backbones


@dataclass(frozen=True)
class Views:
    """S queries, each seen in several views. `encoded` are by size of canvas, each with the queries of its first view
    followed by those of the mirrored one, if there is one."""

    encoded: Sequence[Encoded]
    queries: int

    def __len__(self) -> int:
        return self.queries

    @property
    def first(self) -> Encoded:
        """The queries in their first view, which is not mirrored."""
        return self.encoded[0].take(range(self.queries))

    def take(self, queries: Sequence[int]) -> Views:
        """Some of the queries, or some of them several times, in all views."""
        chosen = np.asarray(queries, dtype=int)
        views = [np.concatenate([chosen + start for start in self._starts(each)]) for each in self.encoded]
        pairs = zip(self.encoded, views, strict=True)
        return Views([each.take(index) for each, index in pairs], len(chosen))

    def at_most(self, count: int) -> Views:
        """The first `count` views."""
        left, encoded = count, []
        for each in self.encoded:
            kept = self._starts(each)[:left]
            if kept:
                encoded.append(each.take(range(len(kept) * self.queries)))
            left -= len(kept)
        return Views(encoded, self.queries)

    @property
    def count(self) -> int:
        """The number of views."""
        return sum(len(self._starts(each)) for each in self.encoded)

    def _starts(self, encoded: Encoded) -> list[int]:
        """The first query of each of its views."""
        return list(range(0, len(encoded), max(self.queries, 1)))


def encode_views(
    encode: Callable[[Sequence[Geometry]], Encoded],
    place: Callable[[int, bool], Sequence[Geometry]],
    size: int,
    count: int,
) -> Views:
    """`count` views of the queries that `place` puts on canvases of a side, mirrored or not; the model has `size`."""
    encoded, queries = [], 0
    for number, scale in enumerate(SCALES[: (count + 1) // 2]):
        side = size if scale == 1 else max(round(size * scale / STEP), 1) * STEP
        geometries = list(place(side, False))
        queries = len(geometries)
        mirrored = list(place(side, True)) if count > 2 * number + 1 else []
        encoded.append(encode(geometries + mirrored))
    return Views(encoded, queries)
