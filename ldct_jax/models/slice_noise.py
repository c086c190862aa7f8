"""The noise of a slice, measured in the slice itself: one SD in HU, jit-able and exportable."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.errors import UsageError

# A released model is its parameters and these: another value here is another model.
SIDE = 9
STRIDE = 4
SOFT_TISSUE_HU = (-50.0, 200.0)
AIR_HU = -950.0
CONSTANT_HU = 0.5
QUANTILE = 0.10
MIN_WINDOWS = 60
MIN_SHARE = 0.1
_LEVELS_HU = np.geomspace(1.0, 256.0, 65)


def slice_noise_hu(hu_bhw):
    """SD of the noise in flat soft tissue of each slice: (B, H, W) HU → (B,) float32 HU, jit-able.

    Of windows of 9x9 pixels, every fourth in both directions, whose mean is that of soft tissue or
    water (-50 to 200 HU), the SD at the lowest tenth counts: above it anatomy adds to the spread.
    Windows of one value (SD below 0.5 HU: what was masked or padded) don't count. Where soft tissue
    has fewer than 60 windows, some 5 cm² at 0.7 mm, and less than a tenth of all, whatever is
    neither air nor constant counts, and where nothing is left, everything. The result lies between
    1 and 256 HU. Raises UsageError for fewer than 9x9 pixels.

    :func:`ldct_jax.data.noise_estimate.flat_noise_hu` does much the same for a whole series, whose
    pixel size is known (windows of 6 mm, 0 to 200 HU).
    """
    if any(side < SIDE for side in hu_bhw.shape[1:3]):  # symbolic sides have no minimum
        raise UsageError(f"{hu_bhw.shape[1:3]} pixels hold no window of {SIDE}x{SIDE}")
    x = hu_bhw.astype(jnp.float32)[..., None]
    # Far from zero, where squares lose digits, no window counts but those of air and metal.
    mean, square = (
        nn.avg_pool(v, window_shape=(SIDE, SIDE), strides=(STRIDE, STRIDE), padding="VALID")[..., 0]
        for v in (x, x * x)
    )
    n = SIDE * SIDE
    sd = jnp.sqrt(jnp.maximum(square - mean * mean, 0.0) * (n / (n - 1)))
    varies = sd > CONSTANT_HU
    soft = (varies & (mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])).astype(jnp.float32)
    body = (varies & (mean > AIR_HU)).astype(jnp.float32)
    everything = jnp.ones_like(body)

    def count(windows):
        return jnp.sum(windows, axis=(1, 2), keepdims=True)

    enough = jnp.minimum(float(MIN_WINDOWS), MIN_SHARE * count(everything))
    counted = jnp.where(count(body) > 0, body, everything)
    counted = jnp.where((count(soft) > 0) & (count(soft) >= enough), soft, counted)
    # The quantile without sorting: the share of windows below each of some levels, interpolated.
    levels = jnp.asarray(_LEVELS_HU, jnp.float32)
    below = (sd[..., None] < levels).astype(jnp.float32) * counted[..., None]
    share = jnp.sum(below, axis=(1, 2)) / jnp.sum(counted, axis=(1, 2))[:, None]
    step = jnp.maximum(share[:, 1:] - share[:, :-1], 1e-6)
    passed = jnp.clip((QUANTILE - share[:, :-1]) / step, 0.0, 1.0)
    return jnp.exp(jnp.sum(passed, axis=1) * float(np.log(_LEVELS_HU[1] / _LEVELS_HU[0])))


_measure = jax.jit(slice_noise_hu)


def measured_noise_hu(hu_bhw) -> np.ndarray:
    """:func:`slice_noise_hu` of (B, H, W) HU in host memory, slice by slice: (B,) float32."""
    return np.array([_measure(jnp.asarray(hu, jnp.float32)[None])[0] for hu in hu_bhw], np.float32)
