"""What all rows of a run share: data, weights, reference outputs, in plain numpy files.

:func:`write` makes them, :class:`Shared` reads them for our side; PyTorch reads them by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from ldct_jax import losses
from ldct_jax.data.feed.feed import Batch
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.hu import FULL
from ldct_jax.models import clones, layers, onednn
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.flops import flops
from ldct_jax.models.whole_slices import denoise
from ldct_jax.record import resolve
from ldct_jax.system import provenance

SEED, RATE, STRIDE = 2020, 1e-4, 4
# Largest difference of float32 outputs, and of gradients, relative to the largest value.
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
# Side of the images that are compared: large enough for every network here.
CHECK_SIZE = 48


class AgainClones(ClonesNet):
    """Clones whose inner activations are computed again for the gradients instead of kept."""

    def _repeat(self, step, carry):
        again = nn.remat(lambda body, carry: step(body, carry), prevent_cse=False)
        return super()._repeat(again, carry)


class OneBatch:
    """A feed that gives its first batch for every step: training without its input pipeline."""

    max_steps = None

    def __init__(self, feed):
        self.batch_size, self.steps_per_epoch = feed.batch_size, feed.steps_per_epoch
        self._feed, self._inputs = feed, None

    def specs(self) -> dict:
        return dict.fromkeys(Batch._fields, True)

    def inputs(self, epoch: int, first: int, count: int, place) -> dict:
        """Each array (1, B, …) on the devices."""
        if self._inputs is None:
            batch = jax.jit(self._feed.batch)(self._feed.inputs(0, 0, 1, place), jnp.int32(0))
            self._inputs = {
                k: place(jax.device_get(v)[None], True) for k, v in batch._asdict().items()
            }
        return self._inputs

    def batch(self, inputs: dict, step) -> Batch:
        return Batch(**{name: array[0] for name, array in inputs.items()})


def build(kind: str, fields: dict):
    """The network that a row names."""
    return resolve(kind)(**fields)


def nominal_flops(model, variables, task: str, size: int) -> int:
    """Operations for one patch (forward, and twice that for the gradients) or slice.

    Of the network as its paper writes it; products with a border of zeros don't count.
    """
    x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    if isinstance(model, ClonesNet):
        model = model.clone(shortcuts=False)
    if task == "infer":
        return flops(lambda v, x: denoise(model, v, x), variables, x)
    return 3 * flops(model.apply, variables, x)


def write(folder: Path, low_hu, full_hu, works: list) -> dict[str, int]:
    """Data, weights, reference outputs, gradients and orders in plain numpy files, for both sides.

    ``works``: (model's name, class, fields, task, batch, size). On the CPU, where float32 is exact,
    and by XLA alone. Returns :func:`nominal_flops` by "model task size".
    """
    with onednn.disabled():
        return _write(folder, low_hu, full_hu, works)


def _write(folder: Path, low_hu, full_hu, works: list) -> dict[str, int]:
    np.savez(folder / "data.npz", low=low_hu, full=full_hu, window=[FULL.low, FULL.high])
    made, counts = {}, {}
    for name, kind, fields, task, batch, size in works:
        if name not in made:
            model = build(kind, fields)
            cut = np.s_[:2, :CHECK_SIZE, :CHECK_SIZE]
            x, target = (FULL.to_unit(hu[cut])[..., None] for hu in (low_hu, full_hu))
            variables = jax.jit(model.init)(jax.random.key(SEED), x)
            made[name] = model, variables
            arrays = {n: np.asarray(v) for n, v in flatten_dict(variables, sep="/").items()}
            arrays["output"] = np.asarray(jax.jit(model.apply)(variables, x))
            np.savez(folder / f"model-{name}.npz", input=x, target=target, **arrays)
        if task == "gradient":
            found = flat_gradient(*made[name], x, target)
            np.save(folder / f"gradient-{name}.npy", found)
        elif task == "infer":
            counts[f"{name} {task} {size}"] = nominal_flops(*made[name], task, size)
        else:
            counts[f"{name} {task} {size}"] = nominal_flops(*made[name], "train", size)
            order = resident(low_hu, full_hu, size, batch).grid.order(batch, SEED, 0)
            np.save(folder / f"order-{size}-{batch}.npy", whole(order))
    return counts


def whole(order):
    """The rows of an epoch's order without padding: both sides average over whole batches."""
    return order[(order >= 0).all(axis=1)]


def resident(low_hu, full_hu, size: int, batch: int) -> Resident:
    n = len(low_hu)
    pairs = PairedSlices(
        low_hu=low_hu,
        full_hu=full_hu,
        patients=tuple(str(i) for i in range(n)),
        pixel_mm=np.ones(n),
        slice_mm=np.ones(n),
        source="phantoms",
    )
    return Resident(pairs, Patches(size, STRIDE, batch, None), SEED)


def objective(model, variables, low, full, params=None):
    """The training loss: mean squared error over all clones' images, or of the one image."""
    variables = variables if params is None else {**variables, "params": params}
    out = model.apply(variables, low, train=True, mutable=["batch_stats"])[0]
    return jnp.mean(losses.every_clone(losses.mse)(out, full))


def flat_gradient(model, variables, low, full) -> np.ndarray:
    """All parameters' gradients in one vector."""
    grad = jax.grad(lambda p: objective(model, variables, low, full, p))(variables["params"])
    return np.concatenate([np.ravel(g) for _, g in sorted(flatten_dict(grad, sep="/").items())])


def about() -> dict:
    """Versions and device of this process, and what its convolutions are taken with."""
    versions, device = provenance.versions(), provenance.device()
    used = device["backend"] == "cpu" and onednn.library() is not None
    device["onednn"] = versions[provenance.ONEDNN] if used else "not used"
    return {"versions": versions, "device": device}


class Shared:
    """What all rows of a run share: the network with its weights, data, window."""

    def __init__(self, request: dict):
        self.request, self.how = request, request["how"]
        if not self.how.get("maps", True):
            layers.conv = plain_conv
        if not self.how.get("relu", True):
            layers.relu = clones.relu = nn.relu
        folder = Path(request["folder"])
        self.data = np.load(folder / "data.npz", allow_pickle=False)
        fields = {**request["fields"], "dtype": jnp.dtype(request["dtype"])}
        fields |= {k: self.how[k] for k in ("loop", "shortcuts") if k in self.how}
        again = self.how.get("remat")
        self.model = AgainClones(**fields) if again else build(request["kind"], fields)
        arrays = dict(np.load(folder / f"model-{request['model']}.npz", allow_pickle=False))
        self.input, self.target, self.output = (
            arrays.pop(k) for k in ("input", "target", "output")
        )
        self.variables = jax.device_put(unflatten_dict(arrays, sep="/"))
        self.facts = about()
        exact = self.model.clone(dtype=jnp.float32)
        with jax.default_matmul_precision("highest"):
            output = jax.jit(exact.apply)(self.variables, self.input)
        self.facts["output_error"] = same(output, self.output, OUTPUT_TOLERANCE, "output")

    def feed(self):
        r = self.request
        feed = resident(self.data["low"], self.data["full"], r["size"], r["batch"])
        feed.steps_per_epoch = len(whole(feed.grid.order(r["batch"], SEED, 0)))
        if r["task"] == "epoch":
            feed.steps_per_epoch = min(feed.steps_per_epoch, r["epoch_steps"])
        return OneBatch(feed) if self.how.get("one_batch") else feed

    def gradient(self, batch: int) -> tuple:
        """The forward and backward pass of ``batch`` patches: the function and its arguments."""
        size = self.request["size"]
        image = jax.ShapeDtypeStruct((batch, size, size, 1), jnp.float32)
        grad = jax.grad(lambda p, low, full: objective(self.model, self.variables, low, full, p))
        return grad, self.variables["params"], image, image


def plain_conv(x, kernel, *, padding=(0, 0), stride=1, dilation=1, precision=None):
    """``layers.conv`` with the gradients that autodiff writes."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [padding, padding],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def same(found, wanted, tolerance: float, what: str) -> float:
    """The largest difference relative to the largest value; ends the process where it is large."""
    error = float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())
    if not error <= tolerance:
        sys.exit(f"the {what} differs by {error:.1e} of its largest value: not timed")
    return error
