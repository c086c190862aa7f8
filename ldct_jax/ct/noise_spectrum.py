"""The spectrum of noise in CT images, described by the kernel that would make it.

Filtered back-projection with the window w(f) on its ramp gives noise of the power f·w(f)² (Riederer
et al., Phys. Med. Biol. 23, 1978). The other way round, the noise of flat tissue tells w: that is
how the noise added to a series gets the series' own texture, whatever its kernel is called.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from ldct_jax.ct.fbp import Kernel

HALF_PER_MM = np.geomspace(0.12, 1.6, 61)
ORDERS = (1.5, 2.5, 4.0)
MAX_LAG = 4  # pixels
GRID = 64
MIN_TRIPLES = 400
MAX_EXPLAINED = 0.5
"""Of a window's variance, by its blurred copy's."""


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


@dataclasses.dataclass(frozen=True)
class WindowLaw:
    """What windows of noise alone show on average, for noise of variance 1.

    whole: variance within a window; blurred: that of the blurred noise; slope: how much more
    variance a window has for more of the blurred one (a regression).
    """

    whole: float
    blurred: float
    slope: float

    def noise(self, variance, structure):
        """Unbiased variance of the noise, any shape, from windows chosen by their ``structure``.

        variance, structure: of windows, as they are and blurred. Windows that look flat when
        blurred have less of the noise's low frequencies than others, and no window shows those
        that are longer than itself; both matter for smooth kernels.
        """
        return (variance - self.slope * structure) / (self.whole - self.slope * self.blurred)


@functools.lru_cache(maxsize=64)
def window_law(kernel: Kernel, pixel_mm: float, sigma: float, side: int) -> WindowLaw:
    """The law of windows of ``side`` pixels for noise of ``kernel``, exact for Gaussian noise.

    sigma: of the Gaussian blur, pixels.
    """
    n = 256
    along = np.fft.fftfreq(n, pixel_mm)
    f = np.hypot(along[:, None], along)
    power = f * kernel.window(f) ** 2
    impulse = np.zeros(n)
    impulse[0] = 1
    blur = np.fft.fft(ndimage.gaussian_filter1d(impulse, sigma, mode="wrap")).real
    transfer = blur[:, None] * blur
    row, column = (axis.ravel() for axis in np.indices((side, side)))
    down, right = (np.abs(axis[:, None] - axis) for axis in (row, column))

    def centred(spectrum):
        """Covariance of a window's pixels, less their mean: (side², side²)."""
        c = (np.fft.ifft2(spectrum).real / power.mean())[down, right]
        return c - c.mean(0) - c.mean(1)[:, None] + c.mean()

    # Variances are quadratic forms, whose covariance is twice the trace of a product (Isserlis).
    whole, both, blurred = (centred(power * transfer**k) for k in range(3))
    slope = np.square(both).sum() / np.square(blurred).sum()
    seen, blurred_seen = (float(np.trace(c)) / (side * side - 1) for c in (whole, blurred))
    # Pixels of several mm: the blur hardly blurs, and without it little would be left.
    return WindowLaw(seen, blurred_seen, min(float(slope), MAX_EXPLAINED * seen / blurred_seen))
