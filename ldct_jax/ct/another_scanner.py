"""Slices as another scanner would reconstruct them: another kernel, another pixel grid.

For testing a trained network on images of a kind it never saw (hrnet, 2.2.2 and Fig 7).
"""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.add_noise_to_projections import MU_WATER, line_integrals, noise_sd
from ldct_jax.ct.fbp import filtered_back_projection, named_kernel
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.errors import UsageError

# Only the noise's distribution over the rays depends on these: its strength is set by the caller.
DOSE, PHOTONS = 0.25, 1e5


def reconstruct_elsewhere(
    hu: np.ndarray,
    *,
    pixel_mm: float,
    to_pixel_mm: float,
    kernel: str,
    added_sd_hu: float,
    seed: int,
    geometry: FanBeam | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(low dose, the same without added noise) of a slice (H, W) HU, both (H, W) float32 HU.

    Args:
      to_pixel_mm, kernel: of the new images; their matrix stays.
      added_sd_hu: SD of the low dose's noise inside the body (above -500 HU).
    """
    if not added_sd_hu > 0:
        raise UsageError(f"added_sd_hu={added_sd_hu}: a positive noise level in HU")
    geometry = geometry or FanBeam()
    projections = line_integrals(hu, geometry, pixel_mm)
    sd = noise_sd(projections, DOSE, PHOTONS, 0.0)
    noise = np.random.default_rng(seed).standard_normal(sd.shape).astype(np.float32) * sd
    clean, added = (
        1000
        / MU_WATER
        * np.asarray(
            filtered_back_projection(
                sinogram, geometry, size=hu.shape, pixel_mm=to_pixel_mm, kernel=named_kernel(kernel)
            )
        )
        for sinogram in (projections, noise)
    )
    clean = clean - 1000
    body = clean > -500
    if not body.any():
        raise UsageError("the slice shows no body to project")
    return clean + added_sd_hu / float(added[body].std()) * added, clean
