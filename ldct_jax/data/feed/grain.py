"""The Grain feed: patches cut on the host by threads and prefetched. The only place with grain.

For collections that don't fit the device: slices may stay on the disk
(:mod:`ldct_jax.data.feed.mapped`). Batches and their order are those of the
resident feed (:mod:`ldct_jax.data.feed.resident`); normalisation and augmentation stay inside
the compiled step.
"""

from typing import Any

import jax
import numpy as np

from ldct_jax.data.feed import patches as p
from ldct_jax.data.feed.feed import Batch, Place, put
from ldct_jax.data.pairs import PairedSlices

# Steps whose patches are handed over in one compiled call.
STEPS_PER_CALL = 8
THREADS = 8
PREFETCHED_STEPS = 32


class GrainFeed:
    """Feeds patches of ``pairs`` from the host; a :class:`ldct_jax.data.feed.feed.Feed`.

    Host memory: :data:`PREFETCHED_STEPS` + 2 · :data:`STEPS_PER_CALL` batches of both doses,
    whatever the collection's size. The position is the step, so a restart continues at the
    checkpoint: Grain's random access starts at any batch without reading those before it.

    ``columns``: which patches of each batch are read here, all of them by default. Of several
    processes each reads those of its own devices; the others' places stay untouched zeros, which
    cost no memory.
    """

    max_steps = STEPS_PER_CALL

    def __init__(
        self,
        pairs: PairedSlices,
        patches: p.Patches,
        seed: int,
        columns: np.ndarray | None = None,
    ):
        self.grid = p.Grid.of(pairs.low_hu, patches)
        self.batch_size, self.seed = patches.batch, seed
        self._columns = np.arange(patches.batch) if columns is None else columns
        self.steps_per_epoch = -(-len(self.grid) // patches.batch)
        self._pairs = pairs
        self._reading: tuple[int, int, Any] | None = None  # epoch, next step, iterator

    def specs(self) -> dict:
        return {"low": True, "full": True, "order": True, "first": False}

    def inputs(self, epoch: int, first: int, count: int, place: Place = put) -> dict:
        """The patches of these steps, padded to one shape."""
        if self._reading is None or self._reading[:2] != (epoch, first):
            self._reading = (epoch, first, iter(self._dataset(epoch, first)))
        iterator = self._reading[2]
        size, batch = self.grid.size, self.batch_size
        low = np.zeros((STEPS_PER_CALL, batch, size, size), np.int16)
        full, order = np.zeros_like(low), np.zeros((STEPS_PER_CALL, batch), np.int32)
        for k in range(count):
            step = next(iterator)
            for array, name in ((low, "low"), (full, "full"), (order, "order")):
                array[k, self._columns] = step[name]
        self._reading = (epoch, first + count, iterator)
        return {
            "low": place(low, True),
            "full": place(full, True),
            "order": place(order, True),
            "first": place(np.asarray(first, np.int32), False),
        }

    def batch(self, inputs: dict, step) -> Batch:
        row = step - inputs["first"]
        low, full, order = (
            jax.lax.dynamic_index_in_dim(inputs[k], row, keepdims=False)
            for k in ("low", "full", "order")
        )
        index, weight = p.decode(order)
        return Batch(low, full, index, weight)

    def _dataset(self, epoch: int, first: int):
        import grain

        order = self.grid.order(self.batch_size, self.seed, epoch)[first:]
        order = order[:, self._columns].ravel()
        return (
            grain.MapDataset.source(_Cutter(self._pairs, self.grid, order))
            .batch(len(self._columns))
            .to_iter_dataset(
                grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCHED_STEPS)
            )
        )


class _Cutter:
    """A random-access source of patches in an epoch's order, as Grain wants it."""

    def __init__(self, pairs: PairedSlices, grid: p.Grid, order: np.ndarray):
        self._pairs, self._grid, self._order = pairs, grid, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, k: int) -> dict:
        code = int(self._order[k])
        n, top, left = self._grid.position(code if code >= 0 else -1 - code)
        size = self._grid.size
        place = np.s_[top : top + size, left : left + size]
        return {
            "low": np.asarray(self._pairs.low_hu[n][place]),
            "full": np.asarray(self._pairs.full_hu[n][place]),
            "order": np.int32(code),
        }
