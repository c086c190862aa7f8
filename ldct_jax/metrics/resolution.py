"""Edge response: the task transfer function of a disc, at the contrast and noise it has.

A denoiser isn't linear: its resolution depends on contrast and noise, so measure discs of several
contrasts (AAPM TG-233).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import signal

from ldct_jax.errors import DataError, UsageError

STEP = 0.1  # bin of the radial edge profile, pixels
MIN_RADIUS = 4.0  # pixels


@dataclasses.dataclass(frozen=True)
class TransferFunction:
    """frequency_per_mm (K,) up to the Nyquist frequency, ttf (K,) with ttf(0) = 1.

    f50_per_mm, f10_per_mm: the lowest frequency where it falls to 50 % and 10 %, or None where it
    doesn't below the Nyquist frequency. contrast_hu: disc minus background.
    """

    frequency_per_mm: np.ndarray
    ttf: np.ndarray
    f50_per_mm: float | None
    f10_per_mm: float | None
    contrast_hu: float


def disc_transfer(
    images_hu, centre: tuple[float, float], radius: float, pixel_mm: float
) -> TransferFunction:
    """TTF at the edge of a disc, from the mean of a stack (N, H, W) in HU.

    centre: (row, column) and radius of the disc, pixels, to about a tenth of a pixel; at least 4.
    Disc and background must be flat half a radius inside and outside the edge.

    The profile over distance from the centre is differentiated and transformed; the binning and
    the difference each damp by sinc(f STEP), which is divided out again. Raises DataError where the
    ring leaves the image or there is no edge at the radius.
    """
    images = np.asarray(images_hu, np.float64)
    if images.ndim != 3 or not np.isfinite(images).all():
        raise DataError(f"a finite stack of images (N, H, W) is needed, not {images.shape}")
    if radius < MIN_RADIUS:
        raise UsageError(f"a disc of radius {radius:g} pixels: {MIN_RADIUS:g} at least")
    reach = radius / 2
    edge = radius + reach
    if min(*centre) < edge or any(
        c + edge > n - 1 for c, n in zip(centre, images.shape[1:], strict=True)
    ):
        raise DataError("the ring around the disc's edge leaves the image")
    profile = _edge_profile(images.mean(axis=0), centre, radius, reach)
    bins = len(profile)
    contrast = profile[: bins // 6].mean() - profile[-(bins // 6) :].mean()
    spread = np.diff(profile)
    # Flat over the edge itself, falling to zero over the outer quarters: takes away the noise of
    # the flat ends, not the edge's own tails.
    taper = signal.windows.tukey(len(spread), 0.5)
    padded = max(4096, 8 * len(spread))
    response = np.abs(np.fft.rfft(spread * taper, padded))
    # The step that the tapered edge adds up to is the contrast, unless the edge lies in the taper.
    if not abs(contrast) > 0 or not 0.8 < response[0] / abs(contrast) < 1.25:
        raise DataError(
            f"no edge of {contrast:.3g} HU at {radius:g} pixels from the given centre: centre or "
            "radius is wrong, or the noise hides it (average more images)"
        )
    frequency = np.fft.rfftfreq(padded, STEP)
    keep = frequency <= 0.5
    frequency = frequency[keep]
    ttf = response[keep] / response[0] / np.sinc(frequency * STEP) ** 2
    return TransferFunction(
        frequency_per_mm=frequency / pixel_mm,
        ttf=ttf,
        f50_per_mm=_falls_to(0.5, frequency / pixel_mm, ttf),
        f10_per_mm=_falls_to(0.1, frequency / pixel_mm, ttf),
        contrast_hu=float(contrast),
    )


def _edge_profile(image, centre, radius, reach) -> np.ndarray:
    """Mean HU in rings of width :data:`STEP` from radius - reach to radius + reach."""
    rows, columns = np.indices(image.shape)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    bins = round(2 * reach / STEP)
    index = np.floor((distance - (radius - reach)) / STEP).astype(int)
    inside = (index >= 0) & (index < bins)
    count = np.bincount(index[inside], minlength=bins)
    total = np.bincount(index[inside], image[inside], minlength=bins)
    filled = count > 0
    if filled.sum() < 0.5 * bins:
        raise DataError("too few pixels on the disc's edge: the disc is too small")
    places = np.arange(bins)
    return np.interp(places, places[filled], total[filled] / count[filled])


def _falls_to(level: float, frequency, ttf) -> float | None:
    below = np.flatnonzero(ttf < level)
    if below.size == 0:
        return None
    i = below[0]
    part = (ttf[i - 1] - level) / (ttf[i - 1] - ttf[i])
    return float(frequency[i - 1] + part * (frequency[i] - frequency[i - 1]))
