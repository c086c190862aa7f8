"""The device's idle time is what lies between calls, and nothing else."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from experiments.speed.device_time import WatchedDevices


class Pending:
    """What a call returns: ready when it is said to be."""

    def __init__(self):
        self._over = threading.Event()

    def finish(self):
        self._over.set()

    def block_until_ready(self):
        self._over.wait()
        return self


def test_a_device_is_idle_from_a_calls_end_to_the_next_one():
    watched = WatchedDevices(jax.devices()[:1])
    began = time.perf_counter()
    # (handed over, done) as the thread would note them: the second waits behind the first.
    watched._calls += [(began + a, began + b) for a, b in ((0.0, 2.0), (1.0, 3.0), (3.5, 5.0))]
    assert watched.idle_seconds(began, began + 5) == pytest.approx(0.5)
    assert watched.idle_seconds(began + 1, began + 3) == pytest.approx(0.0)
    assert watched.idle_seconds(began + 3.25, began + 5) == pytest.approx(0.25)
    assert watched.idle_seconds(began - 1, began + 6) == pytest.approx(2.5)


def test_calls_are_noted_when_they_are_over(monkeypatch):
    watched, pending = WatchedDevices(jax.devices()[:1]), Pending()
    monkeypatch.setattr(jax, "block_until_ready", lambda x: x.block_until_ready())
    monkeypatch.setattr(
        "ldct_jax.train.mesh.DataParallel.compile_steps",
        lambda self: _Lowered(lambda state: (state, pending)),
    )
    run = watched.compile_steps().lower(0).compile()
    began = time.perf_counter()
    assert run(1) == (1, pending)
    later = threading.Timer(0.3, pending.finish)
    later.start()
    # Waits for the call, which is no idleness.
    assert watched.idle_seconds(began, began + 0.2) < 0.1
    assert watched._calls[0][1] - began >= 0.3


def test_a_call_that_fails_is_no_idle_device(monkeypatch):
    watched = WatchedDevices(jax.devices()[:1])

    def fail(metrics):
        raise FloatingPointError("not finite")

    monkeypatch.setattr(jax, "block_until_ready", fail)
    monkeypatch.setattr(
        "ldct_jax.train.mesh.DataParallel.compile_steps",
        lambda self: _Lowered(lambda state: (state, {})),
    )
    watched.compile_steps().lower(0).compile()(1)
    with pytest.raises(FloatingPointError):
        watched.idle_seconds(0.0, 1.0)


class _Lowered:
    def __init__(self, function):
        self._function = function

    def lower(self, *args):
        return self

    def compile(self):
        return self._function


def test_what_is_watched_is_what_is_run(monkeypatch):
    program = jax.jit(lambda x: (x + 1, {"loss": jnp.sum(x)}))
    watched = WatchedDevices(jax.devices()[:1])
    monkeypatch.setattr("ldct_jax.train.mesh.DataParallel.compile_steps", lambda self: program)
    run = watched.compile_steps().lower(jnp.ones(3)).compile()
    state, metrics = run(jnp.ones(3))
    assert float(metrics["loss"]) == 3 and state.tolist() == [2, 2, 2]
