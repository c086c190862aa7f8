"""Weights, outputs to compare with, and data for all cells of a plan, in plain numpy files.

Runs once, in a process of its own, on the CPU: the reference outputs are exact float32 whatever
the accelerator does. ``python -m ldct_jax.bench.prepare REQUEST.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from ldct_jax.data.embedded import Phantoms, phantom_pairs
from ldct_jax.data.feed.patches import Grid, epoch_order
from ldct_jax.hu import FULL
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.flops import flops
from ldct_jax.models.inference import denoise
from ldct_jax.record import resolve

SEED = 2020
# Side of the images on which outputs are compared: large enough for every network here.
CHECK_SIZE = 48


def build(kind: str, fields: dict, **more):
    """The network that a cell names."""
    return resolve(kind)(**fields, **more)


def plain_form(model):
    """The network as its paper writes it: what nominal work is counted on."""
    return model.clone(shortcuts=False) if isinstance(model, ClonesNet) else model


def nominal_flops(model, variables, task: str, size: int) -> int:
    """Nominal operations for one patch (forward and twice that for the gradients) or slice."""
    x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    model = plain_form(model)
    if task == "infer":
        return flops(lambda v, x: denoise(model, v, x), variables, x)
    return 3 * flops(model.apply, variables, x)


def write_data(folder: Path, slices: int, size: int) -> np.ndarray:
    """Phantom pairs as int16 HU in ``data.npz``; the last slice is for validation."""
    each = 2
    pairs = phantom_pairs(
        Phantoms(patients=-(-slices // each), slices=each, size=size, pixel_mm=380 / size)
    )
    low, full = pairs.low_hu[:slices], pairs.full_hu[:slices]
    np.savez(
        folder / "data.npz",
        low=low[:-1],
        full=full[:-1],
        validation_low=low[-1:],
        validation_full=full[-1:],
        window=np.asarray([FULL.low, FULL.high]),
    )
    return low


def write_model(folder: Path, name: str, kind: str, fields: dict, low_hu) -> tuple:
    """``model-NAME.npz``: variables by path, an input, and the network's output for it."""
    model = build(kind, fields)
    x = FULL.to_unit(low_hu[:2, :CHECK_SIZE, :CHECK_SIZE])[..., None]
    variables = jax.jit(model.init)(jax.random.key(SEED), x)
    output = jax.jit(model.apply)(variables, x)
    arrays = {n: np.asarray(v) for n, v in flatten_dict(variables, sep="/").items()}
    np.savez(folder / f"model-{name}.npz", input=x, output=np.asarray(output), **arrays)
    return model, variables


def main(request: dict) -> None:
    folder = Path(request["folder"])
    low = write_data(folder, request["slices"], request["slice_size"])
    models, counts = {}, {}
    for work in request["works"]:
        name = work["name"]
        if name not in models:
            models[name] = write_model(folder, name, work["kind"], work["fields"], low)
        key = f"{name} {work['task']} {work['size']}"
        counts[key] = nominal_flops(*models[name], work["task"], work["size"])
        if work["task"] != "infer":
            grid = Grid(len(low) - 1, *low.shape[1:], work["size"], request["stride"])
            order = epoch_order(len(grid), work["batch"], SEED, 0)
            # Rows without padding only: both sides then average over whole batches.
            order = order[(order >= 0).all(axis=1)]
            np.save(folder / f"order-{work['size']}-{work['batch']}.npy", order)
    (folder / "flops.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
