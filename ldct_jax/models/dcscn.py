"""DCSCN, the generator of DCSWGAN: dense skip connections and a small reconstruction network."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import check_images, relu, same_conv
from ldct_jax.models.norm import PReLU


class DCSCN(nn.Module):
    """(B, H, W, 1) → denoised (B, H, W, 1), float32, any height and width (dcswgan, Fig. 1).

    Seven 3x3 convolutions in series; all their outputs, concatenated, go through A1 (1x1) and
    B1 (1x1) → B2 (3x3); concat(A1, B2) → 1x1 → one channel, linear, plus the input. 25,906
    parameters with ReLU, 26,077 with PReLU.

    Args:
      widths: channels of the seven layers.
      a1, b1: channels of A1, and of B1 and B2.
      activation: after each of the ten hidden layers: ``relu``, or ``prelu`` with one slope a
        channel.
    """

    widths: tuple[int, ...] = (32, 26, 22, 18, 14, 11, 8)
    a1: int = 24
    b1: int = 8
    activation: str = "relu"
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one output pixel sees, in pixels."""
        return 2 * (len(self.widths) + 1) + 1

    @nn.compact
    def __call__(self, x_bhw1, train: bool = False):
        if self.activation not in ("relu", "prelu"):
            raise UsageError(f"activation={self.activation!r}: use relu or prelu")
        check_images(x_bhw1, "DCSCN")
        image = x_bhw1.astype(jnp.float32)

        def layer(name, h, features, kernel_size=3):
            h = same_conv(self, name, h, features, kernel_size)
            return relu(h) if self.activation == "relu" else PReLU(features, name=f"{name}_act")(h)

        h, outputs = image, []
        for i, width in enumerate(self.widths, start=1):
            h = layer(f"conv{i}", h, width)
            outputs.append(h)
        h = jnp.concatenate(outputs, axis=-1)
        a = layer("a1", h, self.a1, kernel_size=1)
        b = layer("b2", layer("b1", h, self.b1, kernel_size=1), self.b1)
        h = jnp.concatenate([a, b], axis=-1)
        return image + same_conv(self, "reconstruct", h, 1, 1, last=True).astype(jnp.float32)
