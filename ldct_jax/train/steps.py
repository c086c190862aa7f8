"""Pure training steps: (state, batch of image pairs) → (state, metrics), for one device of many.

A step knows the mesh axis it is mapped over by name and sums over it once: the gradients, the
loss and the number of patches that count travel in one vector, so that a step costs one
all-reduce. The same function runs under ``jax.shard_map`` (the seam, ``train/parallel.py``) and
``jax.pmap``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from ldct_jax import losses
from ldct_jax.train.state import TrainState

AXIS = "data"

# After so many batches in a row with non-finite gradients a training stands still and is stopped.
MOST_SKIPPED_IN_A_ROW = 5
# No network works with such weights in float32: a step that leads there is as lost as NaN. Without
# this, a huge learning rate can end in dead ReLUs, where every number is finite and none moves.
LARGEST_PARAMETER = 1e6


def supervised(
    model,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    axis: str = AXIS,
) -> Callable[[TrainState, Any, Any, Any], tuple[TrainState, dict]]:
    """A step that descends ``loss`` (one number per image) averaged over the patches that count.

    The step takes (state, low, full, weight): images (B, H, W, 1) in network units, this device's
    share of the batch, and their weights (B,). Metrics, equal on all devices: ``loss``, ``rmse``
    of the final image in network units, ``grad_norm``, ``streak`` (batches skipped in a row).

    Gradients that are not finite, and steps to parameters beyond :data:`LARGEST_PARAMETER`, leave
    parameters, optimiser and statistics as they were; the batch is counted in ``skipped``. After :data:`MOST_SKIPPED_IN_A_ROW` of them nothing changes any
    more, so that the caller finds the last good state.
    """

    def objective(params, state, low, full, weight):
        variables = {"params": params}
        if state.batch_stats:
            variables["batch_stats"] = state.batch_stats
            output, new = model.apply(variables, low, train=True, mutable=["batch_stats"])
            stats = new["batch_stats"]
        else:
            output, stats = model.apply(variables, low, train=True), state.batch_stats
        result = losses.last_image(output)
        squared = jnp.sum(weight * losses.mse(result, losses.central(full, result)))
        return jnp.sum(weight * loss(output, full)), (squared, stats)

    def step(state: TrainState, low, full, weight):
        (total, (squared, stats)), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params, state, low, full, weight
        )
        flat, unravel = ravel_pytree(grads)
        sums = lax.psum(jnp.concatenate([flat, jnp.stack([total, squared, jnp.sum(weight)])]), axis)
        means = sums[:-1] / sums[-1]
        grads, loss_mean, mse = unravel(means[:-2]), means[-2], means[-1]
        norm = jnp.linalg.norm(means[:-2])
        finite = jnp.isfinite(norm) & jnp.isfinite(loss_mean)
        halted = state.streak >= MOST_SKIPPED_IN_A_ROW

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        largest = jnp.max(jnp.abs(ravel_pytree(params)[0]))
        finite &= largest < LARGEST_PARAMETER
        accept = finite & ~halted
        ema = state.ema
        if ema_decay is not None:
            ema = jax.tree.map(lambda e, p: e * ema_decay + p * (1 - ema_decay), ema, params)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(accept, n, o), new, old)

        new_state = state.replace(
            step=state.step + 1,
            params=keep(params, state.params),
            batch_stats=keep(stats, state.batch_stats),
            opt_state=keep(opt_state, state.opt_state),
            ema=keep(ema, state.ema),
            skipped=state.skipped + ~finite,
            streak=jnp.where(halted, state.streak, jnp.where(finite, 0, state.streak + 1)),
        )
        metrics = {
            "loss": loss_mean,
            "rmse": jnp.sqrt(mse),
            "grad_norm": norm,
            "streak": new_state.streak.astype(jnp.float32),
        }
        return new_state, metrics

    return step
