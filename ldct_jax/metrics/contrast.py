"""Contrast to noise of two regions, and the bias of HU in tissues."""

from __future__ import annotations

import numpy as np

from ldct_jax.errors import DataError
from ldct_jax.metrics.noise import flat_mask


def cnr(foreground_hu, background_hu) -> float:
    """|μ_fg - μ_bg| / sqrt((σ_fg² + σ_bg²) / 2) of two sets of pixels in HU (any shape)."""
    (mean_f, sd_f), (mean_b, sd_b) = _moments(foreground_hu), _moments(background_hu)
    if sd_f == sd_b == 0:
        raise DataError("both regions are constant: their contrast-to-noise ratio is undefined")
    return abs(mean_f - mean_b) / ((sd_f**2 + sd_b**2) / 2) ** 0.5


def cnr_hrnet(foreground_hu, background_hu) -> float:
    """2 |μ_fg - μ_bg| / |σ_fg - σ_bg|, as hrnet.txt prints it.

    Only to stand beside that paper's table: it is singular where both regions have one noise,
    which is what a good denoiser strives for. Use :func:`cnr` elsewhere.
    """
    (mean_f, sd_f), (mean_b, sd_b) = _moments(foreground_hu), _moments(background_hu)
    if sd_f == sd_b:
        raise DataError("both regions have one SD: hrnet's CNR divides by their difference")
    return 2 * abs(mean_f - mean_b) / abs(sd_f - sd_b)


# HU ranges of the *reference*, for its flat parts.
TISSUES = {
    "air": (-1050.0, -950.0),
    "lung": (-950.0, -600.0),
    "fat": (-140.0, -60.0),
    "soft tissue": (0.0, 120.0),
    "bone": (250.0, 1500.0),
}


FLAT_PIXELS = 5  # side of the neighbourhood over which the reference has to stay in a range


def hu_bias(prediction_hu, reference_hu) -> dict[str, float | None]:
    """Mean of result - reference by tissue, HU, where the reference is flat: two stacks (N, H, W).

    A tissue that the reference doesn't hold is None. Selecting pixels by the reference's own noisy
    values draws their mean towards the range's centre: prefer a noise-free reference.
    """
    prediction = np.asarray(prediction_hu, np.float64)
    reference = np.asarray(reference_hu, np.float64)
    if prediction.shape != reference.shape or not np.isfinite(prediction).all():
        raise DataError("prediction and reference must be finite stacks of one shape")
    found: dict[str, float | None] = {}
    for tissue, (low, high) in TISSUES.items():
        values = (prediction - reference)[flat_mask(reference, low, high, FLAT_PIXELS)]
        found[tissue] = float(values.mean()) if values.size else None
    return found


def _moments(values_hu) -> tuple[float, float]:
    values = np.asarray(values_hu, np.float64).ravel()
    if values.size < 2 or not np.isfinite(values).all():
        raise DataError("a region needs at least two finite pixels")
    return float(values.mean()), float(values.std(ddof=1))
