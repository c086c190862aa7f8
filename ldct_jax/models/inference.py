"""Whole slices through any model: its padding rule, its last clone."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp


def denoise(model: nn.Module, variables: Mapping, x_bhw1):
    """The denoised images (B, H, W, 1), float32, of (B, H, W, 1) in network units; jit-able.

    A model that needs more pixels than the slice has (WGAN-VGG without padding: 8 on each side;
    UNet: sides that divide by 2^levels) says how many in ``inference_padding(height, width)``;
    the slice is continued by its edge pixels and the result cut back. Networks that return every
    clone give the last one, and skip the outputs of the others where their ``denoise`` can.
    """
    height, width = x_bhw1.shape[1:3]
    rule = getattr(model, "inference_padding", None)
    top, bottom, left, right = rule(height, width) if rule else (0, 0, 0, 0)
    x = x_bhw1
    if top or bottom or left or right:
        x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge")
    method = "denoise" if hasattr(type(model), "denoise") else None
    out = model.apply(variables, x, method=method)
    out = out[-1] if out.ndim == 5 else out
    # A network without padding has cut the same number of pixels from each side.
    lost_h, lost_w = (x.shape[1] - out.shape[1]) // 2, (x.shape[2] - out.shape[2]) // 2
    start_h, start_w = top - lost_h, left - lost_w
    return out[:, start_h : start_h + height, start_w : start_w + width].astype(jnp.float32)
