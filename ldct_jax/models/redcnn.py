"""RED-CNN: residual encoder-decoder, 5 convolutions and 5 deconvolutions (Chen et al. 2017)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.models.layers import Conv, check_images, relu

DEPTH = 5


class REDCNN(nn.Module):
    """(B, H, W, 1) → denoised (B, H, W, 1), float32; sides of at least 5·(k-1) + 1 pixels.

    conv1 … conv5 and deconv1 … deconv5, no padding, ReLU after each. The output of conv4 joins
    after deconv1, that of conv2 after deconv3 and the input after deconv5: added, then ReLU.

    Args:
      n_filters, kernel_size: 96 and 5 in the paper (1,848,865 parameters).
      final_relu: ReLU of the result; off for images whose window cuts below zero or that have
        zero mean.
      initialization: see :func:`ldct_jax.models.layers.initializers`.
      dtype: computing type; parameters and the addition of the input are float32.
    """

    n_filters: int = 96
    kernel_size: int = 5
    final_relu: bool = True
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one output pixel sees, in pixels."""
        return 2 * DEPTH * (self.kernel_size - 1) + 1

    def setup(self):
        for i in range(1, DEPTH + 1):
            inputs = 1 if i == 1 else self.n_filters
            setattr(self, f"conv{i}", self._layer(inputs, self.n_filters, "valid"))
            outputs = 1 if i == DEPTH else self.n_filters
            deconv = self._layer(self.n_filters, outputs, "full", last=i == DEPTH)
            setattr(self, f"deconv{i}", deconv)

    def _layer(self, inputs: int, outputs: int, padding: str, last: bool = False) -> Conv:
        return Conv(
            inputs,
            outputs,
            kernel_size=self.kernel_size,
            padding=padding,
            initialization=self.initialization,
            last=last,
            dtype=self.dtype,
        )

    def __call__(self, x_bhw1, train: bool = False):
        check_images(x_bhw1, "RED-CNN", min_side=DEPTH * (self.kernel_size - 1) + 1)
        image = x_bhw1.astype(jnp.float32)
        h = relu(self.conv1(image))
        h2 = relu(self.conv2(h))
        h4 = relu(self.conv4(relu(self.conv3(h2))))
        h = relu(self.deconv1(relu(self.conv5(h4))) + h4)
        h = relu(self.deconv3(relu(self.deconv2(h))) + h2)
        out = self.deconv5(relu(self.deconv4(h))).astype(jnp.float32) + image
        return relu(out) if self.final_relu else out
