"""UNet, the baseline of the HRNet paper: nine stride-2 levels down to one pixel (hrnet.txt)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import check_images, relu, same_conv, upsample_bilinear
from ldct_jax.models.norm import instance_norm


class UNet(nn.Module):
    """(B, H, W, 1) → (B, H, W, 1), float32; sides must divide by 2^levels (512 with nine levels).

    Encoder: one 3x3 stride-2 convolution a level. Decoder: bilinear x2, 3x3 convolution, concat
    behind it the mirrored encoder output (none with the input). Each convolution is followed by
    InstanceNorm (no parameters) and ReLU; a 1x1 bottleneck and the output have no norm, since
    one pixel has no variance and the output carries the image's level. The decoder is our choice
    where the paper is silent: 30,658,849 parameters. Whole slices of other sizes are edge-padded
    and cropped by :func:`ldct_jax.models.whole_slices.denoise`.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 512, 512, 512, 512)
    final_relu: bool = True
    initialization: str = "lecun"
    dtype: Any = jnp.float32

    # InstanceNorm's mean and variance are those of the whole image.
    receptive_field = None

    @nn.nowrap
    def for_side(self, side: int) -> UNet:
        """The same with as many levels as halve ``side`` pixels evenly (two at least): widths are
        left out, or the last one is repeated."""
        levels = max(2, (side & -side).bit_length() - 1)
        last = self.widths[-1:] * max(0, levels - len(self.widths))
        return self.clone(widths=(self.widths + last)[:levels], parent=None)

    @nn.nowrap
    def inference_padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels to add at the top, bottom, left and right of a whole slice."""
        side = 2 ** len(self.widths)
        extra_h, extra_w = -height % side, -width % side
        return extra_h // 2, extra_h - extra_h // 2, extra_w // 2, extra_w - extra_w // 2

    @nn.compact
    def __call__(self, x_bhw1, train: bool = False):
        if len(self.widths) < 2:
            raise UsageError("a UNet needs at least two levels")
        levels = len(self.widths)
        check_images(x_bhw1, f"this UNet of {levels} levels", multiple=2**levels)
        h, skips = x_bhw1, []
        for i, width in enumerate(self.widths, start=1):
            h = same_conv(self, f"down{i}", h, width, stride=2)
            h = relu(h if h.shape[1:3] == (1, 1) else instance_norm(h))
            skips.append(h)
        # Level i of the decoder has half the side that the encoder's level i - 1 had, and ends
        # with the width of that level; the last one ends with the image.
        for i in range(levels, 0, -1):
            h = upsample_bilinear(h, 2 * h.shape[1], 2 * h.shape[2])
            if i == 1:
                h = same_conv(self, "up1", h, 1, last=True).astype(jnp.float32)
                return relu(h) if self.final_relu else h
            h = relu(instance_norm(same_conv(self, f"up{i}", h, self.widths[i - 2])))
            h = jnp.concatenate([h, skips[i - 2]], axis=-1)
