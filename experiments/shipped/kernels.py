"""Slices as another reconstruction kernel would have shown them.

Scanners filter linearly: a scan of one kernel is the scan of another, times the ratio of their
modulations. So noise and anatomy of a few kernels stand for those of many, smoother and sharper
ones; a low dose and its target stay a pair, since both are filtered alike.
"""

import numpy as np

from ldct_jax.ct.fbp import Kernel

MAX_GAIN = 3.0
"""No frequency is raised more: where a smooth kernel left nothing, nothing comes back."""


def gain(own: Kernel, other: Kernel, shape: tuple[int, int], pixel_mm: float) -> np.ndarray:
    """What takes images of the kernel ``own`` to ``other``: (H, W//2 + 1), for numpy's rfft2."""
    rows, columns = np.fft.fftfreq(shape[0], pixel_mm), np.fft.rfftfreq(shape[1], pixel_mm)
    f = np.hypot(rows[:, None], columns)

    def falls(kernel: Kernel) -> np.ndarray:
        return np.log(2.0) * (f / kernel.half_per_mm) ** kernel.order

    return np.exp(np.minimum(falls(own) - falls(other), np.log(MAX_GAIN)))


def as_kernel(hu_hw: np.ndarray, own: Kernel, other: Kernel, pixel_mm: float) -> np.ndarray:
    """An image (H, W) of the kernel ``own`` as ``other`` shows it: float64 HU; the mean stays."""
    filtered = np.fft.rfft2(hu_hw) * gain(own, other, hu_hw.shape, pixel_mm)
    return np.fft.irfft2(filtered, hu_hw.shape)
