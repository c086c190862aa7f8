"""Our side: ``python -m experiments.speed.ours REQUEST.json`` gets one row ready and measures it.

Training goes through the package's own step, resident feed and devices: what is timed is what
``ldct train`` does. Needs jax, flax, optax, orbax-checkpoint and numpy alone. Nothing is timed
before the network with the shared weights gave the shared output in float32.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.child import answer, peak_of_process, repeats
from experiments.speed.device_time import WatchedDevices, convolutions
from experiments.speed.shared import (
    GRADIENT_TOLERANCE,
    RATE,
    STRIDE,
    Shared,
    about,
    flat_gradient,
    same,
)
from ldct_jax import losses
from ldct_jax.data.feed.patches import Patches
from ldct_jax.hu import FULL
from ldct_jax.models.flops import flops
from ldct_jax.models.whole_slices import denoise
from ldct_jax.optim import Adam, Constant
from ldct_jax.record import to_record
from ldct_jax.train import state as train_state
from ldct_jax.train import steps
from ldct_jax.train.mesh import DataParallel, synchronised

# Of the full PCN's layers; a chain's outputs may differ by a bit of a bfloat16 for each layer.
CHANNELS, CHAIN_TOLERANCE = 48, 4 * 2.0**-8
# The first epoch pays for what comes once, the last has no next one beside its evaluation.
EPOCHS = 4


class Steps:
    """The package's compiled training steps, from the shared weights."""

    def __init__(self, shared: Shared):
        r = shared.request
        self.feed, self.devices = shared.feed(), DataParallel(jax.devices()[:1])
        self.rows = self.feed.steps_per_epoch
        self.per_call = min(shared.how.get("steps_per_call", 1), self.rows)
        optimizer = Adam(Constant(RATE)).build(1, 1)
        state = train_state.create(shared.model, optimizer, r["size"], 0)
        state = state.replace(
            params=shared.variables["params"],
            batch_stats=shared.variables.get("batch_stats", {}),
        )
        self.state = self.devices.replicate(state)
        step = steps.supervised(
            synchronised(shared.model), losses.every_clone(losses.mse), optimizer
        )
        program = self.devices.compile_steps(step, self.feed, FULL, "none", self.per_call)
        self.lower = functools.partial(program.lower, self.state, *self._arguments(0, 1))
        self.done = 0

    def _arguments(self, first: int, count: int):
        inputs = self.feed.inputs(0, first, count, self.devices.place)
        return inputs, np.int32(0), np.int32(first), np.int32(count)

    def compile(self, warm: str | None = None) -> float:
        """Seconds; ``warm``: a folder of compiled programs, and the second time is counted."""
        if warm:
            jax.config.update("jax_compilation_cache_dir", warm)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            self.compile()
            jax.clear_caches()
        began = time.perf_counter()
        self._run = self.lower().compile()
        return time.perf_counter() - began

    def advance(self, n: int) -> float:
        """Run ``n`` steps and wait for them; the loss of the last one."""
        while n > 0:
            first = self.done % self.rows
            count = min(n, self.per_call, self.rows - first)
            self.state, log = self._run(self.state, *self._arguments(first, count))
            self.done, n = self.done + count, n - count
        jax.block_until_ready(self.state)
        return float(log["loss"][count - 1])


def train(request: dict) -> tuple:
    shared = Shared(request)
    if shared.how.get("convolutions"):
        return convolutions_alone(shared)
    training, facts = Steps(shared), shared.facts
    facts["compile_s"] = training.compile(shared.how.get("warm") and request["folder"])
    facts["executed_flops"] = flops(*shared.gradient(1), padding=True)
    facts["loss"] = training.advance(request["loss_steps"])
    # A repeat is whole calls: a shorter one would launch more than training does.
    return facts, training.advance, request["batch"], training.per_call


def convolutions_alone(shared: Shared) -> tuple:
    """The training step's convolutions, one after the other, each a program of its own."""
    batch, facts = shared.request["batch"], shared.facts
    found = convolutions(*shared.gradient(batch))
    began = time.perf_counter()
    programs = [(*one.compiled(), times) for one, times in found.items()]
    facts["compile_s"] = time.perf_counter() - began
    facts["executed_flops"] = sum(n * one.flops for one, n in found.items()) // batch

    def run(n):
        for _ in range(n):
            for program, a, b, times in programs:
                jax.block_until_ready([program(a, b) for _ in range(times)])

    return facts, run, batch, 1


def infer(request: dict) -> tuple:
    shared, side, batch = Shared(request), request["size"], request["batch"]
    low, facts = shared.data["low"], shared.facts
    tiles = -(-side // low.shape[1])
    slices = np.tile(low[np.arange(batch) % len(low)], (1, tiles, tiles))[:, :side, :side]
    x = jax.device_put(FULL.to_unit(slices)[..., None])
    function = jax.jit(lambda v, x: denoise(shared.model, v, x))
    began = time.perf_counter()
    program = function.lower(shared.variables, x).compile()
    facts["compile_s"] = time.perf_counter() - began
    facts["executed_flops"] = flops(function, shared.variables, x, padding=True) // batch

    def run(n):
        jax.block_until_ready([program(shared.variables, x) for _ in range(n)])

    return facts, run, batch, 1


def matrix(request: dict) -> tuple:
    n = request["size"]
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.dtype(request["dtype"]))
    began = time.perf_counter()
    program = jax.jit(jnp.matmul).lower(a, a).compile()
    facts = {"compile_s": time.perf_counter() - began, **about()}

    def run(k):
        jax.block_until_ready([program(a, a) for _ in range(k)])

    return facts, run, 2e-12 * n**3, 1


def gradient(request: dict) -> tuple:
    """No time: the gradient of all parameters in float32, compared with the CPU's."""
    shared = Shared(request)
    wanted = np.load(
        Path(request["folder"]) / f"gradient-{request['model']}.npy", allow_pickle=False
    )
    model = shared.model.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        found = flat_gradient(model, shared.variables, shared.input, shared.target)
    error = same(found, wanted, GRADIENT_TOLERANCE, "gradient")
    return {**shared.facts, "gradient_error": error}, None, 0, 1


def chain(request: dict) -> tuple:
    """Layers one after the other, forward: one kernel (``pallas``) or XLA's convolutions."""
    from experiments.speed.pallas_chain import pallas_chain, xla_chain

    how, side, dtype = request["how"], request["size"], jnp.dtype(request["dtype"])
    layers, shape = how["layers"], (request["batch"], side, side, CHANNELS)
    keys = jax.random.split(jax.random.key(0), 1 + layers)
    x = jax.random.normal(keys[0], shape, dtype)
    # As large a signal after each layer as before it.
    scale = (2 / 9 / CHANNELS) ** 0.5
    kernels = [scale * jax.random.normal(k, (3, 3, CHANNELS, CHANNELS)) for k in keys[1:]]
    kernels = [kernel.astype(dtype) for kernel in kernels]
    arguments = x, kernels, [jnp.full(CHANNELS, 0.1, dtype)] * layers
    by_xla = jax.jit(xla_chain)
    program, facts = by_xla, about()
    if how["pallas"]:
        program = jax.jit(functools.partial(pallas_chain, interpret=how.get("interpret", False)))
    began = time.perf_counter()
    program = program.lower(*arguments).compile()
    facts["compile_s"] = time.perf_counter() - began
    found, wanted = (np.asarray(f(*arguments), np.float32) for f in (program, by_xla))
    facts["output_error"] = same(found, wanted, CHAIN_TOLERANCE, "output")

    def run(n):
        # Only the last result is kept: they come one after the other.
        for _ in range(n):
            out = program(*arguments)
        jax.block_until_ready(out)

    return facts, run, request["batch"], 1


def epoch(request: dict) -> tuple:
    """Whole epochs: ``part`` calls (compiled calls alone), loop (``ldct train``'s loop with its
    log) or everything (the loop with a validation slice and a best checkpoint an epoch)."""
    shared, facts = Shared(request), {}
    if shared.how["part"] == "calls":
        shared.how["steps_per_call"] = 256
        training = Steps(shared)
        facts["compile_s"] = training.compile()
        # As long as the loop is timed.
        n = (EPOCHS - 2) * training.rows
        training.advance(training.rows)

        def once() -> dict:
            began = time.perf_counter()
            training.advance(n)
            return {
                "seconds": time.perf_counter() - began,
                "units": n * request["batch"],
                "steps": n,
            }

    else:
        # Every repeat is a training of its own, and compiled once.
        jax.config.update("jax_compilation_cache_dir", str(Path(request["folder"]) / "epochs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        once = functools.partial(epochs_of_the_loop, shared, facts)
        once()
    return {**shared.facts, **facts}, once, 0, 0


def epochs_of_the_loop(shared: Shared, facts: dict) -> dict:
    from ldct_jax.models.whole_slices import WholeSlices
    from ldct_jax.train import run

    devices, feed, r = WatchedDevices(jax.devices()[:1]), shared.feed(), shared.request
    slices, ends = WholeSlices(shared.model, FULL), []
    evaluated = shared.how["part"] == "everything"
    training = SimpleNamespace(
        model=shared.model,
        loss=losses.every_clone(losses.mse),
        optimizer=Adam(Constant(RATE)),
        window=FULL,
        patches=Patches(r["size"], STRIDE, r["batch"], None),
        epochs=EPOCHS,
        steps=None,
        seed=0,
        ema_decay=None,
        gan=None,
    )

    def monitor(variables):
        waits = slices.begin(variables, shared.data["low"][:1]) if evaluated else lambda: None

        def numbers() -> dict:
            waits()
            ends.append(time.perf_counter())
            # A value that grows: the worst case, where every epoch's state is the best one.
            return {"validation_psnr": float(len(ends))} if evaluated else {}

        return numbers

    record = {"model": to_record(shared.model), "window": to_record(FULL)}
    with tempfile.TemporaryDirectory(dir=r["folder"]) as folder:
        outcome = run.train(
            training, feed, Path(folder), record=record, parallel=devices, monitor=monitor
        )
    facts["compile_s"] = outcome.seconds["compile"]
    n = (EPOCHS - 2) * feed.steps_per_epoch
    idle = devices.idle_seconds(ends[0], ends[-2])
    seconds = ends[-2] - ends[0]
    return {"seconds": seconds, "units": n * r["batch"], "steps": n, "idle_s": idle}


def peak_bytes() -> int:
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or peak_of_process()


def main(path: str) -> None:
    request = json.loads(Path(path).read_text())
    tasks = {
        "train": train,
        "infer": infer,
        "matrix": matrix,
        "gradient": gradient,
        "epoch": epoch,
        "chain": chain,
    }
    facts, run, units, step = tasks[request["task"]](request)
    once = run
    if step:
        more, once = ({}, dict) if run is None else repeats(run, units, request["repeat_s"], step)
        facts |= more
    answer(facts, lambda: {**once(), "peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main(sys.argv[1])
