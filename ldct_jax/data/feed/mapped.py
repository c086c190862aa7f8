"""Stacks of slices that stay on the disk: what lets a store be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class MappedStack:
    """Slices of several (N_i, H, W) arrays, memory-mapped ones usually, as one (N, H, W) stack.

    A slice is read when it is asked for: ``stack[3]`` is an array (H, W); ``stack[2:5]`` and
    ``stack[[7, 1]]`` are stacks again, without reading. Other indices, as in ``stack[..., None]``
    or ``stack[:2, 5:9]``, give what an array would give: they read the slices that they name, and
    ``numpy.asarray(stack)`` reads all.
    """

    ndim = 3

    def __init__(self, parts: Sequence[np.ndarray], places: np.ndarray | None = None):
        sizes = {(p.shape[1:], p.dtype) for p in parts}
        if len(sizes) != 1:
            raise ValueError(
                f"stacks of one size and type are needed, not {sorted(map(str, sizes))}"
            )
        self._parts = list(parts)
        if places is None:
            places = np.array([(k, i) for k, p in enumerate(parts) for i in range(len(p))])
        self._places = places.reshape(-1, 2)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self._places), *self._parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self._parts[0].dtype

    @property
    def nbytes(self) -> int:
        """What it would take in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            part, i = self._places[index]
            return np.asarray(self._parts[part][i])
        if isinstance(index, tuple):
            first, *rest = index or (...,)
            if isinstance(first, int | np.integer):
                return self[first][tuple(rest)]
            if isinstance(first, slice):
                return np.asarray(self[first])[:, *rest]
            return np.asarray(self)[index]
        if index is None or index is ... or np.ndim(index) > 1:
            return np.asarray(self)[index]
        return MappedStack(self._parts, self._places[index])

    def astype(self, dtype) -> np.ndarray:
        """All slices in memory."""
        return np.asarray(self, dtype)

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("a stack on the disk can't become an array without a copy")
        out = np.empty(self.shape, self.dtype)
        for k in range(len(self)):
            out[k] = self[k]
        return out if dtype is None else out.astype(dtype)
