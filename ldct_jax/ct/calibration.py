"""N₀, the photons a ray, of a series: from its measured noise, from its tags, or for a level.

Only the noise says what a series has really got (tube-current modulation, kernel, iterative
reconstruction); tags say what the tube gave. :class:`Calibration` records which of them it was.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import optimize

from ldct_jax.ct.add_noise_to_projections import Scan
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.variance import added_variance, ray_sums
from ldct_jax.errors import DataError, UsageError

PHOTONS_PER_MM2_MAS = 1.0e6
"""Photons per mm² and mAs 1 m from the focus at 120 kVp behind the tube's own filters: the order
that published spectra give (1-2.5 million); known to a factor of about two."""
KVP_POWER = 2.5  # tube output rises with about this power of the voltage


@dataclasses.dataclass(frozen=True)
class Calibration:
    """``n0`` photons a ray, and ``how`` it was found, in words for a record."""

    n0: float
    how: str


LONGEST_TURN_S = 3.0  # no scanner takes longer for a rotation
USUAL_TURN_S = 0.8
N0_RANGE = (30.0, 1e10)


def rotation_mas(exposure_mas: float, tube_current_ma: float) -> tuple[float, str]:
    """mAs of one rotation from the tags Exposure and XRayTubeCurrent (NaN: absent), and how.

    Some scanners (GE) write the exposure of the whole scan: more than any rotation's at that
    current. Then, or without Exposure, a rotation of 0.8 s is assumed.
    """
    known = np.isfinite(exposure_mas) and exposure_mas > 0
    has_current = np.isfinite(tube_current_ma) and tube_current_ma > 0
    if known and not (has_current and exposure_mas > LONGEST_TURN_S * tube_current_ma):
        return float(exposure_mas), f"{exposure_mas:.0f} mAs"
    if has_current:
        mas = USUAL_TURN_S * tube_current_ma
        return mas, f"{tube_current_ma:.0f} mA for {USUAL_TURN_S:g} s (assumed)"
    raise DataError(
        "the tags hold neither exposure nor tube current: calibrate N0 on the measured noise"
    )


def n0_from_tags(*, mas: float, slice_mm: float, kvp: float = 120.0) -> Calibration:
    """N₀ from exposure (mAs per rotation), slice thickness at the centre (mm) and kVp.

    N₀ = 10⁶ /mm²/mAs · (kVp/120)^2.5 · mAs/views · channel area at the detector · (1 m/distance)².
    Neither modulation nor bow-tie is in the tags: this is right to a factor of two or so.
    """
    if not (mas > 0 and slice_mm > 0 and kvp > 0):
        raise UsageError(f"mas={mas}, slice_mm={slice_mm}, kvp={kvp}: all must be positive")
    g = FanBeam()
    height = slice_mm * g.source_detector_mm / g.source_centre_mm
    output = PHOTONS_PER_MM2_MAS * (kvp / 120.0) ** KVP_POWER
    n0 = output * mas / g.n_views * g.detector_mm * height * (1000 / g.source_detector_mm) ** 2
    return Calibration(n0, f"tags: {mas:g} mAs, {slice_mm:g} mm, {kvp:g} kVp")


def n0_from_added_sd(
    full_hu, region, target_sd_hu: float, *, dose: float, scan: Scan, pixel_mm: float
) -> Calibration:
    """The N₀ at which ``dose`` adds ``target_sd_hu`` inside ``region``.

    ``full_hu`` (N, H, W) HU, ``region`` (N, H, W) bool: the variance is averaged over the region.
    It is computed (:func:`ldct_jax.ct.variance.added_variance`), not drawn.
    """
    region = np.asarray(region, bool)
    if region.sum() < 200:
        raise DataError(
            f"{region.sum()} pixels are too few to calibrate N0 on; choose slices with more flat "
            "soft tissue, or give n0"
        )
    if not target_sd_hu > 0 or not 0 < dose < 1:
        raise UsageError(
            f"target_sd_hu={target_sd_hu}, dose={dose}: a positive SD and a dose in (0, 1)"
        )
    inside = [(hu, where) for hu, where in zip(full_hu, region, strict=True) if where.any()]
    rays = [ray_sums(hu, scan=scan, pixel_mm=pixel_mm) for hu, _ in inside]

    def excess(log_n0: float) -> float:
        lit = dataclasses.replace(scan, n0=float(np.exp(log_n0)))
        found = [
            added_variance(one, lit, dose)[where]
            for one, (_, where) in zip(rays, inside, strict=True)
        ]
        return 0.5 * float(np.log(np.concatenate(found).mean())) - float(np.log(target_sd_hu))

    lowest, highest = (float(np.log(n0)) for n0 in N0_RANGE)
    if excess(lowest) < 0 or excess(highest) > 0:
        raise DataError(
            f"no number of photons adds {target_sd_hu:.3g} HU at a dose of {dose:g}: choose "
            "another noise level"
        )
    n0 = float(np.exp(optimize.brentq(excess, lowest, highest, xtol=1e-3)))
    return Calibration(n0, f"set so that dose {dose:g} adds {target_sd_hu:.3g} HU")
