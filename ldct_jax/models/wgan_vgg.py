"""The generator of WGAN-VGG and CNN-L1 (Yang et al. 2018; dcswgan, Table 1)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import Conv, check_images, relu

DEPTH = 8


class WGANVGG(nn.Module):
    """Seven [conv 3x3, ReLU] and a conv to one channel + ReLU, no residual; float32.

    With ``padding="valid"`` (the original) (B, H, W, 1) becomes (B, H-16, W-16, 1): training pairs
    80x80 inputs with the central 64x64 of the target, and whole slices are edge-padded by 8 at
    inference (:func:`ldct_jax.models.whole_slices.denoise`). With ``same`` the size stays.
    55,872 parameters, 56,097 with biases.
    """

    n_filters: int = 32
    padding: str = "valid"
    use_bias: bool = False
    final_relu: bool = True
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one output pixel sees, in pixels."""
        return 2 * DEPTH + 1

    @nn.nowrap
    def inference_padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels to add at the top, bottom, left and right of a whole slice."""
        return (DEPTH,) * 4 if self.padding == "valid" else (0,) * 4

    @nn.compact
    def __call__(self, x_bhw1, train: bool = False):
        if self.padding not in ("valid", "same"):
            raise UsageError(f"padding={self.padding!r}: use valid or same")
        min_side = 2 * DEPTH + 1 if self.padding == "valid" else 1
        check_images(x_bhw1, "WGAN-VGG's generator", min_side=min_side)
        h = x_bhw1
        for i in range(1, DEPTH + 1):
            h = Conv(
                1 if i == 1 else self.n_filters,
                1 if i == DEPTH else self.n_filters,
                padding=self.padding,
                use_bias=self.use_bias,
                initialization=self.initialization,
                last=i == DEPTH,
                dtype=self.dtype,
                name=f"conv{i}",
            )(h)
            h = relu(h) if i < DEPTH else h.astype(jnp.float32)
        return relu(h) if self.final_relu else h


class CNNL1(WGANVGG):
    """CNN-L1: the same chain with biases, padded to the same size, trained with L1."""

    padding: str = "same"
    use_bias: bool = True
