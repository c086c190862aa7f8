"""Everything a training is: one pytree that is donated to each call and saved in checkpoints."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from ldct_jax.losses import last_image


class TrainState(flax.struct.PyTreeNode):
    """The state after ``step`` steps.

    Args:
      step: () int32, steps taken, skipped ones included; with the feed's steps per epoch it is
        the position in the data.
      params, batch_stats: the network's variables, float32.
      opt_state: the optimiser's.
      ema, ema_stats: exponential moving averages of ``params`` and ``batch_stats``, or None.
      key: () key data uint32 (2,): all randomness is folded in from it, so it never changes.
      skipped: () int32, batches whose gradients were not finite.
      streak: () int32, how many such batches came in a row until now.
      critic, critic_opt_state: a GAN's critic and its optimiser, else None.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    key: Any
    skipped: Any
    streak: Any
    critic: Any = None
    critic_opt_state: Any = None
    ema_stats: Any = None


def create(
    model, optimizer, image_size: int, seed: int, *, ema: bool = False, critic=None
) -> TrainState:
    """The state before the first step; ``optimizer`` is an optax transformation.

    ``critic``: (module, optax transformation) of a GAN's critic.
    """
    key = jax.random.key(seed)
    patch = jnp.zeros((1, image_size, image_size, 1), jnp.float32)
    output, variables = jax.jit(model.init_with_output)(key, patch)
    params = variables["params"]
    critic_params = critic_opt_state = None
    if critic is not None:
        module, critic_optimizer = critic
        critic_key = jax.random.fold_in(key, 1)
        critic_params = jax.jit(module.init)(critic_key, last_image(output))["params"]
        critic_opt_state = critic_optimizer.init(critic_params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        # A copy: the state is donated, and one buffer can't be donated twice.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        ema_stats=jax.tree.map(jnp.copy, variables.get("batch_stats")) if ema else None,
        key=jax.random.key_data(key),
        skipped=jnp.zeros((), jnp.int32),
        streak=jnp.zeros((), jnp.int32),
        critic=critic_params,
        critic_opt_state=critic_opt_state,
    )


def variables_of(state: TrainState) -> dict:
    """The network's variables for inference: the moving averages where there are any."""
    averaged = state.ema is not None
    variables = {"params": state.ema if averaged else state.params}
    if state.batch_stats:
        variables["batch_stats"] = state.ema_stats if averaged else state.batch_stats
    return variables
