"""How noisy images are in flat tissue: the one estimator of it, for series and results alike.

(A network in units of noise has a measure of its own, models/slice_noise.py: it needs one number
of every slice, in the compiled program, and reads lower.)

A window's SD can't decide whether the window is flat: the flattest would be those whose noise is
low by chance. So flatness is judged on a blurred copy, in which anatomy is left and hardly any
noise, against what blurred noise of that level and spectrum shows; and the variance of all
windows that pass is averaged, corrected for what windows of their size and flatness miss of noise
of that spectrum (:func:`ldct_jax.ct.noise_spectrum.window_law`): a tenth for the smoothest kernels.
So the result is the SD of the noise there and not of its lowest values.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from ldct_jax.ct.fbp import SMOOTH, Kernel
from ldct_jax.ct.no_data import filled, no_data
from ldct_jax.ct.noise_spectrum import blurred_share, measured_kernel, window_law

WINDOW_MM = 6.0
BLUR_MM = 2.5
SOFT_TISSUE_HU = (0.0, 200.0)
FIRST_SHARE = 0.02
"""Of the windows in soft tissue: the flattest on the blurred copy, where the search starts."""
MAX_STRUCTURE = 1.7
"""Times the variance that blurred noise alone shows in a window; more is anatomy."""
MAX_SLICES = 12
MIN_WINDOWS = 500
"""Windows in soft tissue, one around every pixel; with fewer no noise is measured."""
MIN_FLAT_WINDOWS = 50
MIN_FLAT_MM2 = 300.0
"""Where less than this is flat, the flattest tissue of this area must do."""


@dataclasses.dataclass(frozen=True)
class FlatTissue:
    """Flat soft tissue of a stack, and its noise.

    flat: (N, H, W) bool, middles of flat 6 mm windows (nowhere true where there is too little soft
    tissue); variance: (N, H, W) HU², what the window around each pixel says of the noise's
    variance, unbiased but for single windows even negative; kernel: of the noise, or None.
    """

    flat: np.ndarray
    variance: np.ndarray
    kernel: Kernel | None

    @property
    def sd_hu(self) -> float | None:
        """SD of the noise, HU; None without flat tissue."""
        if not self.flat.any():
            return None
        return float(np.sqrt(max(self.variance[self.flat].mean(dtype=np.float64), 0.0)))


def flat_noise_hu(hu: np.ndarray, pixel_mm: float) -> float | None:
    """SD of a series' own noise in flat soft tissue, HU; None where there is too little of it.

    hu: (N, H, W) HU, of which up to twelve slices, evenly spread, are looked at.
    """
    return flat_tissue(hu[spread_slices(len(hu))], pixel_mm).sd_hu


def tissue_noise(images_hu: np.ndarray, reference_hu: np.ndarray, pixel_mm: float) -> float | None:
    """SD of the noise of images (N, H, W) HU where the reference (N, H, W) shows flat soft tissue.

    The root of the mean variance of 6 mm windows; None where there is too little flat tissue.
    """
    flat, sums = flat_tissue(reference_hu, pixel_mm).flat, variance_sums(window_side(pixel_mm))
    pairs = zip(images_hu, flat, strict=True)
    return noise_of(np.array([sums(image[None], where[None])[0] for image, where in pairs]), flat)


def noise_of(sums: np.ndarray, flat: np.ndarray) -> float | None:
    """The noise, HU, from the slices' :func:`variance_sums` (N,) and ``flat`` (N, H, W)."""
    return float(np.sqrt(sums.sum(dtype=np.float64) / flat.sum())) if flat.any() else None


@functools.lru_cache(maxsize=8)
def variance_sums(side: int):
    """A compiled function of images and ``flat``, both (B, H, W), on any device.

    It adds up the sample variances, HU², of the ``side`` x ``side`` windows whose middle pixel is
    flat soft tissue: (B,).
    """
    import jax
    import jax.numpy as jnp

    n = side * side

    def mean(images):
        for window in ((1, side, 1), (1, 1, side)):
            images = jax.lax.reduce_window(images, 0.0, jax.lax.add, window, (1, 1, 1), "SAME")
        return images / n

    @jax.jit
    def sums(images, flat):
        # Flat tissue lies around its middle, so that float32 squares nothing large there.
        x = images.astype(jnp.float32) - sum(SOFT_TISSUE_HU) / 2
        variance = (mean(x * x) - mean(x) ** 2) * (n / (n - 1))
        return jnp.sum(jnp.where(flat, jnp.maximum(variance, 0), 0), axis=(1, 2))

    return sums


def flat_tissue(hu: np.ndarray, pixel_mm: float) -> FlatTissue:
    """Where (N, H, W) HU show flat soft tissue (mean of the window 0 … 200 HU), and its noise."""
    hu = filled(hu, no_data(hu))
    side, sigma = window_side(pixel_mm), BLUR_MM / pixel_mm
    variance, structure = (np.zeros(hu.shape, np.float32) for _ in range(2))
    soft = np.zeros(hu.shape, bool)
    edge = side // 2
    inner = (slice(edge, hu.shape[1] - edge), slice(edge, hu.shape[2] - edge))
    for i, image in enumerate(hu if min(hu.shape[1:]) >= side else ()):
        mean, variance[i] = window_moments(image, side)
        structure[i] = window_moments(ndimage.gaussian_filter(np.float64(image), sigma), side)[1]
        soft[i][inner] = ((mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1]))[inner]
    if soft.sum() < MIN_WINDOWS:
        return FlatTissue(np.zeros_like(soft), variance, None)
    enough = max(MIN_FLAT_WINDOWS, MIN_FLAT_MM2 / pixel_mm**2)
    first = min(1.0, max(FIRST_SHARE, enough / soft.sum()))
    flat = soft & (structure <= np.quantile(structure[soft], first))
    kernel = measured_kernel(hu, _covered(flat, side), pixel_mm)
    law = window_law(kernel or SMOOTH, pixel_mm, sigma, side)
    share = blurred_share(kernel or SMOOTH, pixel_mm, sigma, side)
    level = variance[flat].mean() / law.whole
    for _ in range(10):
        limit = MAX_STRUCTURE * share * level
        passed = soft & (structure <= limit)
        if passed.sum() < enough:
            break
        flat = passed
        level = max(float(law.noise(variance[passed], structure[passed]).mean()), 0.0)
    if kernel := measured_kernel(hu, _covered(flat, side), pixel_mm) or kernel:
        law = window_law(kernel, pixel_mm, sigma, side)
    # Where nothing is flat enough, more than noise can show isn't noise.
    return FlatTissue(flat, law.noise(variance, np.minimum(structure, limit)), kernel)


def _covered(middles: np.ndarray, side: int) -> np.ndarray:
    """All pixels of the windows with these middles."""
    return ndimage.maximum_filter(middles, (1, side, side))


def spread_slices(n: int, at_most: int = MAX_SLICES) -> np.ndarray:
    """Up to ``at_most`` indices of ``n`` slices, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).round().astype(int))


def window_side(pixel_mm: float) -> int:
    """The odd number of pixels that spans about 6 mm, at least 3."""
    return max(3, round(WINDOW_MM / pixel_mm) | 1)


def window_moments(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample variance of the ``side`` x ``side`` window around every pixel of (H, W)."""
    image = np.asarray(image, np.float64)
    mean = ndimage.uniform_filter(image, side)
    square = ndimage.uniform_filter(image * image, side)
    n = side * side
    return mean, np.maximum(square - mean * mean, 0.0) * (n / (n - 1))
