"""What the cells of our side share: weights and data, compiled training steps, how to time.

Training runs through the package's own seam (``train/parallel.py``), step and resident feeder:
what is timed is what ``ldct train`` does.
"""

from __future__ import annotations

import functools
import math
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from ldct_jax import losses
from ldct_jax.bench.levers import FixedBatch, RematClones
from ldct_jax.bench.prepare import build
from ldct_jax.bench.serve import Refused
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.hu import Window
from ldct_jax.models.flops import flops
from ldct_jax.optim import Adam, Constant
from ldct_jax.system import provenance
from ldct_jax.train import steps
from ldct_jax.train.mesh import DataParallel, synchronised
from ldct_jax.train.state import TrainState

# Largest difference of two float32 outputs, relative to the largest value.
OUTPUT_TOLERANCE = 1e-5


class SharedOrder(Resident):
    """The resident feeder with the order of patches that both sides read from one file."""

    def __init__(self, pairs, patches: Patches, order: np.ndarray):
        super().__init__(pairs, patches, seed=0)
        self.steps_per_epoch, self._shared = len(order), order

    def inputs(self, epoch: int, first: int, count: int, place=None) -> dict:
        place = place or (lambda array, split: jax.device_put(array))
        if self._order is None:
            self._order = (0, place(self._shared, True))
        return super().inputs(0, first, count, place)


class Shared:
    """What all cells of a run share: data, window, weights, a reference output."""

    def __init__(self, request: dict):
        folder = Path(request["folder"])
        self.request, self.data = request, np.load(folder / "data.npz", allow_pickle=False)
        self.window = Window(*(float(x) for x in self.data["window"]))
        how = request["how"]
        fields = {**request["fields"], "dtype": jnp.dtype(request["dtype"])}
        fields |= {k: how[k] for k in ("loop", "shortcuts") if k in how}
        if how.get("remat"):
            self.model = RematClones(**fields)
        else:
            self.model = build(request["kind"], fields)
        arrays = dict(np.load(folder / f"model-{request['name']}.npz", allow_pickle=False))
        self.input, self.output = arrays.pop("input"), arrays.pop("output")
        self.variables = jax.device_put(unflatten_dict(arrays, sep="/"))

    def output_error(self) -> float:
        """The relative difference from the reference output; raises Refused where it is large."""
        model = self.model.clone(dtype=jnp.float32)
        with jax.default_matmul_precision("highest"):
            output = np.asarray(jax.jit(model.apply)(self.variables, self.input))
        error = float(np.abs(output - self.output).max() / np.abs(self.output).max())
        if not error <= OUTPUT_TOLERANCE:
            raise Refused(f"the output differs by {error:.1e} of its largest value: not timed")
        return error

    @property
    def loss(self):
        return losses.every_clone(losses.mse)

    def feeder(self):
        """The package's resident feeder, its order that of the file, or one batch for ever."""
        r, data = self.request, self.data
        n = len(data["low"])
        pairs = PairedSlices(
            low_hu=data["low"],
            full_hu=data["full"],
            patients=tuple(str(i) for i in range(n)),
            pixel_mm=np.ones(n),
            slice_mm=np.ones(n),
            source="phantoms",
        )
        patches = Patches(r["size"], r["stride"], r["batch"], None)
        order = np.load(
            Path(r["folder"]) / f"order-{r['size']}-{r['batch']}.npy", allow_pickle=False
        )
        if r["task"] == "epoch":
            order = order[: r["most_steps"]]
        feeder = SharedOrder(pairs, patches, order)
        return FixedBatch(feeder) if r["how"].get("fixed_batch") else feeder


class Training:
    """The package's compiled training steps, from the shared weights."""

    def __init__(self, shared: Shared):
        r = shared.request
        self.feeder, self.parallel = shared.feeder(), DataParallel(jax.devices()[:1])
        self.rows = self.feeder.steps_per_epoch
        self.per_call = min(r["how"].get("steps_per_call", 1), self.rows)
        optimizer = Adam(Constant(r["rate"])).build(1, 1)
        params = shared.variables["params"]
        zero = np.zeros((), np.int32)
        self.state = self.parallel.replicate(
            TrainState(
                step=zero,
                params=params,
                batch_stats=shared.variables.get("batch_stats", {}),
                opt_state=optimizer.init(params),
                ema=None,
                key=jax.random.key_data(jax.random.key(0)),
                skipped=zero,
                streak=zero,
            )
        )
        step = steps.supervised(synchronised(shared.model), shared.loss, optimizer)
        most = max(self.per_call, 1)
        program = self.parallel.compile_steps(step, self.feeder, shared.window, "none", most)
        self.lowered = functools.partial(program.lower, self.state, *self._arguments(0, 1))
        self.done, self._run, self.log = 0, None, None

    def compile(self) -> None:
        self._run = self.lowered().compile()

    def _arguments(self, first: int, count: int):
        inputs = self.feeder.inputs(0, first, count, self.parallel.place)
        return inputs, np.int32(0), np.int32(first), np.int32(count)

    def advance(self, n: int) -> None:
        """Dispatch ``n`` steps, at most ``per_call`` in one call; nothing is waited for."""
        while n > 0:
            first = self.done % self.rows
            count = min(n, self.per_call, self.rows - first)
            self.state, self.log = self._run(self.state, *self._arguments(first, count))
            self.done, n, self._last = self.done + count, n - count, count - 1

    def finish(self) -> float:
        """Wait for the steps; the loss of the last one."""
        jax.block_until_ready(self.state)
        return float(self.log["loss"][self._last])


def about() -> dict:
    """What the cell runs on; versions, never names of machines."""
    return {"versions": provenance.versions(), "device": provenance.device()}


def memory() -> dict:
    """Peak bytes: of the device where it counts them, else of the process."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return {"peak_bytes": stats["peak_bytes_in_use"], "memory_of": "device"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but bytes on macOS.
    return {
        "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "memory_of": "process",
    }


def compile_seconds(training: Training, request: dict) -> float:
    """Tracing and compiling, cold; with ``warm`` the second time, from the persistent cache."""
    if request["how"].get("warm"):
        jax.config.update("jax_compilation_cache_dir", str(Path(request["folder"]) / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        training.compile()
        jax.clear_caches()
    began = time.perf_counter()
    training.compile()
    return time.perf_counter() - began


def executed(shared: Shared) -> int:
    """Operations of one patch's forward and backward pass as our program does them."""
    return flops(*gradient(shared, 1), padding=True)


def gradient(shared: Shared, batch: int) -> tuple:
    """The forward and backward pass of ``batch`` patches: the function and its arguments."""
    params = shared.variables["params"]
    rest = {k: v for k, v in shared.variables.items() if k != "params"}

    def objective(params, low, full):
        out = shared.model.apply(
            {"params": params, **rest}, low, train=True, mutable=["batch_stats"]
        )[0]
        return jnp.mean(shared.loss(out, full))

    size = shared.request["size"]
    image = jax.ShapeDtypeStruct((batch, size, size, 1), jnp.float32)
    return jax.grad(objective), params, image, image


def repeats(run, request: dict, granularity: int = 1) -> dict:
    """Warm up, and find how many steps a repeat of the wanted length has."""
    run(granularity)
    began = time.perf_counter()
    run(granularity)
    once = max(time.perf_counter() - began, 1e-9)
    return {"steps_per_repeat": granularity * max(1, math.ceil(request["repeat_seconds"] / once))}


def timed(run, n: int, units: float, first: int = 1) -> dict:
    """One repeat. ``first`` steps before it aren't timed: while other cells had their turn, the
    system took back memory that a training never lets go.
    """
    run(first)
    began = time.perf_counter()
    run(n)
    return {"seconds": time.perf_counter() - began, "units": units, "steps": n}


def psnr(image, reference) -> float:
    return -10 * math.log10(float(np.mean(np.square(np.float64(image) - reference))))
