"""Low-contrast detectability against dose, on a phantom like MITA's.

Inserts of 3 to 10 mm at 14 to 3 HU in a uniform disc, hundreds of noise realisations with and
without them at several doses. PSNR rises with every denoiser; whether lesions are told better from
noise is another question, which d′ and AUC answer, and *dose at equal d′* puts into dose.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ldct_jax.ct.add_noise_to_images import noise_ratio, sample_noise
from ldct_jax.ct.fbp import SMOOTH, Kernel
from ldct_jax.errors import UsageError
from ldct_jax.metrics.observers import Detectability, detect

INSERTS = ((3.0, 14.0), (5.0, 7.0), (7.0, 5.0), (10.0, 3.0))
"""Diameter in mm and contrast in HU, as in the MITA CT IQ low-contrast phantom."""
BACKGROUND_HU = 50.0
FINER = 4  # samples a pixel's side, for partial volume at the edges


@dataclasses.dataclass(frozen=True)
class LowContrastPhantom:
    """Four inserts around the middle of a disc in air.

    Args:
      full_sd_hu: SD of the noise at normal dose, HU; it grows as 1/sqrt(dose).
      pixel_mm: side of a pixel; images have 112 x 112 mm.
      kernel: of the noise's spectrum.
      realisations: images with the inserts at each dose, and as many without.
      seed: of the noise; every dose has noise of its own.
    """

    full_sd_hu: float = 12.0
    pixel_mm: float = 0.7
    kernel: Kernel = SMOOTH
    realisations: int = 200
    seed: int = 0

    def __post_init__(self):
        if not (self.full_sd_hu > 0 and 0.3 <= self.pixel_mm <= 1.5) or self.realisations < 10:
            raise UsageError(
                f"full_sd_hu={self.full_sd_hu}, pixel_mm={self.pixel_mm}, realisations="
                f"{self.realisations}: noise above 0, pixels of 0.3 to 1.5 mm, at least 10 images"
            )

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return 2 * round(56 / self.pixel_mm)

    def centre(self, insert: int) -> tuple[int, int]:
        """(row, column) of the middle pixel of an insert."""
        away = round(22 / self.pixel_mm)
        row, column = ((-1, 0), (0, 1), (1, 0), (0, -1))[insert]
        return self.size // 2 + row * away, self.size // 2 + column * away

    def truth(self, *, inserts: bool) -> np.ndarray:
        """The noise-free image, (size, size) float32 HU, edges with partial volume."""
        fine = (np.arange(self.size * FINER) + 0.5) / FINER - 0.5

        def inside(centre, radius_mm):
            across = (fine - centre[0])[:, None] ** 2 + (fine - centre[1]) ** 2
            return across * self.pixel_mm**2 <= radius_mm**2

        middle = (self.size - 1) / 2
        image = np.where(inside((middle, middle), 50.0), np.float32(BACKGROUND_HU), -1000)
        for i, (diameter_mm, contrast_hu) in enumerate(INSERTS if inserts else ()):
            image[inside(self.centre(i), diameter_mm / 2)] += contrast_hu
        n = self.size
        return image.reshape(n, FINER, n, FINER).mean((1, 3)).astype(np.float32)

    def images(self, dose: float) -> tuple[np.ndarray, np.ndarray]:
        """Images (present, absent) at ``dose``, each (realisations, size, size) float32 HU."""
        n = self.realisations
        noise = sample_noise(
            (2 * n, self.size, self.size),
            self.full_sd_hu * noise_ratio(dose),
            self.pixel_mm,
            int(np.random.SeedSequence([self.seed, round(1e6 * dose)]).generate_state(1)[0] >> 1),
            kernel=self.kernel,
        )
        present, absent = np.split(noise, 2)
        return present + self.truth(inserts=True), absent + self.truth(inserts=False)

    def region(self, images: np.ndarray, insert: int) -> np.ndarray:
        """Squares of 2 x 2 diameters and at least 12 mm around an insert, (N, S, S)."""
        half = round(max(INSERTS[insert][0], 6.0) / self.pixel_mm)
        row, column = self.centre(insert)
        return images[:, row - half : row + half + 1, column - half : column + half + 1]


def detectability(
    phantom: LowContrastPhantom,
    denoise: Callable[[np.ndarray], np.ndarray],
    doses: Sequence[float],
) -> dict[float, list[Detectability]]:
    """By dose, d′ and AUC of each of :data:`INSERTS` in denoised images.

    ``denoise``: (N, H, W) HU → the same; it sees all images of a dose as one series.
    """
    found = {}
    for dose in doses:
        both = np.concatenate(phantom.images(dose))
        present, absent = np.split(np.asarray(denoise(both), np.float64), 2)
        found[dose] = [
            detect(
                phantom.region(present, i),
                phantom.region(absent, i),
                diameter=diameter_mm / phantom.pixel_mm,
                seed=phantom.seed + i,
            )
            for i, (diameter_mm, _) in enumerate(INSERTS)
        ]
    return found


def dose_at_equal_d_prime(d_primes: Mapping[float, float], wanted: float) -> float | None:
    """The dose at which a curve of d′ (by dose) reaches ``wanted``; None outside its range.

    Interpolated linearly in log dose and log d′: without denoising d′ grows as the root of the
    dose. d′ must rise with the dose where it is crossed; what is not positive doesn't count.
    """
    points = sorted((dose, d) for dose, d in d_primes.items() if d > 0)
    for (dose, d), (next_dose, next_d) in itertools.pairwise(points):
        if d <= wanted <= next_d and next_d > d:
            part = np.log(wanted / d) / np.log(next_d / d)
            return float(dose * (next_dose / dose) ** part)
    return None
