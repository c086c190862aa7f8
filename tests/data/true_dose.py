"""Scans whose truth is known, and the dose that a simulated low dose really is."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.ct.add_noise_to_projections import Scan, simulate_scan
from ldct_jax.ct.fbp import SMOOTH, Kernel
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.ct.variance import ray_sums, scan_variance
from tests.ct.bodies import reconstruct_scan

TISSUES = ("liver", "spleen", "muscle")
N0 = 4e5
KINDS = ("stationary", "scan")
STATIONARY_HU = 14.0


@dataclasses.dataclass(frozen=True)
class Known:
    """A normal dose (N, H, W) int16 HU, the image without noise, and masks of tissues."""

    kind: str
    full_hu: np.ndarray
    clean_hu: np.ndarray
    masks: dict[str, np.ndarray]
    pixel_mm: float

    def take(self, index: slice) -> Known:
        """Some of the slices."""
        return dataclasses.replace(
            self,
            full_hu=self.full_hu[index],
            clean_hu=self.clean_hu[index],
            masks={name: at[index] for name, at in self.masks.items()},
        )

    def effective_dose(self, low_hu: np.ndarray) -> dict[str, float]:
        """Variance of the normal dose's noise by that of ``low_hu``, by tissue."""
        own, low = (hu.astype(np.float64) - self.clean_hu for hu in (self.full_hu, low_hu))
        return {name: float(own[at].var() / low[at].var()) for name, at in self.masks.items()}


def known(kind: str, *, size: int, n: int, quick: bool = True, kernel: Kernel = SMOOTH) -> Known:
    """An abdomen with noise of one SD (``stationary``) or that of a ``scan``.

    ``quick``: the scan's noise is shaped noise with the variance that the scan's would have, which
    takes no reconstruction.
    """
    pixel_mm = 379.0 / size
    patient = random_patient(
        13, region="abdomen", n_slices=n, size=size, pixel_mm=pixel_mm, slice_mm=6
    )
    clean, scan = patient.hu, Scan(n0=N0, kernel=kernel)
    noise = sample_noise(clean.shape, 1.0, pixel_mm, 5, kernel=kernel)
    if kind == "stationary":
        full = clean + STATIONARY_HU * noise
    elif quick:
        rays = [ray_sums(image, scan=scan, pixel_mm=pixel_mm) for image in clean]
        full = clean + noise * np.sqrt([scan_variance(one, scan) for one in rays])
    else:
        clean = reconstruct_scan(patient.hu, scan=scan, pixel_mm=pixel_mm)
        full = simulate_scan(patient.hu, seed=3, dose=1.0, scan=scan, pixel_mm=pixel_mm)
    return Known(
        kind,
        np.rint(np.clip(full, -1024, 3071)).astype(np.int16),
        clean.astype(np.float64),
        {name: patient.mask(name) for name in TISSUES if patient.mask(name).sum() > 3000},
        pixel_mm,
    )
