"""What the description of a training becomes: optimisers, the first state, and the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import optax

from ldct_jax.data.feed.patches import Patches
from ldct_jax.hu import Window
from ldct_jax.optim import Adam
from ldct_jax.train import state, steps
from ldct_jax.train.gan import WassersteinGAN, adversarial
from ldct_jax.train.mesh import synchronised


class Training(Protocol):
    """What is trained and how: what :func:`train` needs of an experiment."""

    model: Any
    loss: Callable
    optimizer: Adam
    window: Window
    patches: Patches
    epochs: int | None
    steps: int | None
    seed: int
    ema_decay: float | None
    gan: WassersteinGAN | None


Optimizers = tuple[optax.GradientTransformation, optax.GradientTransformation | None]


def optimizers(training: Training, total: int, steps_per_epoch: int) -> Optimizers:
    """The network's and, in a GAN, the critic's, for a training of ``total`` steps."""
    network, gan = training.optimizer.build(total, steps_per_epoch), training.gan
    if gan is None:
        return network, None
    return network, gan.optimizer.build(total * gan.n_critic, steps_per_epoch * gan.n_critic)


def first_state(training: Training, network, critic) -> state.TrainState:
    """The state before the first step, from the training's seed; see :func:`optimizers`."""
    return state.create(
        training.model,
        network,
        training.patches.size,
        training.seed,
        ema=training.ema_decay is not None,
        critic=None if critic is None else (training.gan.critic, critic),
    )


def step(training: Training, network, critic) -> Callable:
    """The step of one device of many; see :func:`ldct_jax.train.steps.supervised`."""
    model, common = synchronised(training.model), {"ema_decay": training.ema_decay}
    if critic is not None:
        return adversarial(model, training.loss, network, training.gan, critic, **common)
    frozen = training.optimizer.trainable == "last_conv"
    return steps.supervised(model, training.loss, network, frozen_statistics=frozen, **common)
