"""Pure training steps: (state, batch of image pairs) → (state, metrics), for one device of many.

A step knows the mesh axis it is mapped over by name and sums over it once: the gradients, the
loss and the number of patches that count travel in one vector, so that a step costs one
all-reduce. The same function runs under ``jax.shard_map`` (:mod:`ldct_jax.train.mesh`) and
``jax.pmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from ldct_jax import losses
from ldct_jax.train.state import TrainState

AXIS = "data"

# A training stops after this many batches in a row with non-finite gradients.
MAX_SKIPPED_IN_A_ROW = 5
# No network works with such weights in float32: a step that leads there is as lost as NaN. Without
# this, a huge learning rate can end in dead ReLUs, where every number is finite and none moves.
MAX_PARAMETER = 1e6


def supervised(
    model,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    frozen_statistics: bool = False,
    axis: str = AXIS,
) -> Callable[[TrainState, Any, Any, Any], tuple[TrainState, dict]]:
    """A step that descends ``loss`` (one number per image) averaged over the patches that count.

    The step takes (state, low, full, weight): images (B, H, W, 1) in network units, this device's
    share of the batch, and their weights (B,). Metrics, equal on all devices: ``loss``, ``rmse``
    of the final image in network units, ``grad_norm``, ``streak`` (batches skipped in a row).
    ``frozen_statistics``: BatchNorm runs on its stored statistics, as where only the last layer
    is trained.

    Gradients that are not finite, and steps to parameters beyond :data:`MAX_PARAMETER`, leave
    parameters, optimiser and statistics as they were; the batch is counted in ``skipped``. After
    :data:`MAX_SKIPPED_IN_A_ROW` of them nothing changes any more, so that the caller finds the
    last good state.
    """

    def objective(params, state, low, full, weight):
        output, stats = forward(model, state, params, low, frozen_statistics)
        result = losses.last_image(output)
        squared = jnp.sum(weight * losses.mse(result, losses.central(full, result)))
        return jnp.sum(weight * loss(output, full)), (squared, stats)

    def step(state: TrainState, low, full, weight):
        (total, (squared, stats)), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params, state, low, full, weight
        )
        grads, (loss_mean, mse), norm = mean_over_devices(
            grads, (total, squared), jnp.sum(weight), axis
        )
        params, opt_state = updated(optimizer, grads, state.opt_state, state.params)
        new = state.replace(params=params, batch_stats=stats, opt_state=opt_state)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss_mean)
        metrics = {"loss": loss_mean, "rmse": jnp.sqrt(mse), "grad_norm": norm}
        return accept(new, state, finite, metrics, ema_decay)

    return step


def forward(model, state: TrainState, params, low, frozen_statistics: bool = False):
    """(a training network's output, its new batch statistics)."""
    variables = {"params": params}
    if not state.batch_stats:
        return model.apply(variables, low, train=True), state.batch_stats
    variables["batch_stats"] = state.batch_stats
    if frozen_statistics:
        return model.apply(variables, low, train=False), state.batch_stats
    output, new = model.apply(variables, low, train=True, mutable=["batch_stats"])
    return output, new["batch_stats"]


def mean_over_devices(grads, numbers: Sequence, count, axis: str):
    """Sums over this device's patches → (mean gradients, mean numbers, gradient norm).

    Everything travels in one vector: one all-reduce.
    """
    flat, unravel = ravel_pytree(grads)
    sums = lax.psum(jnp.concatenate([flat, jnp.stack([*numbers, count])]), axis)
    means = sums[:-1] / sums[-1]
    flat, numbers = means[: flat.size], means[flat.size :]
    return unravel(flat), tuple(numbers), jnp.linalg.norm(flat)


def updated(optimizer: optax.GradientTransformation, grads, opt_state, params):
    """(new parameters, new optimiser state)."""
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def accept(
    new: TrainState, old: TrainState, finite, metrics: dict, ema_decay: float | None
) -> tuple[TrainState, dict]:
    """``new`` where it is finite and the training hasn't been halted, else ``old`` and a count."""
    # The critic's parameters too: a generator that follows a lost critic is lost a little later.
    largest = jnp.max(jnp.abs(ravel_pytree((new.params, new.critic))[0]))
    finite &= largest < MAX_PARAMETER
    halted = old.streak >= MAX_SKIPPED_IN_A_ROW
    if ema_decay is not None:
        # Slower and slower, or a short training's average would be its beginning for the most part.
        decay = jnp.minimum(ema_decay, (1.0 + old.step) / (10.0 + old.step))

        def moved(average, value):
            return jax.tree.map(lambda a, v: a * decay + v * (1 - decay), average, value)

        new = new.replace(ema=moved(old.ema, new.params))
        if old.ema_stats is not None:
            new = new.replace(ema_stats=moved(old.ema_stats, new.batch_stats))
    kept = jax.tree.map(lambda n, o: jnp.where(finite & ~halted, n, o), new, old)
    state = kept.replace(
        step=old.step + 1,
        skipped=old.skipped + ~finite,
        streak=jnp.where(halted, old.streak, jnp.where(finite, 0, old.streak + 1)),
    )
    return state, {**metrics, "streak": state.streak.astype(jnp.float32)}
