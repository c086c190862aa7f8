"""Bodies of water for the tests of noise."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.ct.add_noise_to_projections import MU_WATER, Scan, line_integrals
from ldct_jax.ct.fbp import filtered_back_projection


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Parallel rays on 180°, which scikit-image's transforms have: the projector takes any rays."""

    n_detectors: int
    detector_mm: float
    n_views: int

    @property
    def views(self) -> np.ndarray:
        return np.arange(self.n_views) * np.pi / self.n_views

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.n_views, self.n_detectors)
        s = (np.arange(self.n_detectors) - (self.n_detectors - 1) / 2) * self.detector_mm
        return np.broadcast_to(self.views[:, None], shape), np.broadcast_to(s, shape)


def reconstruct_scan(hu: np.ndarray, *, scan: Scan, pixel_mm: float) -> np.ndarray:
    """A scan of (N, H, W) HU without noise, the mean of ``simulate_scan``: the same shape, HU."""
    sinograms = line_integrals(hu, scan.geometry, pixel_mm)
    how = {"size": hu.shape[1:], "pixel_mm": pixel_mm, "kernel": scan.kernel}
    return (
        np.asarray(filtered_back_projection(sinograms, scan.geometry, **how)) / MU_WATER - 1
    ) * 1000


def water(size: int, pixel_mm: float, half_axes_mm, bones=()) -> np.ndarray:
    """A water ellipse in air, (size, size) HU; ``bones``: (x, y, radius) mm of 900 HU discs."""
    axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
    x, y = axis[None, :], axis[:, None]

    def share(distance_mm):
        return np.clip(0.5 - distance_mm / pixel_mm, 0, 1)

    a, b = half_axes_mm
    rho = np.hypot(x / a, y / b) + 1e-9
    hu = -1000 + 1000 * share((rho - 1) / np.hypot(x / a**2, y / b**2).clip(1e-6) * rho)
    for bx, by, radius in bones:
        hu += (900 - hu) * share(np.hypot(x - bx, y - by) - radius)
    return hu.astype(np.float32)
