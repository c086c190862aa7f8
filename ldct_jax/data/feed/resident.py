"""The resident feed: all slices on the device as int16, patches cut inside the compiled step.

The paper's training data, ninety slices, are 190 MB as int16 pairs, so no image byte crosses the
bus during an epoch; only the epoch's order of patches does, four bytes a patch.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ldct_jax.data.feed import patches as p
from ldct_jax.data.feed.feed import Batch, Place, put
from ldct_jax.data.pairs import PairedSlices


class Resident:
    """A :class:`ldct_jax.data.feed.feed.Feed` of ``pairs`` from device memory."""

    # No limit of its own: an epoch's inputs are the same arrays for every call.
    max_steps = None

    def __init__(self, pairs: PairedSlices, patches: p.Patches, seed: int):
        self.grid = p.Grid.of(pairs.low_hu, patches)
        self.batch_size, self.seed = patches.batch, seed
        self.steps_per_epoch = -(-len(self.grid) // patches.batch)
        self._slices = (np.asarray(pairs.low_hu), np.asarray(pairs.full_hu))
        self._placed: Any = None
        self._order: tuple[int, Any] | None = None

    def specs(self) -> dict:
        return {"low": False, "full": False, "order": True}

    def inputs(self, epoch: int, first: int, count: int, place: Place = put) -> dict:
        if self._placed is None:
            self._placed = tuple(place(a, False) for a in self._slices)
        if self._order is None or self._order[0] != epoch:
            order = self.grid.order(self.batch_size, self.seed, epoch)
            self._order = (epoch, place(np.ascontiguousarray(order), True))
        low, full = self._placed
        return {"low": low, "full": full, "order": self._order[1]}

    def batch(self, inputs: dict, step) -> Batch:
        row = jax.lax.dynamic_index_in_dim(inputs["order"], step, keepdims=False)
        index, weight = p.decode(row)
        return Batch(
            p.cut(inputs["low"], index, self.grid),
            p.cut(inputs["full"], index, self.grid),
            index,
            weight,
        )
