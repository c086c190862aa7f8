"""How long one whole slice takes: JAX, StableHLO and onnxruntime side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.export import onnx_model, stablehlo
from ldct_jax.export.onnx_session import open_session
from ldct_jax.export.source import Source, twin_for_onnx
from ldct_jax.record import short_name
from ldct_jax.system.provenance import device
from ldct_jax.system.tables import plain_table

WARM_UP = 2
REPEATS = 7


def measure(source: Source, size: tuple[int, int]) -> dict:
    """Latencies of one call with one slice (H, W) HU in host memory, result in host memory.

    The three forms take turns, so that a busy machine slows all of them. Returns plain numbers
    for JSON: ``rows`` with form, where, first_s (with compilation or loading), median_ms, min_ms,
    max_ms and slices_per_s; ``size``, ``repeats``, ``device``.
    """
    hu = np.random.default_rng(0).normal(-300, 500, (1, *size)).astype(np.float32)
    forms = _forms(source, size)
    first = {}
    for name, (run, _) in forms.items():
        began = time.perf_counter()
        run(hu)
        first[name] = time.perf_counter() - began
        for _ in range(WARM_UP - 1):
            run(hu)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(REPEATS):
        for name, (run, _) in forms.items():
            began = time.perf_counter()
            run(hu)
            times[name].append(1e3 * (time.perf_counter() - began))
    rows = [
        {
            "form": name,
            "where": where,
            "first_s": round(first[name], 3),
            "median_ms": round(statistics.median(times[name]), 2),
            "min_ms": round(min(times[name]), 2),
            "max_ms": round(max(times[name]), 2),
            "slices_per_s": round(1e3 / statistics.median(times[name]), 2),
        }
        for name, (_, where) in forms.items()
    ]
    return {
        "model": short_name(source.record["model"]["type"]),
        "size": list(size),
        "repeats": REPEATS,
        "device": device(),
        "rows": rows,
    }


def table(measured: dict) -> str:
    """The measurement as text."""
    h, w = measured["size"]
    where = measured["device"]
    title = (
        f"one slice of {h}x{w}, HU in and out of host memory; median "
        f"of {measured['repeats']} (min - max); {where['kind']}, {where['cores']} cores"
    )
    cells = [
        (
            row["form"],
            row["where"],
            f"{row['first_s']:.2f} s",
            f"{row['median_ms']:.1f} ms",
            f"{row['min_ms']:.1f} - {row['max_ms']:.1f} ms",
            f"{row['slices_per_s']:.2f}",
        )
        for row in measured["rows"]
    ]
    head = ("form", "where", "first call", "median", "min - max", "slices/s")
    return f"{title}\n{plain_table(head, cells, right='  rrrr')}"


def _forms(source: Source, size: tuple[int, int]) -> dict[str, tuple[Callable, str]]:
    function = jax.jit(source.function())
    exported = stablehlo.deserialized(stablehlo.serialized(function, size)[0], "the export")
    call = jax.jit(exported.call)
    model = onnx_model.converted(source.function(twin_for_onnx(source.model)), size)
    session = open_session(model.SerializeToString(), "the export")
    name = session.get_inputs()[0].name
    kind = jax.devices()[0].device_kind
    return {
        "JAX": (lambda hu: np.asarray(function(jnp.asarray(hu))), kind),
        "StableHLO": (lambda hu: np.asarray(call(jnp.asarray(hu))), kind),
        "onnxruntime": (
            lambda hu: session.run(None, {name: hu})[0],
            session.get_providers()[0].removesuffix("ExecutionProvider"),
        ),
    }
