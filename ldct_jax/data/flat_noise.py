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
    chosen = np.unique(np.linspace(0, len(hu) - 1, min(len(hu), MAX_SLICES)).round().astype(int))
    spreads = []
    for index in chosen:
        mean, sd = _window_mean_sd(hu[index].astype(np.float64), _side(pixel_mm))
        spreads.append(sd[_is_soft(mean)])
    sd = np.concatenate(spreads)
    return float(np.quantile(sd, QUANTILE)) if len(sd) >= MIN_WINDOWS else None


def flat_region(hu: np.ndarray, pixel_mm: float) -> np.ndarray:
    """The centres of the windows that :func:`flat_noise_hu` counts as flat, (N, H, W) bool."""
    side = _side(pixel_mm)
    margin = side // 2
    region = np.zeros(hu.shape, bool)
    for image, marked in zip(hu, region, strict=True):
        mean, sd = _window_mean_sd(image.astype(np.float64), side)
        soft = _is_soft(mean)
        if soft.any():
            flat = soft & (sd <= np.quantile(sd[soft], QUANTILE))
            marked[margin : margin + flat.shape[0], margin : margin + flat.shape[1]] = flat
    return region


def _side(pixel_mm: float) -> int:
    """The odd number of pixels that spans about 6 mm."""
    return max(3, round(WINDOW_MM / pixel_mm) | 1)


def _is_soft(mean: np.ndarray) -> np.ndarray:
    return (mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])


def _window_mean_sd(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample SD of every side x side window that lies fully inside (maybe none)."""
    if min(image.shape) < side:
        return np.zeros((0, 0)), np.zeros((0, 0))
    n = side * side
    mean = _box_sum(image, side) / n
    variance = (_box_sum(image * image, side) / n - mean * mean) * (n / (n - 1))
    return mean, np.sqrt(np.maximum(variance, 0.0))


def _box_sum(image: np.ndarray, side: int) -> np.ndarray:
    """Sums over windows from the summed-area table, exact to float64 for HU."""
    table = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    table[1:, 1:] = image.cumsum(0).cumsum(1)
    return table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
