"""Network, loss and optimiser of a row tried on the shapes of a batch, before data are made."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.losses import central, last_image
from ldct_jax.models.vgg import needs_fetched
from ldct_jax.study.experiment import Experiment
from ldct_jax.train.steps import updated
from ldct_jax.user_script import own_errors


def check_shapes(name: str, experiment: Experiment) -> None:
    """Trace one step of the row ``name``: nothing is computed.

    Raises UsageError, with the line of the user's script where it is at fault: for what can't be
    traced, for a network that doesn't return images, and for a loss that doesn't return one number
    an image.
    """
    size, batch = experiment.patches.size, experiment.patches.batch
    images = jax.ShapeDtypeStruct((batch, size, size, 1), jnp.float32)
    model = experiment.model

    def tried(words):
        return own_errors(f"{name}: {words}, tried on images {images.shape}", always=True)

    def forward(key, x):
        variables = model.init(key, x)
        if "params" not in variables:
            raise UsageError(f"{name}: the network has no parameters to train")
        output, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return variables["params"], output

    with tried("the network"):
        key = jax.eval_shape(lambda: jax.random.key(0))
        params, output = jax.eval_shape(forward, key, images)
    shape = getattr(output, "shape", None)
    if shape is None or len(shape) not in (4, 5) or shape[-4] != batch or shape[-1] != 1:
        raise UsageError(
            f"{name}: the network returns {shape or type(output).__name__} for {images.shape}: "
            "images (B, H, W, 1), or those of all its clones (T, B, H, W, 1), are needed"
        )
    with tried("the network's result"):
        jax.eval_shape(lambda y, x: central(x, last_image(y)), output, images)
    if not needs_fetched(experiment.loss):  # those weights come later
        with tried("the loss"):
            values = jax.eval_shape(experiment.loss, output, images)
        if getattr(values, "shape", None) != (batch,):
            raise UsageError(
                f"{name}: the loss returns {getattr(values, 'shape', type(values).__name__)} for a "
                f"batch of {batch} images: one number an image, ({batch},), is needed "
                "(such as error.mean(axis=(1, 2, 3)))"
            )

    def step(params):
        optimizer = experiment.optimizer.build(10, 5)
        return updated(optimizer, params, optimizer.init(params), params)

    with tried("the optimiser"):
        jax.eval_shape(step, params)
