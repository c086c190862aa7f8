"""DRL: the dilated residual CNN of cascade_drl (after Ansari et al.)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.models.layers import Conv, check_images, relu
from ldct_jax.models.norm import batch_norm

DILATIONS = {2: 2, 3: 3, 4: 4, 5: 3, 6: 2}


class DRL(nn.Module):
    """(B, H, W, C) → denoised (B, H, W, 1), float32, any height and width.

    conv1 5x5 + ReLU; conv2 … conv5 3x3 with dilations 2, 3, 4, 3; conv6 (dilation 2) on
    concat(conv5, conv2), each followed by BatchNorm and ReLU; conv7 3x3, linear, on
    concat(conv6, conv1). Padded with zeros to the same size. 224,961 parameters + 640 running
    statistics = the paper's 225,601.

    Args:
      input_residual: True: the network adds its output to the image. False: its output is a
        predicted difference image x - y (label Ŷ - Y of the cascade), which is subtracted. The
        result is the denoised image in both cases.
      in_channels: 2 where a cascade concatenates [x_D, x_L]; the image is the first channel.
      momentum, epsilon, axis_name, initialization, dtype: as in
        :class:`ldct_jax.models.dncnn.DnCNN`.
    """

    n_filters: int = 64
    in_channels: int = 1
    input_residual: bool = True
    momentum: float = 0.99
    epsilon: float = 1e-3
    axis_name: str | None = None
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one output pixel sees, in pixels."""
        return 1 + 4 + 2 * sum(DILATIONS.values()) + 2

    def setup(self):
        n = self.n_filters
        self.conv1 = self._layer(self.in_channels, n, kernel_size=5)
        for i, dilation in DILATIONS.items():
            inputs = 2 * n if i == 6 else n
            setattr(self, f"conv{i}", self._layer(inputs, n, dilation=dilation))
            norm = batch_norm(self.momentum, self.epsilon, self.axis_name, self.dtype)
            setattr(self, f"bn{i}", norm)
        self.conv7 = self._layer(2 * n, 1, last=True)

    def _layer(self, inputs: int, outputs: int, **kwargs) -> Conv:
        return Conv(
            inputs,
            outputs,
            padding="same",
            initialization=self.initialization,
            dtype=self.dtype,
            **kwargs,
        )

    def __call__(self, x_bhwc, train: bool = False):
        check_images(x_bhwc, "DRL", channels=self.in_channels)
        x = x_bhwc.astype(jnp.float32)

        def block(i, *parts):
            h = getattr(self, f"conv{i}").of_parts(*parts)
            return relu(getattr(self, f"bn{i}")(h, use_running_average=not train))

        h1 = relu(self.conv1(x))
        h2 = h = block(2, h1)
        for i in (3, 4, 5):
            h = block(i, h)
        h = block(6, h, h2)
        out = self.conv7.of_parts(h, h1).astype(jnp.float32)
        return x[..., :1] + out if self.input_residual else x[..., :1] - out
