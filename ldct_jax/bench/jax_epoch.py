"""Whole epochs: compiled calls alone, and ``ldct train``'s loop around them."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
import time
import types
from pathlib import Path

import jax

from ldct_jax.bench.jax_work import Shared, Training, about, compile_seconds, memory, timed
from ldct_jax.bench.serve import Prepared, Refused
from ldct_jax.bench.watch import WatchedDevices
from ldct_jax.data.feed.patches import Patches
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.optim import Adam, Constant
from ldct_jax.record import to_record
from ldct_jax.train import run

# The first epoch of a training pays for what comes once, the last has no next one beside its
# evaluation; those between are timed.
EPOCHS = 4


def prepare_epoch(request: dict) -> Prepared:
    """Whole epochs: ``part`` calls (nothing but compiled calls), loop (``ldct train``'s loop with
    its log), everything (the loop with a validation slice and a best checkpoint an epoch)."""
    shared = Shared(request)
    facts = {"output_error": shared.output_error(), **about()}
    part = request["how"]["part"]
    if part != "calls":
        return _prepare_loop(shared, facts, evaluated=part == "everything")
    training = Training(shared)
    facts["compile_s"] = compile_seconds(training, request)

    def run(n):
        training.advance(n)
        training.finish()

    n = (EPOCHS - 2) * training.rows
    run(training.rows)
    facts["steps_per_repeat"] = n
    repeat = functools.partial(timed, run, n, n * request["batch"], training.rows)
    return Prepared(facts, repeat, memory)


def _prepare_loop(shared: Shared, facts: dict, evaluated: bool) -> Prepared:
    if importlib.util.find_spec("tensorboardX") is None:
        raise Refused("the loop's log needs tensorboardX, which is not installed")
    r, parallel = shared.request, WatchedDevices(jax.devices()[:1])
    training = types.SimpleNamespace(
        model=shared.model,
        loss=shared.loss,
        optimizer=Adam(Constant(r["rate"])),
        window=shared.window,
        patches=Patches(size=r["size"]),
        epochs=EPOCHS,
        steps=None,
        seed=0,
        ema_decay=None,
        gan=None,
    )
    record = {"model": to_record(shared.model), "window": to_record(shared.window)}
    slices = WholeSlices(shared.model, shared.window)
    feeder = shared.feeder()
    n = facts["steps_per_repeat"] = (EPOCHS - 2) * feeder.steps_per_epoch

    def once() -> dict:
        ends: list[float] = []

        def monitor(variables):
            if evaluated:
                denoised = slices.begin(variables, shared.data["validation_low"])

            def numbers() -> dict:
                if evaluated:
                    denoised()
                ends.append(time.perf_counter())
                # A value that grows: the worst case, where every epoch's state is the best one.
                return {"validation_psnr": float(len(ends))} if evaluated else {}

            return numbers

        parallel.forget()
        with tempfile.TemporaryDirectory(dir=r["folder"]) as folder:
            outcome = run.train(
                training, feeder, Path(folder), record=record, parallel=parallel, monitor=monitor
            )
        facts["compile_s"] = outcome.seconds["compile"]
        return {
            "seconds": ends[-2] - ends[0],
            "units": n * r["batch"],
            "steps": n,
            "outside_s": parallel.idle_seconds(ends[0], ends[-2]),
        }

    once()
    return Prepared(facts, once, memory)
