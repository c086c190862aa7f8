"""The noise that a series has of its own: how strong it is where, and its spectrum.

Low doses are simulated in proportion to it. In a body it is stronger at the centre than at the
edge; by how much follows from the projections, but bow-tie filters, tube-current modulation and
iterative reconstruction flatten it. So the variance that the projections give is raised to a
power, one within slices and one between them, and level and powers are fitted to flat tissue.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.ct.add_noise_to_projections import Scan
from ldct_jax.ct.fbp import SMOOTH, Kernel
from ldct_jax.ct.no_data import filled, no_data
from ldct_jax.ct.variance import RaySums, ray_sums, scan_variance
from ldct_jax.data.noise_estimate import flat_tissue, spread_slices

ONE_PHOTON = Scan(n0=1.0)
INDEPENDENT_MM2 = 4.0
"""Area of tissue that gives one independent value of the variance, for a smooth kernel."""
MAX_POWER = 1.25
BODY_HU = -300.0
NEAR_WHOLE = 16.0
"""Powers lie about 1/4 around 0 or 1, as far as tissue doesn't tell otherwise."""
STEPS = 12


@dataclasses.dataclass(frozen=True)
class OwnNoise:
    """Own noise of a series: variance = e^``level`` (v/m)^``within`` (m/M)^``between``.

    v: what one photon a ray gives in a pixel, HU² (:func:`ldct_jax.ct.variance.scan_variance`);
    m: its geometric mean over the slice's body; M = e^``middle``: that over the series.

    Args:
      sd_hu: in flat soft tissue, HU.
      kernel: whose noise it resembles.
      within, between: 0 for noise of one SD, 1 for a scan of equal rays.
    """

    sd_hu: float
    kernel: Kernel
    level: float
    within: float
    between: float
    middle: float

    def variance(self, hu: np.ndarray, rays: RaySums) -> np.ndarray:
        """Of the slice ``hu`` (H, W), (H, W) HU²."""
        one = np.log(scan_variance(rays, ONE_PHOTON))
        mean = _body_mean(hu, one)
        return np.exp(self.level + self.within * (one - mean) + self.between * (mean - self.middle))

    def photons(self) -> float:
        """Photons a ray with which quanta alone make this noise in the middle of the series."""
        return float(np.exp(self.middle - self.level))

    def record(self) -> dict:
        """For JSON."""
        return {
            "sd_hu": round(self.sd_hu, 3),
            "kernel": dataclasses.asdict(self.kernel),
            "within": round(self.within, 3),
            "between": round(self.between, 3),
        }


def measure_own_noise(hu: np.ndarray, pixel_mm: float) -> OwnNoise | None:
    """The noise of a series (N, H, W) HU; None where there is too little flat soft tissue.

    Up to twelve slices, evenly spread, are looked at. The fit is a regression of the windows'
    variances with a logarithmic link; where little tissue tells the powers, they stay near 0 or 1,
    whichever the data prefer.
    """
    hu = hu[spread_slices(len(hu))]
    hu = filled(hu, no_data(hu))
    tissue = flat_tissue(hu, pixel_mm)
    if tissue.sd_hu is None or not tissue.sd_hu > 0:
        return None
    rays = [ray_sums(image, scan=ONE_PHOTON, pixel_mm=pixel_mm) for image in hu]
    maps = [np.log(scan_variance(one, ONE_PHOTON)) for one in rays]
    means = np.array([_body_mean(image, one) for image, one in zip(hu, maps, strict=True)])
    middle = float(means.mean())
    at = [np.flatnonzero(flat)[::3] for flat in tissue.flat]
    inside = np.concatenate([m.ravel()[i] - c for m, i, c in zip(maps, at, means, strict=True)])
    across = np.repeat(means - middle, [len(i) for i in at])
    variance = np.concatenate(
        [v.ravel()[i] for v, i in zip(tissue.variance, at, strict=True)]
    ).astype(np.float64)
    weight = 3 * pixel_mm**2 / (2 * INDEPENDENT_MM2)
    design = np.stack([np.ones_like(inside), inside, across], axis=1)
    prior, trust = np.array([0.0, 1.0, 1.0]), np.diag([0.0, 1.0, 1.0])
    fitted = np.array([np.log(variance.mean()), 1.0, 1.0])
    for step in range(STEPS):
        if step == STEPS // 2:
            prior, trust = np.rint(fitted.clip(0.0, 1.0)), NEAR_WHOLE * trust
        expected = np.exp(design @ fitted)
        # Vessels and edges that passed as flat.
        usual = (variance < 3 * expected)[:, None] * design
        slope = usual.T @ (variance / expected - 1) * weight + trust @ (prior - fitted)
        fitted = fitted + np.linalg.solve(usual.T @ design * weight + trust, slope)
        fitted[1:] = np.clip(fitted[1:], 0.0, MAX_POWER)
    # With the powers as they are, the level is that of the flat tissue.
    shape = np.exp(design[:, 1:] @ fitted[1:])
    level = float(np.log(variance.mean() / shape.mean()))
    return OwnNoise(
        tissue.sd_hu, tissue.kernel or SMOOTH, level, float(fitted[1]), float(fitted[2]), middle
    )


def _body_mean(hu: np.ndarray, values: np.ndarray) -> float:
    body = hu > BODY_HU
    return float(values[body].mean() if body.any() else values.mean())
