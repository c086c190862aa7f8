"""Progress of long work: a live bar on a terminal, plain lines elsewhere (logs, CI, pipes)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator

PLAIN_EVERY_S = 10.0


class Progress:
    """Counts up to ``total`` and shows progress, rate and remaining time.

    ``advance`` takes the number of units done and a short free text (the loss, a file name).
    On anything but a terminal a line is printed at most every ten seconds, and one at the end.
    ``quiet`` only counts.
    """

    def __init__(
        self, what: str, total: int, unit: str, *, stream=None, done: int = 0, quiet: bool = False
    ):
        self._quiet = quiet
        self.what, self.total, self.unit = what, total, unit
        self.done, self._start_done = done, done
        self._stream = stream or sys.stderr
        self._began = self._printed = time.monotonic()
        self._bar = None
        self._text = ""

    def __enter__(self) -> Progress:
        if self._stream.isatty() and self.total and not self._quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rest]}"),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(
                self.what, total=self.total, completed=self.done, rest=""
            )
            self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error == (None, None, None) and self.total:  # nothing to report of an empty task
            self._line()

    def advance(self, n: int = 1, text: str = "") -> None:
        self.done += n
        self._text = text
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rest=self._rest())
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._line()

    def _rest(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (self.done - self._start_done) / seconds
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        parts = [f"{rate:,.1f} {self.unit}/s" if rate < 100 else f"{rate:,.0f} {self.unit}/s"]
        if self.done < self.total and left < 1e7:
            parts.append(f"{_clock(left)} left")
        return ", ".join(parts + ([self._text] if self._text else []))

    def _line(self) -> None:
        if self._quiet:
            return
        self._printed = time.monotonic()
        print(
            f"{self.what}: {self.done}/{self.total} {self.unit}, {self._rest()}",
            file=self._stream,
            flush=True,
        )


def track(items: Iterable, what: str, unit: str, total: int | None = None) -> Iterator:
    """Iterate over ``items`` with a :class:`Progress`."""
    items = list(items) if total is None else items
    with Progress(what, len(items) if total is None else total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
    """Say that something of unknown length begins, and at the end how long it took."""
    began = time.monotonic()
    print(f"{what} …", file=sys.stderr, flush=True)
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
