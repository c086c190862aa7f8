"""Normalisations and activations with parameters: BatchNorm, InstanceNorm, PReLU per channel."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax


def batch_norm(momentum: float, epsilon: float, axis_name: str | None, dtype: Any) -> nn.BatchNorm:
    """BatchNorm over batch, height and width, with scale and bias.

    ``momentum`` is the share of the old running statistics that stays (flax; torch counts the
    other way: its 0.1 is 0.9 here). Running variances are the biased ones of the batches; torch
    stores n/(n-1) of them. Statistics are float32, and with ``axis_name`` those of all devices
    along that axis.
    """
    # The fast variance, E[x²] - E[x]², loses three times the digits of the plain one over a chain
    # of ten layers.
    return nn.BatchNorm(
        momentum=momentum,
        epsilon=epsilon,
        axis_name=axis_name,
        dtype=dtype,
        use_fast_variance=False,
    )


def instance_norm(x_bhwc):
    """(x - mean) / sqrt(var + 1e-5) over the pixels of each image and channel, no parameters.

    Statistics in float32 (biased variance, as torch's InstanceNorm2d); the type of x stays.
    """
    x = x_bhwc.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True)
    return (centred * lax.rsqrt(variance + 1e-5)).astype(x_bhwc.dtype)


class PReLU(nn.Module):
    """max(x, 0) + slope·min(x, 0) with one trained slope a channel, 0.25 at the start.

    linen's own ``nn.PReLU`` has a single slope for all channels.
    """

    features: int

    @nn.compact
    def __call__(self, x_bhwc):
        slope = self.param("slope", nn.initializers.constant(0.25), (self.features,))
        return jnp.where(x_bhwc >= 0, x_bhwc, slope.astype(x_bhwc.dtype) * x_bhwc)
