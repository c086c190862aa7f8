"""HRNet for CT: four scales in parallel, fused by summation (hrnet.txt)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import Conv, check_images, relu, same_conv, upsample_bilinear
from ldct_jax.models.norm import instance_norm


class HRNet(nn.Module):
    """(B, H, W, 1) → denoised (B, H, W, 1), float32; sides of at least 2^branches pixels.

    Stem 3x3, then as many stages as branches with 1, 2, 3, … branches, two 3x3 convolutions a
    branch. Between stages each existing scale becomes the sum of all existing scales: a finer one
    through a chain of 3x3 stride-2 convolutions of its own, a coarser one through a 1x1
    convolution and bilinear enlargement. The new, coarser scale is a stride-2 convolution of the
    previous one alone. After the last stage all scales are enlarged and concatenated, and a 1x1
    predictor + ReLU makes the image. Each convolution is followed by InstanceNorm (no parameters)
    and ReLU. 2,674,113 parameters; the paper's figure is missing, this follows its text.

    Args:
      widths: channels of the branches, finest first.
      new_scale: what a new scale is made from: the ``previous`` scale, as the paper says, or the
        sum of ``all`` existing ones (3,523,009 parameters).
      final_relu: ReLU of the result.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    new_scale: str = "previous"
    final_relu: bool = True
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    # InstanceNorm's mean and variance are those of the whole image.
    receptive_field = None

    @nn.compact
    def __call__(self, x_bhw1, train: bool = False):
        if self.new_scale not in ("previous", "all"):
            raise UsageError(f"new_scale={self.new_scale!r}: use previous or all")
        check_images(x_bhw1, "HRNet", min_side=2 ** len(self.widths))
        height, width = x_bhw1.shape[1:3]
        scales = [self._layer("stem", x_bhw1, self.widths[0])]
        for stage in range(1, len(self.widths) + 1):
            if stage > 1:
                scales = self._fuse(stage - 1, scales)
            for j, h in enumerate(scales):
                for k in (1, 2):
                    h = self._layer(f"stage{stage}_branch{j}_conv{k}", h, self.widths[j])
                scales[j] = h
        return self._predict(scales, height, width)

    def _fuse(self, transition: int, scales: list) -> list:
        """The inputs of the next stage, one scale more than ``scales``."""
        # A stride-2 convolution makes ceil(n/2) pixels of n.
        sizes = [h.shape[1:3] for h in scales]
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
        fused = []
        for target, size in enumerate(sizes):
            is_new = target == len(scales)
            sources = range(target - 1, target) if is_new and self.new_scale == "previous" else None
            terms = [
                self._bring(
                    f"fuse{transition}_{source}to{target}", scales[source], source, target, size
                )
                for source in sources or range(len(scales))
            ]
            fused.append(sum(terms[1:], terms[0]))
        return fused

    def _bring(self, name, h, source: int, target: int, size):
        if source > target:
            h = self._layer(name, h, self.widths[target], kernel_size=1)
            return upsample_bilinear(h, *size)
        for step in range(source + 1, target + 1):
            h = self._layer(f"{name}_{step - source}", h, self.widths[step], stride=2)
        return h

    def _predict(self, scales, height: int, width: int):
        """ReLU(1x1 convolution of all scales, enlarged and concatenated).

        A 1x1 convolution and an enlargement change places without changing the result, so each
        scale is reduced to one channel first: the concatenation never exists.
        """
        predictor = Conv(
            sum(self.widths),
            1,
            kernel_size=1,
            initialization=self.initialization,
            last=True,
            dtype=self.dtype,
            name="predictor",
        )
        start, parts = 0, []
        for h, n in zip(scales, self.widths, strict=True):
            part = predictor.convolve(h, predictor.kernel[:, :, start : start + n])
            parts.append(upsample_bilinear(part.astype(jnp.float32), height, width))
            start += n
        out = sum(parts[1:], parts[0]) + predictor.bias
        return relu(out) if self.final_relu else out

    def _layer(self, name, h, features, **fields):
        return relu(instance_norm(same_conv(self, name, h, features, **fields)))
