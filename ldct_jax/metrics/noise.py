"""Noise: where tissue is flat, its power spectrum, and what a denoiser removed of it.

Noise images are differences in HU: of two noise realisations (divided by √2), of an image and a
noise-free phantom, or of a result and its reference.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from ldct_jax.errors import DataError, UsageError


def flat_mask(reference_hu, low_hu: float, high_hu: float, size: int = 9) -> np.ndarray:
    """Pixels whose ``size`` x ``size`` neighbourhood lies within [low_hu, high_hu] throughout.

    reference_hu: (N, H, W), best with little noise; (0, 100) HU picks soft tissue away from edges.
    Returns bool (N, H, W); pixels nearer than size/2 to the border are never flat.
    """
    reference = _stack(reference_hu)
    window = (1, size, size)
    # Outside the image nothing is flat.
    highest = ndimage.maximum_filter(reference, window, mode="constant", cval=np.inf)
    return (highest <= high_hu) & (ndimage.minimum_filter(reference, window) >= low_hu)


@dataclasses.dataclass(frozen=True)
class PowerSpectrum:
    """A radial noise power spectrum.

    frequency_per_mm (K,), nps (K,) in HU² mm²; variance in HU² (the 2-D integral); peak_per_mm:
    frequency of the largest bin; mean_per_mm: Σ f NPS / Σ NPS over the radial curve (as AAPM TG-233
    defines the average frequency).
    """

    frequency_per_mm: np.ndarray
    nps: np.ndarray
    variance: float
    peak_per_mm: float
    mean_per_mm: float


def power_spectrum(rois_hu, pixel_mm: float) -> PowerSpectrum:
    """NPS(f) = dx² / N² · mean over ROIs of |DFT(ROI - its mean)|², averaged over rings.

    rois_hu: (R, N, N) squares of noise. Rings are 1/(N dx) wide and end at the Nyquist frequency;
    the zero frequency, which is empty without the mean, is left out.
    """
    rois = _stack(rois_hu)
    n = rois.shape[1]
    if rois.shape[2] != n or n < 8:
        raise DataError(f"a power spectrum needs squares of at least 8x8 pixels, not {rois.shape}")
    if not pixel_mm > 0:
        raise UsageError(f"the pixel size must be positive, not {pixel_mm} mm")
    spectrum = np.abs(np.fft.fft2(rois - rois.mean(axis=(1, 2), keepdims=True))) ** 2
    nps_2d = spectrum.mean(axis=0) * (pixel_mm / n) ** 2
    step = 1 / (n * pixel_mm)
    along = np.fft.fftfreq(n, pixel_mm)
    ring = np.rint(np.hypot(along[:, None], along) / step).astype(int).ravel()
    count = np.bincount(ring)
    radial = (np.bincount(ring, nps_2d.ravel()) / np.maximum(count, 1))[1 : n // 2 + 1]
    frequency = step * np.arange(1, n // 2 + 1)
    total = radial.sum()
    if total == 0:
        raise DataError("the regions hold no noise at all: their power spectrum is zero")
    return PowerSpectrum(
        frequency_per_mm=frequency,
        nps=radial,
        variance=float(nps_2d.sum() * step**2),
        peak_per_mm=float(frequency[radial.argmax()]),
        mean_per_mm=float((frequency * radial).sum() / total),
    )


# hrnet.txt, 2.2.6: the band where the reference image is mostly noise.
HRNET_BAND = (150 / 256 * np.pi, np.pi)


@dataclasses.dataclass(frozen=True)
class NoiseAnalysis:
    """What the removed noise (input - result) is made of, in a high-frequency band (hrnet 2.2.6).

    added = input - reference, target = the reference's own noise, all cut to the band.
    cos_*: cosine correlations. projection_added = <removed, added>/<added, added>: the part of the
    added noise that was removed; projection_target likewise. rest_energy: what is left of the
    removed noise's energy after both projections are subtracted (they are not orthogonal, so this
    isn't the least possible). removed_band: (N, H, W) the removed noise in the band, HU.
    """

    cos_added_target: float
    cos_removed_added: float
    cos_removed_target: float
    projection_added: float
    projection_target: float
    rest_energy: float
    removed_band: np.ndarray


def noise_analysis(low_hu, denoised_hu, reference_hu) -> NoiseAnalysis:
    """hrnet's noise analysis over all slices of one patient: three stacks (N, H, W), HU.

    The band is :func:`band_mask`'s. The reference's noise counts as "target noise" because at these
    frequencies little else is left in it.
    """
    low, denoised, reference = (_stack(a) for a in (low_hu, denoised_hu, reference_hu))
    if not low.shape == denoised.shape == reference.shape:
        raise DataError("input, result and reference must be stacks of one shape")
    mask = band_mask(low.shape[1:])
    removed, added, target = (
        band_pass(a, mask) for a in (low - denoised, low - reference, reference)
    )
    for what, noise in (("removed", removed), ("added", added), ("target", target)):
        if not _dot(noise, noise) > 0:
            raise DataError(f"there is no {what} noise in the band: nothing to analyse")
    on_added = _dot(removed, added) / _dot(added, added)
    on_target = _dot(removed, target) / _dot(target, target)
    rest = removed - on_added * added - on_target * target
    return NoiseAnalysis(
        cos_added_target=cosine(added, target),
        cos_removed_added=cosine(removed, added),
        cos_removed_target=cosine(removed, target),
        projection_added=on_added,
        projection_target=on_target,
        rest_energy=_dot(rest, rest) / _dot(removed, removed),
        removed_band=removed,
    )


def cosine(a, b) -> float:
    """<a, b> / (|a| |b|) over all elements."""
    return _dot(a, b) / (_dot(a, a) * _dot(b, b)) ** 0.5


def band_mask(shape: tuple[int, int], band: tuple[float, float] = HRNET_BAND) -> np.ndarray:
    """The frequencies of a DFT (H, W) with low ≤ |ω| ≤ high, bool; ``band``: rad/pixel.

    A disc: the paper's own mask is only in its missing figure.
    """
    wy, wx = (2 * np.pi * np.fft.fftfreq(n) for n in shape)
    omega, tolerance = np.hypot(wy[:, None], wx), 1e-9
    return (omega >= band[0] - tolerance) & (omega <= band[1] + tolerance)


def band_pass(images_hu, mask) -> np.ndarray:
    """The images (N, H, W) with only the frequencies of ``mask`` (H, W)."""
    return np.fft.ifft2(np.fft.fft2(images_hu) * mask).real


def _dot(a, b) -> float:
    return float(np.vdot(a, b))


def _stack(images_hu) -> np.ndarray:
    images = np.asarray(images_hu, np.float64)
    if images.ndim != 3 or images.size == 0:
        raise DataError(f"a stack of images (N, H, W) is needed, not {images.shape}")
    if not np.isfinite(images).all():
        raise DataError("an image holds NaN or infinite values")
    return images
