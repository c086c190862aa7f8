"""Where the wall time of a run goes; survives interruptions through the checkpoint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

SECTIONS = ("compile", "train", "evaluate", "save")


class Clock:
    """Seconds by section; what belongs to none is ``other``.

    Sections don't nest: an inner one stops the outer one's watch.
    """

    def __init__(self, seconds: dict[str, float] | None = None):
        self.seconds = dict.fromkeys(SECTIONS, 0.0) | (seconds or {})
        self._began = time.monotonic()
        self._before = sum(self.seconds.values())
        self._open: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        now = time.monotonic()
        if self._open:
            outer, since = self._open.pop()
            self.seconds[outer] += now - since
            self._open.append((outer, now))
        self._open.append((name, now))
        try:
            yield
        finally:
            _, since = self._open.pop()
            now = time.monotonic()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
            if self._open:
                self._open[-1] = (self._open[-1][0], now)

    def report(self) -> dict[str, float]:
        """Seconds by section, ``other`` and ``total`` included, over all sittings."""
        known = sum(self.seconds.values())
        total = max(self._before + time.monotonic() - self._began, known)
        return {**self.seconds, "other": total - known, "total": total}
