"""How noisy a series is in flat tissue: one number, measured where anatomy disturbs least."""

from __future__ import annotations

import numpy as np

WINDOW_MM = 6.0
SOFT_TISSUE_HU = (0.0, 200.0)
QUANTILE = 0.10
MAX_SLICES = 12
MIN_WINDOWS = 500


def flat_noise_hu(hu: np.ndarray, pixel_mm: float) -> float | None:
    """SD of the noise of (N, H, W) HU in flat soft tissue, HU; None where there is too little.

    Up to twelve slices, spread evenly, are covered with square windows of 6 mm around every
    pixel. Of the windows whose mean is 0 … 200 HU, the SD at the lowest tenth counts: above it
    anatomy adds to the spread. That rule is a convention. On pure noise of one SD with the
    spectrum of a medium kernel it reads 16 % low (0.7 mm pixels), since the SD of a small window
    scatters and the lowest tenth is taken; a body is noisier at its centre than at its edge, and
    the figure stands for the quieter tissue.
    """
    side = max(3, round(WINDOW_MM / pixel_mm) | 1)
    chosen = np.unique(np.linspace(0, len(hu) - 1, min(len(hu), MAX_SLICES)).round().astype(int))
    spreads = []
    for index in chosen:
        image = hu[index].astype(np.float64)
        if min(image.shape) < side:
            return None
        mean, sd = _window_mean_sd(image, side)
        spreads.append(sd[(mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])])
    sd = np.concatenate(spreads)
    return float(np.quantile(sd, QUANTILE)) if len(sd) >= MIN_WINDOWS else None


def _window_mean_sd(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample SD of every side x side window that lies fully inside."""
    n = side * side
    mean = _box_sum(image, side) / n
    variance = (_box_sum(image * image, side) / n - mean * mean) * (n / (n - 1))
    return mean, np.sqrt(np.maximum(variance, 0.0))


def _box_sum(image: np.ndarray, side: int) -> np.ndarray:
    """Sums over windows from the summed-area table, exact to float64 for HU."""
    table = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    table[1:, 1:] = image.cumsum(0).cumsum(1)
    return table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
