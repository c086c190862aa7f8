"""The spectrum of noise in CT images, described by the kernel that would make it.

Filtered back-projection with the window w(f) on its ramp gives noise of the power f·w(f)² (Riederer
et al., Phys. Med. Biol. 23, 1978). The other way round, the noise of flat tissue tells w: that is
how the noise added to a series gets the series' own texture, whatever its kernel is called.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from ldct_jax.ct.fbp import Kernel

HALF_PER_MM = np.geomspace(0.12, 1.6, 61)
ORDERS = (1.5, 2.5, 4.0)
MAX_LAG = 4  # pixels
GRID = 64
MIN_TRIPLES = 400


def measured_kernel(images_hu, flat, pixel_mm: float) -> Kernel | None:
    """The kernel whose noise resembles the noise in ``flat`` tissue best; None for too little.

    images_hu, flat: (N, H, W) HU and bool. Of any three flat pixels in one row or column, 1 to 4
    pixels apart, the squared second difference counts, compared with that of f·w(f)² for windows
    w = exp(−ln2 (f/half)^order). Second differences leave out what rises evenly, so that anatomy
    disturbs little; the noise's level plays no part.
    """
    squares, counts = np.zeros(MAX_LAG), np.zeros(MAX_LAG)
    for image, region in zip(images_hu, flat, strict=True):
        for axis in (0, 1):
            a, ok = (
                np.moveaxis(np.asarray(image, np.float64), axis, 0),
                np.moveaxis(region, axis, 0),
            )
            for lag in range(1, MAX_LAG + 1):
                left, middle, right = slice(-2 * lag), slice(lag, -lag), slice(2 * lag, None)
                three = ok[left] & ok[middle] & ok[right]
                bend = a[left] - 2 * a[middle] + a[right]
                squares[lag - 1] += np.square(bend[three]).sum()
                counts[lag - 1] += three.sum()
    if counts.min() < MIN_TRIPLES or not squares.min() > 0:
        return None
    found = squares / counts
    shapes, kernels = _bends(float(pixel_mm))
    # The level that fits best, in closed form, and what remains.
    level = (shapes * found).sum(1) / (shapes * shapes).sum(1)
    rest = np.square(level[:, None] * shapes - found).sum(1)
    return kernels[int(rest.argmin())]


@functools.lru_cache(maxsize=32)
def _bends(pixel_mm: float) -> tuple[np.ndarray, list[Kernel]]:
    """Mean squared second differences at lags 1 … MAX_LAG of noise of variance 1, by kernel."""
    along = np.fft.fftfreq(GRID, pixel_mm)
    f = np.hypot(along[:, None], along)
    shapes, kernels = [], []
    for order in ORDERS:
        for half in HALF_PER_MM:
            kernel = Kernel("measured", round(float(half), 4), order)
            correlation = np.fft.ifft2(f * kernel.window(f) ** 2).real
            rho = correlation[0, : 2 * MAX_LAG + 1] / correlation[0, 0]
            shapes.append(6 - 8 * rho[1 : MAX_LAG + 1] + 2 * rho[2::2])
            kernels.append(kernel)
    return np.array(shapes), kernels


def blurred_share(kernel: Kernel, pixel_mm: float, sigma: float, side: int) -> float:
    """Variance in windows of ``side`` pixels of blurred noise, by the noise's whole variance.

    sigma: of the Gaussian blur, pixels. A mean over windows of noise with the kernel's spectrum.
    """
    along = np.fft.fftfreq(256, pixel_mm)
    f = np.hypot(along[:, None], along)
    noise = np.fft.ifft2(
        np.fft.fft2(np.random.default_rng(0).standard_normal((256, 256)))
        * np.sqrt(f)
        * kernel.window(f)
    ).real
    blurred = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    mean = ndimage.uniform_filter(blurred, side, mode="wrap")
    square = ndimage.uniform_filter(blurred * blurred, side, mode="wrap")
    n = side * side
    return float(np.median(square - mean * mean) * n / (n - 1) / noise.var())
