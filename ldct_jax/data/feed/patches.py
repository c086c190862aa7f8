"""The patch grid of a stack of slices, its order in an epoch, and the cut inside the compiled step.

Every position of the grid is visited exactly once an epoch, in an order that is a function of
(seed, epoch) alone: it doesn't depend on the feed, the number of devices or an interruption.
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
      size: side of a square patch, pixels (pcn: 55); None for whole slices (hrnet), whose side
        :meth:`fit` fills in.
      stride: interval of the grid, pixels (pcn: 4).
      batch: patches a step, over all devices (pcn: 128).
      slices_per_patient: random slices of each training patient, None for all (pcn: 10).
      per_slice: patches taken from each slice at random places, new ones every epoch, instead
        of the grid (dncnn_dose: 15); None for the grid.
      augment: ``none``, or a name in :data:`ldct_jax.data.feed.augment.AUGMENTATIONS`.
    """

    size: int | None = 55
    stride: int = 4
    batch: int = 128
    slices_per_patient: int | None = 10
    augment: str = "none"
    per_slice: int | None = None

    def __post_init__(self):
        counts = (self.size, self.stride, self.batch, self.per_slice)
        if any(count is not None and count < 1 for count in counts):
            raise UsageError("patch size, stride, batch and per_slice must be at least 1")
        augment.check(self.augment)

    def fit(self, height: int, width: int) -> Patches:
        """The same for slices of that matrix: whole slices get its side.

        Raises DataError where whole slices aren't square.
        """
        if self.size is not None:
            return self
        if height != width:
            raise DataError(f"whole slices of {height}x{width} pixels aren't square: cut patches")
        return dataclasses.replace(self, size=height)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The positions of all patches in ``n`` slices of ``height`` × ``width`` pixels.

    ``per_slice``: positions of each slice that an epoch draws at random; None for all of them.
    """

    n: int
    height: int
    width: int
    size: int
    stride: int
    per_slice: int | None = None

    def __post_init__(self):
        if self.size > min(self.height, self.width):
            raise DataError(
                f"patches of {self.size} pixels don't fit slices of {self.height}x{self.width}"
            )
        if self.n * self.rows * self.columns > np.iinfo(np.int32).max:
            raise DataError(
                f"{self.n} slices of {self.height}x{self.width} have more places for patches than "
                "can be counted: train on fewer slices or with a larger stride"
            )

    @classmethod
    def of(cls, stack_nhw, patches: Patches) -> Grid:
        """The grid of ``patches`` on a stack of slices (N, H, W)."""
        stride = patches.stride if patches.per_slice is None else 1
        return cls(*stack_nhw.shape, patches.size, stride, patches.per_slice)

    @property
    def rows(self) -> int:
        return (self.height - self.size) // self.stride + 1

    @property
    def columns(self) -> int:
        return (self.width - self.size) // self.stride + 1

    def __len__(self) -> int:
        """Patches of an epoch."""
        return self.n * (self.per_slice or self.rows * self.columns)

    def order(self, batch: int, seed: int, epoch: int) -> np.ndarray:
        """The positions of one epoch, (steps, batch) int32 as :func:`epoch_order` writes them."""
        order = epoch_order(len(self), batch, seed, epoch)
        if self.per_slice is None:
            return order
        # Another stream than the order's: where a patch lies doesn't depend on when it comes.
        per_slice = self.rows * self.columns
        places = np.random.default_rng([seed, epoch, 1]).integers(per_slice, size=len(self))
        index = np.where(order < 0, -1 - order, order)
        position = (index // self.per_slice * per_slice + places[index]).astype(np.int32)
        return np.where(order < 0, -1 - position, position)

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
