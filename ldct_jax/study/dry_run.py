"""``ldct train --dry-run``: patients, slices, patches, steps, work and hours, before any of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.data.feed.patches import Grid
from ldct_jax.errors import UsageError
from ldct_jax.losses import last_image
from ldct_jax.models.catalogue import shapes
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.flops import flops
from ldct_jax.models.vgg import VGGFeatures, needs_fetched, preprocess
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.plan import Plan, make_plan
from ldct_jax.study.study import Request, Study
from ldct_jax.system import provenance
from ldct_jax.system.tables import plain_table


def rows(study: Study, request: Request, rate: float | None = None) -> list[dict[str, Any]]:
    """One record a variant: what each of its trainings takes, on the first split.

    Work is nominal (two operations a product of convolutions and matrix products, products with
    padding left out): forward and twice that backward, the loss's networks, and the critic's steps.

    Args:
      rate: TFLOP/s that the device is said to reach; None measures one of this device.

    Raises whatever :func:`ldct_jax.study.plan.make_plan` finds wrong.
    """
    if rate is not None and not rate > 0:
        raise UsageError(f"--rate {rate}: TFLOP/s above 0")
    plan = make_plan(study, request)
    if rate is not None:
        stated = f"{rate:g} TFLOP/s, as stated"
    else:
        rate = measured_rate()
        device = provenance.device()
        stated = f"{rate:.3g} TFLOP/s, measured on {device['count']} × {device['kind']}"
    return [
        {
            "variant": name,
            **_patients(plan),
            **_training(plan, experiment, rate),
            "trainings": len(plan.splits),
            "rate": stated,
        }
        for name, experiment in plan.experiments.items()
    ]


def _patients(plan: Plan) -> dict[str, Any]:
    split = plan.splits[0]
    return {
        "splits": len(plan.cohort.splits),
        "training patients": len(split.train),
        "validation patients": len(split.validation),
        "test patients": len(split.test),
    }


def _training(plan: Plan, experiment: Experiment, rate: float) -> dict[str, Any]:
    patches, gan = experiment.patches, experiment.gan
    n, height, width = _slices(plan, experiment)
    stride = patches.stride if patches.per_slice is None else 1
    grid = Grid(n, height, width, patches.size, stride, patches.per_slice)
    batch = patches.batch * (1 if gan is None else gan.n_critic)
    per_epoch = -(-len(grid) // batch)
    steps = experiment.steps or experiment.epochs * per_epoch
    a_step = step_flops(experiment)
    optimizer = experiment.optimizer
    return {
        "slices": n,
        "patches an epoch": len(grid),
        "patch": patches.size,
        "batch": patches.batch,
        "epochs": experiment.epochs or round(steps / per_epoch, 2),
        "steps": steps,
        "optimiser": f"Adam({optimizer.schedule}, b1={optimizer.b1}, b2={optimizer.b2})",
        "GFLOP a step": round(a_step / 1e9, 3),
        "PFLOP": round(steps * a_step / 1e15, 4),
        "hours": round(steps * a_step / (rate * 1e12) / 3600, 3),
    }


def _slices(plan: Plan, experiment: Experiment) -> tuple[int, int, int]:
    """How many slices are trained on, counting every dose, and their (height, width)."""
    scale, limit = plan.scale, experiment.patches.slices_per_patient
    if experiment.images is not None:
        pairs = experiment.images.pairs(experiment.window)
        if limit is not None:
            pairs = pairs.sample(limit, experiment.seed)
        return pairs.low_hu.shape
    n = 0
    for name in plan.splits[0].train:
        there = plan.cohort.slices[name]
        n += there if limit is None else min(there, limit)
    doses = scale.training_doses or scale.doses or (None,)
    return n * len(doses), *(scale.training_crop or plan.cohort.matrix)


def step_flops(experiment: Experiment) -> float:
    """Nominal operations of one step, all its critic steps included."""
    model, size, batch = experiment.model, experiment.patches.size, experiment.patches.batch
    if isinstance(model, ClonesNet):
        model = model.clone(shortcuts=False)  # the plain form of the paper
    variables, x = shapes(model, (1, size, size, 1))
    network = flops(model.apply, variables, x)
    out = jax.eval_shape(model.apply, variables, x)
    # The loss's own networks see the target too, and their parameters have no gradient.
    loss = 1.5 * flops(_without_weights(experiment.loss), out, x)
    total = batch * (3 * network + loss)
    if (gan := experiment.gan) is not None:
        image = jax.eval_shape(last_image, out)
        critic_variables, _ = shapes(gan.critic, image.shape)
        critic = flops(gan.critic.apply, critic_variables, image)
        # Forward and backward on real and made images, and the penalty's second derivative.
        total += batch * gan.n_critic * (network + 12 * critic) + batch * 2 * critic
    return total


def _without_weights(loss: Any) -> Any:
    """``loss`` with zeros for the VGG weights that the training would fetch: work is counted."""
    if not needs_fetched(loss):
        return loss
    if isinstance(loss, tuple):
        return tuple(map(_without_weights, loss))
    if isinstance(loss, VGGFeatures):
        network = loss.network()
        variables, _ = shapes(network, (1, 32, 32, 3))
        zeros = jax.tree.map(lambda v: np.broadcast_to(np.zeros((), v.dtype), v.shape), variables)
        return lambda x: network.apply(zeros, preprocess(x, "none"))
    fields = {f.name: _without_weights(getattr(loss, f.name)) for f in dataclasses.fields(loss)}
    return dataclasses.replace(loss, **fields)


def measured_rate() -> float:
    """TFLOP/s of this device on a 64-channel 3x3 convolution and its gradients, float32."""
    n = 8 if jax.default_backend() == "cpu" else 128
    x, k = jnp.ones((n, 64, 64, 64)), jnp.ones((3, 3, 64, 64))

    def layer(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout).sum()

    step = jax.jit(jax.grad(layer, argnums=(0, 1)))
    jax.block_until_ready(step(x, k))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(step(x, k))
        seconds.append(time.perf_counter() - began)
    return 2 * 2 * x.size * 9 * 64 / min(seconds) / 1e12


def text(found: Sequence[dict]) -> str:
    """The rows as a table, what all of them share above it."""
    shared = {k: v for k, v in found[0].items() if all(r[k] == v for r in found)}
    shared.pop("variant", None)
    differing = [k for k in found[0] if k not in shared]
    lines = [f"{name}: {_cell(value)}" for name, value in shared.items()]
    if len(differing) > 0:
        cells = [[_cell(row[k]) for k in differing] for row in found]
        lines.append(plain_table(differing, cells))
    hours = sum(row["hours"] * row["trainings"] for row in found)
    trainings = sum(row["trainings"] for row in found)
    return "\n".join([*lines, f"all {trainings} trainings: {hours:,.3g} hours"])


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
