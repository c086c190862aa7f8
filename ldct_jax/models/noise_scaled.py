"""A network that sees every image in units of the image's own noise."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import check_images
from ldct_jax.models.slice_noise import measured_noise_hu, slice_noise_hu

# A released model is its parameters and these: another value here is another model.
ANOTHER_KIND = 0.5
BODY_HU = -900.0
SERIES = "series"
"""The collection of variables with what is known of all slices together: ``noise_hu``, a scalar."""


def with_series_noise(variables, sample) -> dict:
    """``variables`` for slices of the series of which ``sample`` are some, each (H, W) HU.

    What is kept of the noise then follows the sample's median noise, not each slice's own.
    """
    noise = jnp.float32(np.median(measured_noise_hu(sample).astype(np.float64)))
    return {**variables, SERIES: {"noise_hu": noise}}


def with_local_mean_of(x_bhw1, free, sd_px: float):
    """``free`` with the mean of ``x`` around each pixel: what a denoiser must not change.

    The mean of x - free, weighted by a Gaussian of ``sd_px`` pixels over what isn't air (above
    -900 HU in ``free``), is added there; noise has no structure that large. x: (B, H, W, 1) HU;
    free: the same, or (T, B, H, W, 1).
    """
    body = (free > BODY_HU).astype(jnp.float32)

    def gaussian(line):
        # Not jnp.arange: the converter to ONNX would lose a symbolic side.
        at = jnp.cumsum(jnp.ones_like(line))
        return jnp.exp(-0.5 * ((jnp.expand_dims(at, 1) - jnp.expand_dims(at, 0)) / sd_px) ** 2)

    # Two products with matrices are six times faster on a CPU than convolutions that wide.
    rows, columns = gaussian(x_bhw1[0, :, 0, 0]), gaussian(x_bhw1[0, 0, :, 0])

    def blurred(v):
        return jnp.matmul(jnp.matmul(rows, jnp.squeeze(v, -1)), columns)[..., None]

    return free + body * blurred(body * (x_bhw1 - free)) / jnp.maximum(blurred(body), 1e-3)


class NoiseScaled(nn.Module):
    """``base`` in units of each image's noise; the result keeps what a routine scan has of it.

    A network for any dose has to find out how noisy an image is before it can tell noise from
    anatomy. Here that is measured (:func:`slice_noise_hu`, σ), ``base`` gets the image divided by
    ``unit``·σ, so that its noise is always the same, and its estimate x̂ of the image without noise
    is multiplied back, and keeps the image's local mean (:func:`with_local_mean_of`): CT numbers
    are what a physicist measures, and a network is biased where scans differ from its training.
    The result is x̂ + kept·(x - x̂), kept = (routine_hu/σ)^power between
    ``least`` and 1: a scan as quiet as a routine one passes as it is, bit for bit, and of a noisier
    one a smaller share stays. Images are in HU, so that the window is Window(0, 1).

    A scan has one dose, but its noise differs from slice to slice (shoulders, tube-current
    modulation), so the slices of a series should keep one share: where the variables have it
    (:func:`with_series_noise`), σ in ``kept`` is the noise of the series, for all slices but those
    with less than half of it, which are of another kind (blank, drawn, averaged).

    (B, H, W, 1) → what ``base`` returns, (B, H, W, 1) or (T, B, H, W, 1); last = result.

    Args:
      base: a network trained on images whose noise is 1/``unit``
        (:func:`ldct_jax.data.noise_units.in_noise_units`), without any clipping. Its result has the
        size of the image, for every size: it pads nothing by ``inference_padding``.
      unit: network units of ``base`` in multiples of σ.
      routine_hu: the noise of a routine scan, as slice_noise_hu measures it.
      power: how fast the share kept falls with the noise.
      least: the least share kept. Of a dose's noise the squared error against the normal dose wants
        as large a share kept as the dose is of the normal one; nothing at all looks like plastic.
      mean_px: x̂ has the image's mean over Gaussians of this SD, in pixels; 0: what ``base`` says.
    """

    base: nn.Module
    unit: float = 4.0
    routine_hu: float = 10.75
    power: float = 3.0
    least: float = 0.1
    mean_px: float = 0.0

    @property
    def receptive_field(self) -> None:
        """The whole image: its noise is that of all flat tissue."""
        return None

    def share_kept(self, noise_hu, series_noise_hu):
        """What stays of the noise of slices, by their own noise and that of their series."""
        is_another = noise_hu < ANOTHER_KIND * series_noise_hu
        level = jnp.where(is_another, noise_hu, series_noise_hu)
        return jnp.clip((self.routine_hu / level) ** self.power, self.least, 1.0)

    def __call__(self, x_bhw1, train: bool = False):
        if train:
            raise UsageError("train base on images in units of their noise, not this network")
        return self._scaled(x_bhw1, self.base)

    def denoise(self, x_bhw1):
        """Only the result, (B, H, W, 1) → (B, H, W, 1)."""
        return self._scaled(x_bhw1, getattr(self.base, "denoise", self.base))

    def _scaled(self, x_bhw1, network):
        positive = self.unit > 0 and self.power > 0 and self.mean_px >= 0
        if not (positive and self.routine_hu >= 0 and 0 <= self.least <= 1):
            raise UsageError(
                f"unit={self.unit}, routine_hu={self.routine_hu}, power={self.power}, "
                f"least={self.least}, mean_px={self.mean_px}: unit and power above 0, routine_hu "
                "and mean_px at least 0, least a share"
            )
        check_images(x_bhw1, "a network in units of noise")
        x = x_bhw1.astype(jnp.float32)
        noise = slice_noise_hu(x[..., 0])[:, None, None, None]
        known = self.has_variable(SERIES, "noise_hu")
        kept = self.share_kept(noise, self.get_variable(SERIES, "noise_hu") if known else noise)
        free = network(x / (self.unit * noise)) * (self.unit * noise)
        if free.shape[-4:] != x.shape:
            raise UsageError(
                f"{type(self.base).__name__} makes {tuple(free.shape)} of {tuple(x.shape)}: only a "
                "network that keeps the image's size can be in units of noise"
            )
        if self.mean_px:
            free = with_local_mean_of(x, free, self.mean_px)
        return x + (1.0 - kept) * (free - x)
