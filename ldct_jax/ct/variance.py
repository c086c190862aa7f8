"""How the noise of projections spreads over the slice: its variance in every pixel, without noise.

Filtered back-projection is linear, and the noise of different rays is independent: a pixel's
variance is the sum over views of the ray's variance times the square of its weight. It changes
slowly over a slice, so a coarse grid and few views are enough.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from ldct_jax.ct.add_noise_to_projections import (
    MIN_PHOTONS,
    MU_WATER,
    Scan,
    line_integrals,
    noise_sd,
)
from ldct_jax.ct.fbp import filter_energy
from ldct_jax.ct.geometry import FanBeam

GRID = 96  # pixels along the slice's longer side
VIEWS = 90
JOINED_CHANNELS = 4
NODES = 32  # of the quadrature over a ray's noise


@dataclasses.dataclass(frozen=True)
class RaySums:
    """Line integrals of one slice (H, W) on a coarse geometry; from :func:`ray_sums`."""

    p: np.ndarray
    geometry: FanBeam
    shape: tuple[int, int]
    pixel_mm: float
    joined: int


def ray_sums(hu, *, scan: Scan, pixel_mm: float) -> RaySums:
    """What all variance maps of the slice ``hu`` (H, W) start from."""
    g = scan.geometry
    coarse = dataclasses.replace(
        g,
        n_detectors=g.n_detectors // JOINED_CHANNELS,
        detector_mm=g.detector_mm * JOINED_CHANNELS,
        detector_offset=g.detector_offset / JOINED_CHANNELS,
        n_views=min(g.n_views, VIEWS),
    )
    joined = max(1, round(max(hu.shape) / GRID))
    padding = [(0, -side % joined) for side in hu.shape]
    padded = np.pad(np.asarray(hu, np.float32), padding, constant_values=-1000.0)
    rows, columns = (side // joined for side in padded.shape)
    small = padded.reshape(rows, joined, columns, joined).mean((1, 3))
    p = np.asarray(line_integrals(small, coarse, pixel_mm * joined))
    return RaySums(p, coarse, hu.shape, pixel_mm, joined)


def scan_variance(rays: RaySums, scan: Scan) -> np.ndarray:
    """Variance of a whole scan's quantum noise at normal dose, (H, W) HU²."""
    return _spread(np.exp(rays.p) / scan.n0, rays, scan)


def added_variance(rays: RaySums, scan: Scan, dose: float) -> np.ndarray:
    """The variance, (H, W) HU², that is added by
    :func:`ldct_jax.ct.add_noise_to_projections.insert_projection_domain`."""
    sd = np.asarray(noise_sd(rays.p, dose, scan.n0, scan.electronic_variance), np.float64)
    floor = np.minimum(MIN_PHOTONS / (dose * scan.n0) * np.exp(rays.p), 1.0)
    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    weight = weight / weight.sum()
    noise = -np.log(np.maximum(1 - z * sd[..., None], floor[..., None]))
    mean = noise @ weight
    return _spread((noise * noise) @ weight - mean * mean, rays, scan)


def _spread(ray_variance: np.ndarray, rays: RaySums, scan: Scan) -> np.ndarray:
    """Variance of the image from that of the line integrals (V, D)."""
    g, joined = rays.geometry, rays.joined
    height, width = (-(-side // joined) for side in rays.shape)
    # The image's own middle lies off the padded one's by half the padding.
    x = (np.arange(width) * joined + (joined - rays.shape[1]) / 2) * rays.pixel_mm
    y = ((rays.shape[0] - joined) / 2 - np.arange(height) * joined) * rays.pixel_mm
    gamma = g.fan_angles
    places = np.arange(len(gamma))
    total = np.zeros((height, width))
    for view, row in zip(g.views, ray_variance * np.cos(gamma) ** 2, strict=True):
        across = x * np.cos(view) + y[:, None] * np.sin(view)
        depth = g.source_centre_mm - (y[:, None] * np.cos(view) - x * np.sin(view))
        place = (np.arctan2(across, depth) - gamma[0]) / (gamma[1] - gamma[0])
        total += np.interp(place, places, row) / (across**2 + depth**2) ** 2
    scale = filter_energy(scan.geometry, scan.kernel)
    scale *= (g.source_centre_mm * 1000 / MU_WATER) ** 2
    full_views = scan.geometry.n_views
    coarse = total / len(g.views) * scale * (2 * np.pi) ** 2 / full_views
    fine = ndimage.zoom(coarse, joined, order=1, mode="nearest", grid_mode=True)
    return fine[: rays.shape[0], : rays.shape[1]]
