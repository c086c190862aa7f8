"""What PSNR doesn't see: noise texture, resolution, lesions and CT numbers on a known phantom.

A flat body with discs of known CT number and small low-contrast lesions is given the noise of the
images under test; a denoiser works on several realisations, with the lesions and without. Since
the truth is known, nothing here takes another noisy image for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics.contrast import cnr
from ldct_jax.metrics.noise import power_spectrum
from ldct_jax.metrics.observers import detect
from ldct_jax.metrics.resolution import disc_transfer

BODY_HU = 50.0
# Discs: HU and place (rows, columns) from the centre, in parts of the image's side.
DISCS = {"fat": (-100.0, -0.17, 0.0), "lung": (-850.0, -0.17, -0.22), "bone": (950.0, -0.17, 0.22)}
TTF_DISCS = {"low contrast": "fat", "high contrast": "bone"}
LESION_ROWS, LESION_COLUMNS = (0.04, 0.15), (-0.24, -0.12, 0.0, 0.12, 0.24)
FINER = 4  # samples a pixel's side, for partial volume at the edges


@dataclasses.dataclass(frozen=True)
class QualityPhantom:
    """An elliptic body of 50 HU in air, three discs, and ten lesions that may be there or not.

    Args:
      size: side of the images, pixels; at least 64.
      pixel_mm: side of a pixel.
      noise_hu: SD of the noise, which has the spectrum of
        :func:`ldct_jax.ct.add_noise_to_images.sample_noise`.
      contrast: of the lesions, as a multiple of ``noise_hu`` (they are brighter than the body). So
        faint that an observer misses some: otherwise nothing could be lost.
      realisations: images with lesions, and as many without.
      seed: of the noise.
    """

    size: int
    pixel_mm: float
    noise_hu: float
    contrast: float = 0.15
    realisations: int = 12
    seed: int = 0

    def __post_init__(self):
        if self.size < 64 or not (self.pixel_mm > 0 and self.noise_hu > 0 and self.contrast > 0):
            raise UsageError(
                f"size={self.size}, pixel_mm={self.pixel_mm}, noise_hu={self.noise_hu}, "
                f"contrast={self.contrast}: at least 64 pixels, and positive numbers"
            )
        if self.realisations < 3:
            raise UsageError("at least three realisations are needed, for the noise of the mean")

    @property
    def disc_radius(self) -> float:
        """Of the large discs, pixels."""
        return self.size / 14

    @property
    def lesion_radius(self) -> float:
        """Pixels; at least 2, below which a lesion is no disc any more."""
        return max(2.0, self.size / 64)

    @property
    def lesion_hu(self) -> float:
        """The lesions' contrast in HU."""
        return self.contrast * self.noise_hu

    def place(self, row: float, column: float) -> tuple[float, float]:
        """Pixel coordinates of a place given in parts of the side from the centre."""
        middle = (self.size - 1) / 2
        return middle + row * self.size, middle + column * self.size

    @property
    def lesions(self) -> list[tuple[float, float]]:
        """(row, column) of their centres, pixels."""
        return [self.place(r, c) for r in LESION_ROWS for c in LESION_COLUMNS]

    def truth(self, *, lesions: bool) -> np.ndarray:
        """The noise-free image, (size, size) float32 HU, edges with partial volume."""
        n = self.size * FINER
        y, x = ((np.arange(n) + 0.5) / FINER - 0.5 for _ in range(2))
        y = y[:, None]
        middle = (self.size - 1) / 2
        body = ((y - middle) / 0.34) ** 2 + ((x - middle) / 0.44) ** 2 <= self.size**2
        image = np.where(body, np.float32(BODY_HU), np.float32(-1000))

        def disc(centre, radius):
            return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2

        for hu, row, column in DISCS.values():
            image[disc(self.place(row, column), self.disc_radius)] = hu
        for centre in self.lesions if lesions else ():
            image[disc(centre, self.lesion_radius)] += np.float32(self.lesion_hu)
        return image.reshape(self.size, FINER, self.size, FINER).mean((1, 3))

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Noisy images (present, absent), each (realisations, size, size) float32 HU."""
        shape = (2 * self.realisations, self.size, self.size)
        noise = sample_noise(shape, self.noise_hu, self.pixel_mm, self.seed)
        present, absent = np.split(noise, 2)
        return present + self.truth(lesions=True), absent + self.truth(lesions=False)


@dataclasses.dataclass(frozen=True)
class Quality:
    """What a denoiser left of the phantom, ready for JSON; None where it can't be told.

    noise_hu: SD; nps: noise power spectrum (HU² mm²) at ``nps_per_mm`` (cycles/mm), and its mean
    frequency ``nps_mean_per_mm``. ttf: by contrast, ``per_mm``, ``ttf`` and ``f50_per_mm``.
    cnr: of a lesion, mean over lesions and realisations. d_prime, auc: of the channelised
    Hotelling observer with ``n_channels`` Laguerre-Gauss channels, with 95 % intervals. bias_hu:
    mean of result - truth, by material.
    """

    noise_hu: float
    nps_per_mm: list[float]
    nps: list[float]
    nps_mean_per_mm: float | None
    ttf: dict[str, dict | None]
    cnr: float | None
    d_prime: float | None
    auc: float | None
    bias_hu: dict[str, float]
    d_prime_interval: tuple[float, float] | None = None
    auc_interval: tuple[float, float] | None = None
    n_channels: int | None = None


def measure(phantom: QualityPhantom, denoise: Callable[[np.ndarray], np.ndarray]) -> Quality:
    """Denoise the phantom's images and measure; ``denoise``: (N, H, W) HU → the same."""
    present, absent = (np.asarray(denoise(stack), np.float64) for stack in phantom.images())
    noise = absent - absent.mean(axis=0)
    # The mean of n realisations takes its share of the noise away.
    noise *= (phantom.realisations / (phantom.realisations - 1)) ** 0.5
    squares = _squares(phantom, noise)
    try:
        spectrum = power_spectrum(squares, phantom.pixel_mm)
        frequencies, nps = spectrum.frequency_per_mm.tolist(), spectrum.nps.tolist()
        mean_frequency = spectrum.mean_per_mm
    except DataError:  # a denoiser that leaves no noise at all
        frequencies, nps, mean_frequency = [], [], None
    observed = _observe(phantom, present, absent)
    return Quality(
        noise_hu=float(squares.std()),
        nps_per_mm=frequencies,
        nps=nps,
        nps_mean_per_mm=mean_frequency,
        ttf={name: _ttf(phantom, absent, disc) for name, disc in TTF_DISCS.items()},
        cnr=_cnr(phantom, present),
        d_prime=None if observed is None else observed.d_prime,
        auc=None if observed is None else observed.auc,
        bias_hu=_bias(phantom, absent),
        d_prime_interval=None if observed is None else observed.d_prime_interval,
        auc_interval=None if observed is None else observed.auc_interval,
        n_channels=None if observed is None else observed.n_channels,
    )


def _squares(phantom: QualityPhantom, stack: np.ndarray) -> np.ndarray:
    """(R, n, n): three flat squares of every image of ``stack``."""
    n = int(0.2 * phantom.size)
    found = []
    for column in (-0.22, 0.0, 0.22):
        top, left = (round(v - n / 2) for v in phantom.place(0.1, column))
        found.append(stack[:, top : top + n, left : left + n])
    return np.concatenate(found)


def _ttf(phantom: QualityPhantom, absent: np.ndarray, disc: str) -> dict | None:
    _, row, column = DISCS[disc]
    try:
        found = disc_transfer(
            absent, phantom.place(row, column), phantom.disc_radius, phantom.pixel_mm
        )
    except DataError:
        return None
    # A fifth of the points is enough for a curve on a page.
    return {
        "per_mm": found.frequency_per_mm[::5].tolist(),
        "ttf": found.ttf[::5].tolist(),
        "f50_per_mm": found.f50_per_mm,
        "contrast_hu": found.contrast_hu,
    }


def _away(phantom: QualityPhantom, centre: tuple[float, float]) -> np.ndarray:
    """Distance of every pixel from ``centre``, pixels."""
    y, x = np.ogrid[: phantom.size, : phantom.size]
    return np.hypot(y - centre[0], x - centre[1])


def _cnr(phantom: QualityPhantom, present: np.ndarray) -> float | None:
    values = []
    for centre in phantom.lesions:
        away = _away(phantom, centre) / phantom.lesion_radius
        inside, around = away <= 0.8, (away >= 1.5) & (away <= 2.5)
        for image in present:
            try:
                signed = np.sign(image[inside].mean() - image[around].mean())
                values.append(signed * cnr(image[inside], image[around]))
            except DataError:
                return None
    return float(np.mean(values))


def _observe(phantom: QualityPhantom, present: np.ndarray, absent: np.ndarray):
    half = int(0.05 * phantom.size)

    def regions(stack):
        found = []
        for centre in phantom.lesions:
            top, left = (round(v) - half for v in centre)
            found.append(stack[:, top : top + 2 * half + 1, left : left + 2 * half + 1])
        return np.concatenate(found)

    try:
        return detect(regions(present), regions(absent), diameter=2 * phantom.lesion_radius)
    except DataError:
        return None


def _bias(phantom: QualityPhantom, absent: np.ndarray) -> dict[str, float]:
    """Mean of result - truth in the inner parts of the materials."""
    mean = absent.mean(axis=0)
    found = {"soft tissue": float(_squares(phantom, absent).mean() - BODY_HU)}
    for name, (hu, row, column) in DISCS.items():
        inner = _away(phantom, phantom.place(row, column)) <= 0.7 * phantom.disc_radius
        found[name] = float(mean[inner].mean() - hu)
    return found
