"""Bodies of water for the tests of noise."""

from __future__ import annotations

import numpy as np


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
