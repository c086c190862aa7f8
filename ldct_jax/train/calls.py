"""Calls of the compiled steps, how many steps one has, and where the wall time of a run goes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

# A call should be long enough to hide its launch and short enough for progress and signals.
SECONDS_PER_CALL = 3.0
MAX_STEPS_PER_CALL = 256

SECTIONS = ("compile", "train", "evaluate", "save")


@dataclasses.dataclass
class Call:
    """Steps that were dispatched, and what to do when they are done."""

    first: int
    count: int
    metrics: dict
    state: Any = None
    """A copy of the state after its last step, where it is evaluated or saved."""
    numbers: Callable[[], dict] | None = None
    """Blocks, and returns what the monitor found; None where nothing is evaluated."""
    signal: int = 0
    """The signal that asked to stop after this call, or 0."""
    save: bool = False
    """Whether its state becomes the last checkpoint."""
    logged: bool = False
    """Whether its metrics are in the log."""

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
        return max(1, min(MAX_STEPS_PER_CALL, round(self._per_second * SECONDS_PER_CALL)))

    def dispatched(self, idle: bool) -> None:
        """A call was dispatched; ``idle``: the device had no work until then."""
        if idle:
            self._since = time.monotonic()

    def finished(self, count: int, more: bool = False) -> None:
        """A call is done; ``more``: the host evaluates or saves its state.

        Then neither its own wall time nor that of the next call is the device's alone.
        """
        now = time.monotonic()
        if self._per_second is None or not (more or self._more):
            self._per_second = count / max(now - self._since, 1e-6)
        self._since, self._more = now, more


class Clock:
    """Wall seconds by section, summed over restarts; time in no section is ``other``.

    An inner section stops the watch of the outer one.
    """

    def __init__(self, seconds: dict[str, float] | None = None):
        self.seconds = dict.fromkeys(SECTIONS, 0.0) | (seconds or {})
        self._before, self._began = sum(self.seconds.values()), time.monotonic()
        self._open: list[str] = []
        self._since = self._began

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        """Add the time since the last change to the open section."""
        now = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def report(self) -> dict[str, float]:
        """Seconds by section with ``other`` and ``total``, summed over restarts."""
        known = sum(self.seconds.values())
        total = max(self._before + time.monotonic() - self._began, known)
        return {**self.seconds, "other": total - known, "total": total}
