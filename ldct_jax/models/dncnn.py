"""DnCNN and CNN10: plain chains of convolutions that predict the noise.

DnCNN: Zhang et al. 2017, used by dncnn_dose and pcn; CNN10: Wu et al., used by cascade_drl.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import Conv, check_images, relu
from ldct_jax.models.norm import batch_norm


class DnCNN(nn.Module):
    """x - noise(x): (B, H, W, C) → (B, H, W, 1), float32, any height and width.

    conv1 3x3 + ReLU, then ``depth`` - 2 times [conv, BatchNorm, ReLU], then a last conv to one
    channel, all padded with zeros to the same size. The prediction is taken from the first
    channel; a second one (cascades: [x_D, x_L]) is only looked at.

    Args:
      depth: number of convolutions, 17 or 20 in the papers.
      in_channels: 1, or 2 in Wu's cascade.
      momentum, epsilon: of BatchNorm; see :func:`ldct_jax.models.norm.batch_norm`.
      axis_name: mesh axis over which batch statistics are shared; None: this device alone, or
        all devices where a sharded batch is compiled as one program.
      initialization: see :func:`ldct_jax.models.layers.initializers`.
      dtype: computing type; parameters, statistics and the subtraction are float32.
    """

    depth: int = 17
    n_filters: int = 64
    in_channels: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one output pixel sees, in pixels."""
        return 2 * self.depth + 1

    def setup(self):
        if self.depth < 2:
            raise UsageError(f"depth={self.depth}: two convolutions are the least")
        n = self.n_filters
        for i in range(1, self.depth + 1):
            conv = Conv(
                self.in_channels if i == 1 else n,
                1 if i == self.depth else n,
                padding="same",
                initialization=self.initialization,
                last=i == self.depth,
                dtype=self.dtype,
            )
            setattr(self, f"conv{i}", conv)
            if 1 < i < self.depth:
                norm = batch_norm(self.momentum, self.epsilon, self.axis_name, self.dtype)
                setattr(self, f"bn{i}", norm)

    def __call__(self, x_bhwc, train: bool = False):
        check_images(x_bhwc, type(self).__name__, channels=self.in_channels)
        x = x_bhwc.astype(jnp.float32)
        h = relu(self.conv1(x))
        for i in range(2, self.depth):
            h = getattr(self, f"conv{i}")(h)
            h = relu(getattr(self, f"bn{i}")(h, use_running_average=not train))
        noise = getattr(self, f"conv{self.depth}")(h).astype(jnp.float32)
        return x[..., :1] - noise


class CNN10(DnCNN):
    """Wu's CNN10 as cascade_drl counts it: 335,873 with the 1,152 running statistics.

    The chain of :class:`DnCNN` with ten hidden layers: conv + ReLU, 9 times [conv, BatchNorm,
    ReLU], conv. It predicts x_L - x_H, the result is its subtraction.
    """

    depth: int = 11
