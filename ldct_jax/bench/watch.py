"""When the device has nothing to do, while the training loop believes that it keeps it busy."""

from __future__ import annotations

import queue
import sys
import threading
import time

import jax

from ldct_jax.train.mesh import DataParallel

# How long a thread of this process keeps another waiting; Python's own 5 ms would hide such gaps.
_TURN_S = 1e-4


class WatchedDevices(DataParallel):
    """Devices whose compiled steps tell when each call was handed over and when it was done.

    The loop hands over the next call before it looks at the one before, so that the device need not
    wait. Whether it does is measured here: it is idle from the end of one call until the next
    is handed over, where that comes later. The launch itself isn't seen, nor what is over before
    the waiting thread gets its turn, which is why turns are short in a process that watches.
    On a CPU the device's threads are also the host's; what the host takes from a call that runs is
    not idleness, and only a ratio of speeds shows it.
    """

    def __init__(self, devices=None):
        super().__init__(devices)
        sys.setswitchinterval(_TURN_S)
        self._calls: list[tuple[float, float]] = []
        self._failure: Exception | None = None
        self._handed_over: queue.Queue = queue.Queue()
        # A thread of its own: whoever waits for a call can't hand over the next one.
        threading.Thread(target=self._wait, daemon=True).start()

    def compile_steps(self, *args, **kwargs):
        return _Program(super().compile_steps(*args, **kwargs), self._handed_over)

    def idle_seconds(self, begin: float, end: float) -> float:
        """Seconds between two values of ``time.perf_counter`` in which no call was with the device.

        Waits for all calls so far; raises what one of them raised.
        """
        self._handed_over.join()
        if self._failure is not None:
            raise self._failure
        idle, since = 0.0, begin
        for handed_over, done in self._calls:
            idle += max(0.0, min(handed_over, end) - max(since, begin))
            since = max(since, done)
        return idle + max(0.0, end - max(since, begin))

    def forget(self) -> None:
        """Wait for all calls so far, and start anew."""
        self._handed_over.join()
        self._calls.clear()

    def _wait(self) -> None:
        while True:
            handed_over, metrics = self._handed_over.get()
            try:
                jax.block_until_ready(metrics)
                self._calls.append((handed_over, time.perf_counter()))
            except Exception as error:
                self._failure = error
            finally:
                self._handed_over.task_done()


class _Program:
    """Lowered, compiled and called like the function that it stands for."""

    def __init__(self, program, handed_over: queue.Queue):
        self._program, self._handed_over = program, handed_over

    def lower(self, *args):
        return _Program(self._program.lower(*args), self._handed_over)

    def compile(self):
        return _Program(self._program.compile(), self._handed_over)

    def __call__(self, *args):
        now = time.perf_counter()
        state, metrics = self._program(*args)
        self._handed_over.put((now, metrics))
        return state, metrics
