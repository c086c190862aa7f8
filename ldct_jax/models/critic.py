"""The critic of WGAN-VGG, DCSWGAN and MAP-NN: an image → one score (Yang et al. 2018)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import check_images, initializers, same_conv

STRIDES = (1, 2, 1, 2, 1, 2)


class Critic(nn.Module):
    """(B, H, W, 1) → scores (B,), float32: higher for images that look like normal dose.

    Six 3x3 convolutions (64, 64, 128, 128, 256, 256 channels, every second with stride 2,
    padding 1) with LeakyReLU 0.2, then a dense layer of 1024 units, LeakyReLU, and one of a
    single unit. No batch statistics, so that the gradient penalty is one of single images.

    Args:
      size: side of the images; the flattened critic is bound to it (17,923,521 parameters at 64,
        27,360,705 at 80). Unused without ``flatten``.
      widths, hidden: channels of the six convolutions and units of the dense layer.
      flatten: False: the dense layers act on each place of the last map (1,408,449 parameters,
        what the code of MAP-NN does) and the score is the mean over the places; any size.
    """

    size: int = 64
    flatten: bool = True
    widths: tuple[int, ...] = (64, 64, 128, 128, 256, 256)
    hidden: int = 1024
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    # One score for all pixels.
    receptive_field = None

    @nn.compact
    def __call__(self, x_bhw1, train: bool = False):
        check_images(x_bhw1, "the critic")
        if self.flatten and x_bhw1.shape[1:3] != (self.size, self.size):
            raise UsageError(
                f"this critic is built for {self.size}x{self.size} pixels, not "
                f"{x_bhw1.shape[1]}x{x_bhw1.shape[2]}: set its size to the patches' "
                "or take flatten=False"
            )
        h = x_bhw1
        if len(self.widths) != len(STRIDES):
            raise UsageError(f"the critic has {len(STRIDES)} convolutions, not {len(self.widths)}")
        for i, (features, stride) in enumerate(zip(self.widths, STRIDES, strict=True), start=1):
            h = nn.leaky_relu(same_conv(self, f"conv{i}", h, features, stride=stride), 0.2)
        if self.flatten:
            h = h.reshape(h.shape[0], -1)
        h = nn.leaky_relu(self._dense("dense1", h, self.hidden), 0.2)
        h = self._dense("dense2", h, 1).astype(jnp.float32)
        return jnp.mean(h.reshape(h.shape[0], -1), axis=1)

    def _dense(self, name, h, features):
        kernel_init, bias_init = initializers(self.initialization, h.shape[-1], last=features == 1)
        return nn.Dense(
            features, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype, name=name
        )(h)
