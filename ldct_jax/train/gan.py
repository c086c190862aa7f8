"""WGAN-GP: n critic steps and one generator step as one compiled step (Gulrajani et al. 2017).

A batch of the feed holds the patches of all critic steps, so that the critic sees every
position of the grid exactly once an epoch; the generator learns on the last part. Position p of
the batch belongs to critic step p mod n: the parts, and the random points of the gradient
penalty, are then the same on any number of devices. Where an epoch's last batch has fewer patches
than critic steps, a part without any counts its padding, patches of the epoch's beginning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ldct_jax import losses
from ldct_jax.errors import UsageError
from ldct_jax.optim import Adam, Constant
from ldct_jax.train.state import TrainState
from ldct_jax.train.steps import AXIS, accept, forward, mean_over_devices, updated


@dataclasses.dataclass(frozen=True)
class WassersteinGAN:
    """The adversarial part of a training; the content loss stays the experiment's ``loss``.

    Generator: ``weight`` · −E[D(G(x))] + loss. Critic: E[D(G(x))] − E[D(y)] + ``penalty`` ·
    E[(‖∇D‖₂ − 1)²] with the norm over all pixels of each image.

    Args:
      critic: a module (B, S, S, 1) → (B,), built for the size of the generator's output.
      n_critic: critic steps for each generator step.
      optimizer: the critic's.
      warmup: share of the training after which a generator whose validation image is worse than the
        undenoised one is warned of.
    """

    critic: Any
    n_critic: int = 4
    penalty: float = 10.0
    weight: float = 1.0
    optimizer: Adam = Adam(Constant(1e-4), b1=0.5, b2=0.9)
    warmup: float = 0.5

    def __post_init__(self):
        if self.n_critic < 1:
            raise UsageError(f"n_critic={self.n_critic}: at least one critic step is needed")


def adversarial(
    model,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    gan: WassersteinGAN,
    critic_optimizer: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    axis: str = AXIS,
) -> Callable:
    """A step as :func:`ldct_jax.train.steps.supervised` makes it, with ``gan`` beside ``loss``.

    Further metrics: ``wasserstein``, the critic's estimate of the distance in its last step, and
    ``penalty``. Where any gradient is not finite nothing of the whole step is kept.
    """
    n = gan.n_critic

    def parts(x):
        """(n B', …) of this device → (n, B', …): position p goes to part p mod n."""
        return jnp.swapaxes(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 0, 1)

    def score(critic_params, images):
        return gan.critic.apply({"params": critic_params}, images)

    def critic_step(carry, part):
        params, opt_state, finite = carry
        real, fake, mix, weight = part

        def objective(params):
            real_score, fake_score = score(params, real), score(params, fake)
            penalty = losses.gradient_penalty(lambda x: score(params, x), real, fake, mix)
            total = losses.critic_loss(real_score, fake_score) + gan.penalty * penalty
            distance = jnp.sum(weight * (real_score - fake_score))
            return jnp.sum(weight * total), (distance, jnp.sum(weight * penalty))

        (total, aux), grads = jax.value_and_grad(objective, has_aux=True)(params)
        grads, (_, distance, penalty), norm = mean_over_devices(
            grads, (total, *aux), jnp.sum(weight), axis
        )
        params, opt_state = updated(critic_optimizer, grads, opt_state, params)
        return (params, opt_state, finite & jnp.isfinite(norm)), (distance, penalty)

    def step(state: TrainState, low, full, weight):
        if low.shape[0] % n:
            raise UsageError(f"a batch of {low.shape[0]} can't be split into {n} critic steps")
        low, full, weight = parts(low), parts(full), parts(weight)
        # The mean over no patch would be 0/0, and the whole batch would be skipped.
        empty = lax.psum(jnp.sum(weight, axis=1), axis) == 0
        weight = jnp.where(empty[:, None], 1.0, weight)
        fakes = lax.stop_gradient(
            jax.vmap(lambda x: losses.last_image(forward(model, state, state.params, x)[0]))(low)
        )
        real = jax.vmap(losses.central)(full, fakes)
        mix = parts(_local_uniform(state, weight.size, axis))
        (critic, critic_opt, finite), (distance, penalty) = lax.scan(
            critic_step,
            (state.critic, state.critic_opt_state, jnp.array(True)),
            (real, fakes, mix, weight),
        )

        low, full, weight = low[-1], full[-1], weight[-1]

        def objective(params):
            output, stats = forward(model, state, params, low)
            image = losses.last_image(output)
            adversary = losses.generator_loss(score(critic, image))
            squared = losses.mse(image, losses.central(full, image))
            total = gan.weight * adversary + loss(output, full)
            return jnp.sum(weight * total), (jnp.sum(weight * squared), stats)

        (total, (squared, stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        grads, (loss_mean, mse), norm = mean_over_devices(
            grads, (total, squared), jnp.sum(weight), axis
        )
        params, opt_state = updated(optimizer, grads, state.opt_state, state.params)
        new = state.replace(
            params=params,
            batch_stats=stats,
            opt_state=opt_state,
            critic=critic,
            critic_opt_state=critic_opt,
        )
        return accept(
            new,
            state,
            finite & jnp.isfinite(norm) & jnp.isfinite(loss_mean),
            {
                "loss": loss_mean,
                "rmse": jnp.sqrt(mse),
                "grad_norm": norm,
                "wasserstein": distance[-1],
                "penalty": penalty[-1],
            },
            ema_decay,
        )

    return step


def _local_uniform(state, n_local: int, axis: str):
    """This device's share of one uniform number for each patch of the whole batch."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    everywhere = jax.random.uniform(key, (n_local * lax.axis_size(axis),))
    return lax.dynamic_slice(everywhere, (lax.axis_index(axis) * n_local,), (n_local,))
