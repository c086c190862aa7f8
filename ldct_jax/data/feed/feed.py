"""What a feed is: the one interface between training data and the compiled steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

# Puts a host array on the devices: whole on each, or split along its second axis.
Place = Callable[[np.ndarray, bool], Any]


class Batch(NamedTuple):
    """What a feed hands to the step: raw pairs and which of them count.

    low_hu, full_hu: (B, S, S) int16; index: (B,) position in the grid; weight: (B,) 1 or 0.
    """

    low_hu: Any
    full_hu: Any
    index: Any
    weight: Any


class Feed(Protocol):
    """Batches of patches, epoch by epoch, in an order that (seed, epoch) alone decides.

    Attributes:
      batch_size: patches a step, over all devices.
      steps_per_epoch: steps until every patch was seen.
      max_steps: steps that one compiled call may have, or None where there is no limit.
    """

    batch_size: int
    steps_per_epoch: int
    max_steps: int | None

    def specs(self) -> dict[str, bool]:
        """How the arrays of :meth:`inputs` lie: split along the batch, or whole on each device."""

    def inputs(self, epoch: int, first: int, count: int, place: Place = ...) -> dict:
        """Arrays for a call that runs steps ``first`` … ``first + count - 1`` of ``epoch``."""

    def batch(self, inputs: dict, step) -> Batch:
        """The batch of ``step``, counted within the epoch; called inside the compiled program."""


def put(array: np.ndarray, split: bool):
    """A :data:`Place` on the default device."""
    return jax.device_put(array)
