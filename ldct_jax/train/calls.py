"""Calls of the compiled steps: how many steps one has, and what is to be done when it is over."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

# A call should be long enough to hide its launch and short enough for progress and signals.
SECONDS_PER_CALL = 3.0
MOST_STEPS_PER_CALL = 256


@dataclasses.dataclass
class Call:
    """Steps that were handed to the device, and what is to be done when they are over."""

    first: int
    count: int
    metrics: dict
    state: Any = None
    """A copy of the state at its end, where it is evaluated or saved."""
    numbers: Callable[[], dict] | None = None
    due: bool = False
    """To be saved as the last checkpoint."""
    settled: bool = False
    """Its metrics are in the log."""

    @property
    def end(self) -> int:
        return self.first + self.count


class Pace:
    """How many steps a call may have, so that it takes about :data:`SECONDS_PER_CALL`."""

    def __init__(self):
        self._per_second: float | None = None
        self._since = time.monotonic()
        self._more = False

    @property
    def unsure(self) -> bool:
        """The first call is a single step and is waited for, to learn how long a step takes."""
        return self._per_second is None

    def steps(self) -> int:
        if self._per_second is None:
            return 1
        return max(1, min(MOST_STEPS_PER_CALL, round(self._per_second * SECONDS_PER_CALL)))

    def dispatched(self, idle: bool) -> None:
        """A call was handed over; ``idle``: the device had nothing else to do until then."""
        if idle:
            self._since = time.monotonic()

    def finished(self, count: int, more: bool = False) -> None:
        """A call is over; ``more``: the host has an evaluation or a checkpoint to do with it.

        Then neither its own time nor that of the next one is the device's.
        """
        now = time.monotonic()
        if self._per_second is None or not (more or self._more):
            self._per_second = count / max(now - self._since, 1e-6)
        self._since, self._more = now, more
