"""Where a step's time goes: its convolutions alone, and when the device has nothing to do."""

from __future__ import annotations

import dataclasses
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ldct_jax.errors import UsageError
from ldct_jax.models.flops import branches, called, flops, traced
from ldct_jax.train.mesh import DataParallel

_SHAPING = (
    "window_strides",
    "padding",
    "lhs_dilation",
    "rhs_dilation",
    "dimension_numbers",
    "feature_group_count",
    "batch_group_count",
    "precision",
)
# How long a thread of this process keeps another waiting; Python's own 5 ms would hide such gaps.
_TURN_S = 1e-4


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution by the shapes and type of its operands and how it is taken."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    dtype: str
    how: tuple

    def _taken(self, a, b):
        return lax.conv_general_dilated(a, b, **dict(zip(_SHAPING, self.how, strict=True)))

    @property
    def flops(self) -> int:
        """Its operations, those with a border of zeros too."""
        a, b = (jax.ShapeDtypeStruct(s, jnp.dtype(self.dtype)) for s in (self.lhs, self.rhs))
        return flops(self._taken, a, b, padding=True)

    def compiled(self) -> tuple[Callable, jax.Array, jax.Array]:
        """It as a program of its own, with operands of random numbers."""
        keys = jax.random.split(jax.random.key(0))
        a = jax.random.normal(keys[0], self.lhs, jnp.dtype(self.dtype))
        b = jax.random.normal(keys[1], self.rhs, jnp.dtype(self.dtype))
        return jax.jit(self._taken).lower(a, b).compile(), a, b


def convolutions(function: Callable, *args) -> Counter[Convolution]:
    """How often ``function(*args)`` takes each of its convolutions, loops unrolled.

    Raises UsageError where that depends on values.
    """
    found: Counter[Convolution] = Counter()
    _collect(traced(function, *args), 1, found)
    return found


def _collect(jaxpr, times: int, found: Counter) -> None:
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "conv_general_dilated":
            lhs, rhs = (v.aval for v in eqn.invars)
            how = tuple(params[k] for k in _SHAPING)
            found[Convolution(lhs.shape, rhs.shape, str(lhs.dtype), how)] += times
        elif name == "cond" and len(taken := branches(params)) == 1:
            _collect(taken[0].jaxpr, times, found)
        elif name in ("while", "cond"):
            raise UsageError(f"convolutions can't be counted through a {name}")
        else:
            for inner in called(params):
                _collect(inner, times * (params["length"] if name == "scan" else 1), found)


class WatchedDevices(DataParallel):
    """Devices whose compiled steps tell when each call was handed over and when it was done.

    The loop hands over the next call before it looks at the one before, so that the device need not
    wait. The device is idle from the end of one call until the next is handed over, where that
    comes later. The launch itself isn't seen, nor what is over before the waiting thread gets its
    turn, which is why turns are short in a process that watches. On a CPU the device's threads are
    also the host's; what the host takes from a call that runs is not idleness, and only a ratio of
    speeds shows it.
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
