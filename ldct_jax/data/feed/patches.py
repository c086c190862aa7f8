"""The patch grid of a stack of slices, its order in an epoch, and the cut inside the compiled step.

Every position of the grid is visited exactly once an epoch, in an order that is a function of
(seed, epoch) alone: it doesn't depend on the feeder, the number of devices or an interruption.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldct_jax.data.feed import augment
from ldct_jax.errors import DataError, UsageError


@dataclasses.dataclass(frozen=True)
class Patches:
    """How training images are cut.

    Args:
      size: side of a square patch, pixels (pcn: 55).
      stride: interval of the grid, pixels (pcn: 4).
      batch: patches a step, over all devices (pcn: 128).
      slices_per_patient: random slices of each training patient, None for all (pcn: 10).
      augment: ``none``, or a name in :data:`ldct_jax.data.feed.augment.AUGMENTATIONS`.
    """

    size: int = 55
    stride: int = 4
    batch: int = 128
    slices_per_patient: int | None = 10
    augment: str = "none"

    def __post_init__(self):
        if min(self.size, self.stride, self.batch) < 1:
            raise UsageError("patch size, stride and batch must be at least 1")
        augment.check(self.augment)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The positions of all patches in ``n`` slices of ``height`` × ``width`` pixels."""

    n: int
    height: int
    width: int
    size: int
    stride: int

    def __post_init__(self):
        if self.size > min(self.height, self.width):
            raise DataError(
                f"patches of {self.size} pixels don't fit slices of {self.height}x{self.width}"
            )

    @property
    def rows(self) -> int:
        return (self.height - self.size) // self.stride + 1

    @property
    def columns(self) -> int:
        return (self.width - self.size) // self.stride + 1

    def __len__(self) -> int:
        return self.n * self.rows * self.columns

    def position(self, index):
        """(slice, top, left) of patch ``index``; works on ints, numpy and jax arrays."""
        per_slice = self.rows * self.columns
        rest = index % per_slice
        return (
            index // per_slice,
            rest // self.columns * self.stride,
            rest % self.columns * self.stride,
        )


def epoch_order(n_patches: int, batch: int, seed: int, epoch: int) -> np.ndarray:
    """Patch indices of one epoch: (steps, batch) int32, each index 0 … n-1 exactly once.

    The last batch is filled up with patches from the epoch's beginning, written as -1 - index:
    they are computed (so that BatchNorm sees real images) but count nothing in the loss.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_patches).astype(np.int32)
    steps = -(-n_patches // batch)
    padding = np.resize(-1 - order, steps * batch - n_patches)
    return np.concatenate([order, padding]).reshape(steps, batch)


def cut(slices_nhw, indices, grid: Grid):
    """Patches (B, size, size) at ``indices`` (B,) of a stack (N, H, W), inside a compiled step."""

    def one(index):
        return lax.dynamic_slice(
            slices_nhw, jnp.stack(grid.position(index)), (1, grid.size, grid.size)
        )[0]

    return jax.vmap(one)(indices)


def decode(order_row):
    """(indices, weights) of a row of :func:`epoch_order`: weights are 1, and 0 for padding."""
    real = order_row >= 0
    return jnp.where(real, order_row, -1 - order_row), real.astype(jnp.float32)
