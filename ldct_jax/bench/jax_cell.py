"""A cell of our side, in its own process: ``python -m ldct_jax.bench.jax_cell REQUEST.json``.

Nothing is timed before the network with the shared weights gave the shared output in float32.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.bench.convolutions import convolutions
from ldct_jax.bench.jax_epoch import prepare_epoch
from ldct_jax.bench.jax_work import (
    Shared,
    Training,
    about,
    compile_seconds,
    executed,
    gradient,
    memory,
    psnr,
    repeats,
    timed,
)
from ldct_jax.bench.serve import Prepared, serve
from ldct_jax.models.flops import flops
from ldct_jax.models.inference import denoise


def prepare_training(request: dict) -> Prepared:
    shared = Shared(request)
    if request["how"].get("part") == "convolutions":
        return _prepare_convolutions(shared)
    facts = {"output_error": shared.output_error(), **about()}
    training = Training(shared)
    facts["compile_s"] = compile_seconds(training, request)
    facts["executed_flops"] = executed(shared)
    training.advance(request["loss_steps"])
    facts["loss"] = training.finish()

    def run(n):
        training.advance(n)
        training.finish()

    # A repeat is whole calls: a shorter one would launch more than training does.
    facts |= repeats(run, request, granularity=training.per_call)
    n = facts["steps_per_repeat"]
    repeat = functools.partial(timed, run, n, n * request["batch"], training.per_call)
    return Prepared(facts, repeat, memory)


def _prepare_convolutions(shared: Shared) -> Prepared:
    """The training step's convolutions, one after the other, each a program of its own."""
    request, facts = shared.request, about()
    found = convolutions(*gradient(shared, request["batch"]))
    began = time.perf_counter()
    programs = [(*one.compiled(), times) for one, times in found.items()]
    facts["compile_s"] = time.perf_counter() - began
    # Of these alone: a step of which some were left out would have more.
    work = (times * one.flops for one, times in found.items())
    facts["executed_flops"] = sum(work) // request["batch"]

    def run(n):
        for _ in range(n):
            for program, a, b, times in programs:
                jax.block_until_ready([program(a, b) for _ in range(times)])

    facts |= repeats(run, request)
    n = facts["steps_per_repeat"]
    return Prepared(facts, functools.partial(timed, run, n, n * request["batch"]), memory)


def prepare_inference(request: dict) -> Prepared:
    shared = Shared(request)
    facts = {"output_error": shared.output_error(), **about()}
    low = shared.data["low"]
    side, batch = request["size"], request["batch"]
    tiles = -(-side // low.shape[1])
    slices = np.tile(low[np.arange(batch) % len(low)], (1, tiles, tiles))[:, :side, :side]
    x = jax.device_put(shared.window.to_unit(slices)[..., None])
    function = jax.jit(lambda v, x: denoise(shared.model, v, x))
    began = time.perf_counter()
    program = function.lower(shared.variables, x).compile()
    facts["compile_s"] = time.perf_counter() - began
    facts["executed_flops"] = flops(function, shared.variables, x, padding=True) // batch

    def run(n):
        outs = [program(shared.variables, x) for _ in range(n)]
        jax.block_until_ready(outs)

    facts |= repeats(run, request)
    n = facts["steps_per_repeat"]
    return Prepared(facts, functools.partial(timed, run, n, n * batch), memory)


def prepare_matrix(request: dict) -> Prepared:
    n, dtype = request["size"], jnp.dtype(request["dtype"])
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(jnp.matmul)
    began = time.perf_counter()
    product(a, a).block_until_ready()
    facts = {"compile_s": time.perf_counter() - began, **about()}

    def run(k):
        outs = [product(a, a) for _ in range(k)]
        outs[-1].block_until_ready()

    facts |= repeats(run, request)
    k = facts["steps_per_repeat"]
    return Prepared(facts, functools.partial(timed, run, k, k * 2e-12 * n**3), memory)


def prepare_reach(request: dict) -> Prepared:
    shared = Shared(request)
    facts = {"output_error": shared.output_error(), **about(), "steps_per_repeat": 1}
    full = shared.window.to_unit(shared.data["validation_full"])[..., None]
    low = shared.window.to_unit(shared.data["validation_low"])[..., None]
    wanted = psnr(low, full) + request["gain_db"]

    def once() -> dict:
        began = time.perf_counter()
        training = Training(shared)
        training.compile()
        network = jax.jit(lambda v, x: denoise(shared.model, v, x))
        reached_db = -math.inf
        while reached_db < wanted and training.done < request["most_steps"]:
            training.advance(request["check_every"])
            variables = {"params": training.state.params}
            if training.state.batch_stats:
                variables["batch_stats"] = training.state.batch_stats
            reached_db = psnr(np.asarray(network(variables, low)), full)
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "units": 1,
            "steps": training.done,
            "reached": reached_db >= wanted,
        }

    return Prepared(facts, once, memory)


PREPARE = {
    "train": prepare_training,
    "infer": prepare_inference,
    "matrix": prepare_matrix,
    "reach": prepare_reach,
    "epoch": prepare_epoch,
}

if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    serve(lambda: PREPARE[job["task"]](job))
