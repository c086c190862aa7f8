"""Variants of the networks that only the benchmark runs, to see whether they pay."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldct_jax.data.feed.feed import Batch
from ldct_jax.models.clones import ClonesNet


class RematClones(ClonesNet):
    """Clones whose inner activations are computed again for the gradients instead of kept.

    Same parameters, same function; only what a clone receives and hands on is stored.
    """

    def _repeat(self, step, carry):
        again = nn.remat(lambda body, carry: step(body, carry), prevent_cse=False)
        return super()._repeat(again, carry)


class FixedBatch:
    """A feeder that gives the same batch for every step: training without its input pipeline."""

    max_steps = None

    def __init__(self, feeder):
        self.batch_size, self.steps_per_epoch = feeder.batch_size, feeder.steps_per_epoch
        self._feeder, self._inputs = feeder, None

    def specs(self) -> dict:
        return dict.fromkeys(("low_hu", "full_hu", "index", "weight"), True)

    def inputs(self, epoch: int, first: int, count: int, place) -> dict:
        """The first batch of the epoch, each array (1, B, …) on the devices."""
        if self._inputs is None:
            batch = jax.jit(self._feeder.batch)(self._feeder.inputs(0, 0, 1, place), jnp.int32(0))
            arrays = {n: jax.device_get(getattr(batch, n))[None] for n in self.specs()}
            self._inputs = {n: place(array, True) for n, array in arrays.items()}
        return self._inputs

    def batch(self, inputs: dict, step):
        return Batch(**{name: array[0] for name, array in inputs.items()})
