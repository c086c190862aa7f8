"""CPCE-2D and the generator of MAP-NN, which repeats it (Shan et al. 2018, 2019)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import Conv, check_images, relu, unrolling

MIN_SIDE = 9  # four convolutions without padding take eight pixels


class CPCE(nn.Module):
    """Conveying-path convolutional encoder-decoder, (B, H, W, 1) → (B, H, W, 1), float32.

    conv1 … conv4 without padding, each with ReLU; deconv5 … deconv7, each concatenated behind its
    mirrored encoder output (conv3, conv2, conv1), ReLU, projected back by a 1x1 convolution,
    ReLU; deconv8 to one channel, ReLU. All 3x3 and without biases; no residual. 62,016 parameters
    with 32 channels. The smallest image is 9x9.
    """

    n_filters: int = 32
    use_bias: bool = False
    final_relu: bool = True
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one output pixel sees, in pixels."""
        return 17

    def setup(self):
        n = self.n_filters
        for i in range(1, 5):
            setattr(self, f"conv{i}", self._layer(1 if i == 1 else n, n, "valid"))
        for i in range(5, 8):
            setattr(self, f"deconv{i}", self._layer(n, n, "full"))
            setattr(self, f"project{i}", self._layer(2 * n, n, "valid", kernel_size=1))
        self.deconv8 = self._layer(n, 1, "full", last=True)

    def _layer(self, inputs, outputs, padding, kernel_size: int = 3, last: bool = False) -> Conv:
        return Conv(
            inputs,
            outputs,
            kernel_size=kernel_size,
            padding=padding,
            use_bias=self.use_bias,
            initialization=self.initialization,
            last=last,
            dtype=self.dtype,
        )

    def last_layer(self, x_bhw1):
        """The output of deconv8 before any residual or ReLU, float32 (B, H, W, 1)."""
        skips = []
        h = x_bhw1
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            h = relu(conv(h))
            skips.append(h)
        for i, skip in zip((5, 6, 7), skips[2::-1], strict=True):
            h = getattr(self, f"deconv{i}")(h)
            h = relu(jnp.concatenate([skip, h], axis=-1))
            h = relu(getattr(self, f"project{i}")(h))
        return self.deconv8(h).astype(jnp.float32)

    def __call__(self, x_bhw1, train: bool = False):
        check_images(x_bhw1, "CPCE", min_side=MIN_SIDE)
        out = self.last_layer(x_bhw1.astype(jnp.float32))
        return relu(out) if self.final_relu else out


class MAPNN(nn.Module):
    """MAP-NN's generator: one CPCE, T times in series, (B, H, W, 1) → (T, B, H, W, 1), float32.

    x_t = clip(ReLU(x_{t-1} + deconv8), 0, 1) with the same weights for every t; the last image is
    the result. ``clip=False`` leaves the clipping to [0, 1] out; ``unroll``: see
    :func:`ldct_jax.models.layers.unrolling`.
    """

    n_modules: int = 5
    n_filters: int = 32
    use_bias: bool = False
    clip: bool = True
    initialization: str = "lecun"
    unroll: int | None = None
    dtype: Any = jnp.float32

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one output pixel sees, in pixels."""
        return 16 * self.n_modules + 1

    def setup(self):
        if self.n_modules < 1:
            raise UsageError(f"n_modules={self.n_modules}: MAP-NN needs at least one")
        self.body = CPCE(
            self.n_filters,
            use_bias=self.use_bias,
            initialization=self.initialization,
            dtype=self.dtype,
            name="module",
        )

    def __call__(self, x_bhw1, train: bool = False):
        check_images(x_bhw1, "MAP-NN", min_side=MIN_SIDE)

        def step(body, x, _):
            x = relu(x + body.last_layer(x))
            x = jnp.clip(x, 0.0, 1.0) if self.clip else x
            return x, x

        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False},
            length=self.n_modules,
            unroll=unrolling(self.n_modules, self.unroll),
        )
        return scan(self.body, x_bhw1.astype(jnp.float32), None)[1]
