"""Low dose in the image domain: shaped noise added to a normal-dose slice (dncnn_dose.txt).

    n = σ_add · IFFT{H · FFT{u}} / ‖h‖₂,   u = (Poisson(λ) − λ) / sqrt(λ),
    σ_add = σ_0 · sqrt(r² − 1)

with σ_0 the normal-dose image's own noise. r(dose) is 1/sqrt(dose) for ``physics`` (quanta are
independent) and 1/dose for ``paper``. H is MTF(f), or sqrt(f)·MTF(f), the shape that filtered
back-projection gives: ramp² times the 1/f of the back-projection. The division by ‖h‖₂ makes the
filter's output as strong as its input, so that the added SD is the σ_add asked for.
"""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.fbp import SMOOTH, Kernel
from ldct_jax.errors import UsageError

SPECTRA = ("sqrt_f_mtf", "mtf")
RULES = ("physics", "paper")
PHOTONS = 1000.0  # λ: large enough for u to be nearly normal, small enough to keep its skewness


def noise_response(
    size: tuple[int, int],
    pixel_mm: float,
    spectrum: str = "sqrt_f_mtf",
    kernel: Kernel = SMOOTH,
) -> np.ndarray:
    """H on the grid of ``rfft2``: (H, W//2 + 1) float32, scaled to mean |H|² = 1 (‖h‖₂ = 1).

    MTF: the window of ``kernel``, by default the one measured on B30f images.
    """
    if spectrum not in SPECTRA:
        raise UsageError(f"spectrum={spectrum!r}: use one of {', '.join(SPECTRA)}")
    height, width = size
    fy = np.fft.fftfreq(height, pixel_mm)[:, None]
    fx = np.fft.rfftfreq(width, pixel_mm)[None, :]
    f = np.hypot(fx, fy)
    response = kernel.window(f)
    if spectrum == "sqrt_f_mtf":
        response = response * np.sqrt(f)
    # The half spectrum stands for both halves, but for its first (and, if even, last) column.
    weight = np.full(f.shape[1], 2.0)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    power = (response**2 * weight).sum() / (height * width)
    return (response / np.sqrt(power)).astype(np.float32)


def noise_ratio(dose: float, r: str = "physics") -> float:
    """r(dose) = σ_low/σ_full: 1/sqrt(dose) for ``physics``, 1/dose for ``paper``."""
    if not 0 < dose <= 1:
        raise UsageError(f"dose={dose}: a fraction of the normal dose in (0, 1]")
    if r not in RULES:
        raise UsageError(f"r={r!r}: use one of {', '.join(RULES)}")
    return dose**-0.5 if r == "physics" else 1 / dose


def added_sd(dose: float, full_sd_hu: float, r: str = "physics") -> float:
    """σ_add in HU: what must be added to noise of ``full_sd_hu`` to reach ``dose``."""
    if not full_sd_hu >= 0:
        raise UsageError(f"full_sd_hu={full_sd_hu}: the normal dose's noise in HU, not negative")
    return full_sd_hu * (noise_ratio(dose, r) ** 2 - 1) ** 0.5


def sample_noise(
    shape: tuple[int, ...],
    sd_hu: float,
    pixel_mm: float,
    seed: int,
    *,
    spectrum: str = "sqrt_f_mtf",
    kernel: Kernel = SMOOTH,
    first_slice: int = 0,
) -> np.ndarray:
    """Shaped noise of standard deviation ``sd_hu``: ``shape`` = (N, H, W) or (H, W) float32, HU.

    Slice i is a function of (seed, ``first_slice`` + i) alone, so any slice can be made again
    without the others.
    """
    if len(shape) not in (2, 3):
        raise UsageError(f"noise is made for slices (N, H, W) or (H, W), not {tuple(shape)}")
    if not (np.isfinite(sd_hu) and sd_hu >= 0 and pixel_mm > 0):
        raise UsageError(f"sd_hu={sd_hu}, pixel_mm={pixel_mm}: a noise level and a pixel in mm")
    n = shape[0] if len(shape) == 3 else 1
    size = tuple(int(side) for side in shape[-2:])
    response = noise_response(size, float(pixel_mm), spectrum, kernel)
    noise = np.empty((n, *size), np.float32)
    # NumPy's numbers and transform: those of jax differ by release, device and number of threads,
    # and one pixel of another value is other data to a run that is resumed elsewhere.
    for i, image in enumerate(noise, first_slice):
        quanta = np.random.default_rng([seed, i]).poisson(PHOTONS, size)
        white = ((quanta - PHOTONS) / PHOTONS**0.5).astype(np.float32)
        image[:] = np.fft.irfft2(np.fft.rfft2(white) * response, s=size)
    return np.float32(sd_hu) * noise.reshape(shape)
