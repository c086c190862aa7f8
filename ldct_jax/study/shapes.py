"""Network, loss and optimiser of a row tried on the shapes of a batch, before data are made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from ldct_jax.errors import UsageError
from ldct_jax.losses import central, last_image
from ldct_jax.models.vgg import needs_fetched
from ldct_jax.models.whole_slices import denoise
from ldct_jax.study.experiment import Experiment
from ldct_jax.train.steps import updated
from ldct_jax.user_script import own_errors


@contextlib.contextmanager
def _tried(name: str, what: str, on: str) -> Iterator[None]:
    """Errors as one line that begins with the script's line, or with the row's name."""
    try:
        with own_errors(f"{name}: {what}, tried on {on}", always=True):
            yield
    except UsageError as error:
        if isinstance(error.__cause__, InvalidRngError):
            raise UsageError(
                f"{name}: the network draws random numbers (dropout?); training gives it none: "
                "leave that layer out"
            ) from error
        if f"{name}: " in str(error):
            raise
        raise UsageError(f"{name}: {error}") from error


def check_shapes(name: str, experiment: Experiment, matrix: tuple[int, int]) -> None:
    """Trace one step of the row ``name``, and its result on whole slices: nothing is computed.

    ``matrix``: (height, width) of the slices. Raises UsageError, with the line of the user's script
    where it is at fault: for what can't be traced, for a network that doesn't return images or
    doesn't take them in every size, and for a loss that doesn't return one number an image.
    """
    size, batch = experiment.patches.size, experiment.patches.batch
    images = jax.ShapeDtypeStruct((batch, size, size, 1), jnp.float32)
    model = experiment.model

    def tried(what):
        return _tried(name, what, f"images {images.shape}")

    def forward(key, x):
        variables = model.init(key, x)
        if "params" not in variables:
            raise UsageError(f"{name}: the network has no parameters to train")
        output, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return variables, output

    with tried("the network"):
        key = jax.eval_shape(lambda: jax.random.key(0))
        variables, output = jax.eval_shape(forward, key, images)
    params = variables["params"]
    if others := {str(p.dtype) for p in jax.tree.leaves(params)} - {"float32"}:
        raise UsageError(
            f"{name}: the network has {', '.join(sorted(others))} parameters: keep them float32 "
            "(no param_dtype); layers compute in another type with dtype="
        )
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
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise UsageError(
                f"{name}: the loss returns {values.dtype}, which has no gradient: float32 is needed"
            )

    def step(params):
        optimizer = experiment.optimizer.build(10, 5)
        return updated(optimizer, params, optimizer.init(params), params)

    with tried("the optimiser"):
        jax.eval_shape(step, params)

    h, w = matrix
    whole = jax.ShapeDtypeStruct((1, h, w, 1), jnp.float32)
    words = f"a whole slice of {h}x{w}: networks must take images of every size"
    with _tried(name, "the network", words):
        result = jax.eval_shape(lambda v, x: denoise(model, v, x), variables, whole)
    if result.shape != whole.shape:
        raise UsageError(f"{name}: the network returns {result.shape} for {words}")
