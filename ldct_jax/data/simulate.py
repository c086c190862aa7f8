"""How low-dose partners of normal-dose slices are simulated: a small recorded spec."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.ct.add_noise_to_projections import Scan, insert_projection_domain
from ldct_jax.ct.calibration import n0_from_added_sd
from ldct_jax.ct.fbp import SMOOTH, Kernel, filter_energy, named_kernel
from ldct_jax.ct.no_data import AIR_HU, filled, no_data
from ldct_jax.ct.variance import added_variance, ray_sums
from ldct_jax.data.noise_estimate import flat_tissue, spread_slices
from ldct_jax.data.own_noise import ONE_PHOTON, OwnNoise, measure_own_noise
from ldct_jax.errors import DataError, UsageError
from ldct_jax.hu import whole_hu
from ldct_jax.record import to_record
from ldct_jax.system.files import json_sha256
from ldct_jax.system.names import percent

DOMAINS = ("image", "projection")
OWN = "own"
"""The kernel that the series' own noise shows."""
MTF = "mtf"
"""That kernel's MTF alone, without the ramp of filtered back projection (dncnn_dose)."""
SIMULATION_VERSIONS = {"image": 4, "projection": 3}
"""Part of the key of cached simulations: raise one when the same spec gives other pixels."""
SLICES_A_CALL = {"image": 8, "projection": 4}
"""Slices whose noise is made in one call; bounds memory."""
MIN_NOISE_HU = 0.5
"""Less is rounding to whole HU, or a phantom without noise."""
CALIBRATION_SLICES = 3
MAX_GAIN = 4.0
EVEN_PIXELS = 7
"""Squares of so many pixels a side that all have -1024 HU hold no data."""


@dataclasses.dataclass(frozen=True)
class LowDose:
    """Noise insertion for pairs.

    Args:
      fraction: low dose as a fraction of the normal dose, in (0, 1).
      domain: ``projection`` (noise of the line integrals, reconstructed and added: streaks, and
        more of it in thick patients) or ``image`` (dncnn_dose: shaped noise).
      added_sd_hu: SD of the added noise in flat soft tissue, HU. None for physics: everywhere
        sqrt(1/fraction - 1) times the noise that the series itself has there.
      n0: photons a ray at normal dose (projection domain), in place of the series' own noise.
      kernel: of the added noise: ``own`` for the spectrum of the series' own noise (``smooth``
        where it can't be measured), ``mtf`` for that kernel's plain MTF (image domain), or one of
        ldct_jax.ct.fbp by name.
      seed: of the noise. The same pixels, seed and dose give the same noise, and every dose,
        domain and kernel has noise of its own.
    """

    fraction: float = 0.25
    domain: str = "projection"
    added_sd_hu: float | None = None
    n0: float | None = None
    kernel: str = OWN
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.fraction < 1:
            raise UsageError(f"fraction={self.fraction}: the low dose lies between 0 and 1")
        if self.domain not in DOMAINS:
            raise UsageError(f"domain={self.domain!r}: use one of {', '.join(DOMAINS)}")
        for name in ("added_sd_hu", "n0"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise UsageError(f"{name}={value}: a positive number, or none")
        if self.n0 is not None and (self.domain == "image" or self.added_sd_hu is not None):
            raise UsageError(
                "n0 sets the noise of the projection domain alone, without added_sd_hu"
            )
        if self.seed < 0:
            raise UsageError(f"seed={self.seed}: 0 or a positive whole number")
        if self.kernel == MTF and self.domain != "image":
            raise UsageError("kernel=mtf shapes noise in the image domain: domain=image")
        if self.kernel not in (OWN, MTF):
            named_kernel(self.kernel)

    def describe(self) -> str:
        """One line for reports."""
        how = f"{percent(self.fraction)} dose simulated in the {self.domain} domain"
        if self.n0 is not None:
            return f"{how}, {self.n0:.3g} photons a ray at normal dose"
        if self.added_sd_hu is not None:
            return f"{how}, {self.added_sd_hu:g} HU of noise added"
        return f"{how} from each series' own noise"


def simulate(
    full_hu: np.ndarray,
    low: LowDose,
    *,
    pixel_mm: float,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, dict]:
    """The low-dose partner of one series.

    The noise depends on (``low``, the pixels), not on names or order, so that the same series gets
    the same low dose in every store. Pixels without data stay as they are.

    Args:
      full_hu: (N, H, W) int16, HU.
      advance: called with the number of slices that were made.

    Returns:
      (N, H, W) int16 HU, not below -1024 where there are data; and a record of how it was made,
      for JSON.
    """
    seed = noise_seed(full_hu, low.seed, to_record(low))
    # What stands for "no data" attenuates no ray.
    body = filled(full_hu, no_data(full_hu))
    own = None
    if low.n0 is None and low.added_sd_hu is None:
        own = required_noise(body, pixel_mm)
    kernel = _kernel(low.kernel, own, body, pixel_mm)
    if low.domain == "image":
        insert, record = _image_domain(low, own, kernel, pixel_mm, seed)
    else:
        insert, record = _projection_domain(body, low, own, kernel, pixel_mm, seed)
    record["own_noise"] = None if own is None else own.record()
    out = np.empty(full_hu.shape, np.int16)
    n = SLICES_A_CALL[low.domain]
    for start in range(0, len(full_hu), n):
        chunk = body[start : start + n]
        # Every call has the same shape, so that one compiled program serves them all.
        short = min(n, len(full_hu)) - len(chunk)
        whole = np.concatenate([chunk, chunk[-1:].repeat(short, axis=0)]) if short else chunk
        noisy = insert(whole.astype(np.float32), start)[: len(chunk)]
        out[start : start + len(chunk)] = stored(noisy, full_hu[start : start + n])
        advance(len(chunk))
    return out, {"spec": to_record(low), **record}


def noise_seed(full_hu: np.ndarray, seed: int, recipe: dict) -> int:
    """A seed that depends on ``seed``, the pixels and everything in ``recipe`` (for JSON)."""
    pixels = hashlib.sha256(np.ascontiguousarray(full_hu).tobytes()).digest()
    how = bytes.fromhex(json_sha256(recipe))
    entropy = [seed, *np.frombuffer(pixels + how, "<u4").tolist()]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def stored(noisy_hu: np.ndarray, full_hu: np.ndarray) -> np.ndarray:
    """Simulated slices (N, H, W) as scanners store them: int16, not below -1024, no noise without
    data."""
    if not np.isfinite(noisy_hu).all():
        raise DataError("the simulated low dose is not finite: are the HU beyond all bounds?")
    out = whole_hu(noisy_hu, AIR_HU)
    # Stores hold declared padding as air, wherever it lies: real air is never so even.
    even = ndimage.binary_opening(full_hu == AIR_HU, np.ones((1, EVEN_PIXELS, EVEN_PIXELS)))
    without = no_data(full_hu)
    return np.where(even if without is None else even | without, full_hu, out)


# -- in the image domain ---------------------------------------------------------------------------


def _image_domain(low: LowDose, own: OwnNoise | None, kernel: Kernel, pixel_mm: float, seed: int):
    """(function of (slices, index of the first) → low-dose slices, record)."""

    def insert(hu, first):
        unit = sample_noise(
            hu.shape,
            1.0,
            pixel_mm,
            seed,
            spectrum="mtf" if low.kernel == MTF else "sqrt_f_mtf",
            kernel=kernel,
            first_slice=first,
        )
        if own is None:
            return hu + np.float32(low.added_sd_hu) * unit
        variance = np.stack([own.variance(image, _rays(image, pixel_mm)) for image in hu])
        return hu + np.sqrt(variance * (1 / low.fraction - 1)).astype(np.float32) * unit

    added = low.added_sd_hu or own.sd_hu * (1 / low.fraction - 1) ** 0.5
    return insert, {"added_sd_hu": round(added, 4), "kernel": dataclasses.asdict(kernel)}


# -- in the projection domain ----------------------------------------------------------------------


def _projection_domain(full_hu, low: LowDose, own, kernel: Kernel, pixel_mm: float, seed: int):
    """(function of (slices, index of the first) → low-dose slices, record)."""
    if own is not None:
        scan, how = own_scan(own, kernel)
    elif low.n0 is not None:
        scan, how = Scan(n0=low.n0, kernel=kernel), "given"
    else:
        chosen = full_hu[spread_slices(len(full_hu), CALIBRATION_SLICES)]
        found = n0_from_added_sd(
            chosen,
            flat_tissue(chosen, pixel_mm).flat,
            low.added_sd_hu,
            dose=low.fraction,
            scan=Scan(n0=1.0, kernel=kernel),
            pixel_mm=pixel_mm,
        )
        scan, how = Scan(n0=found.n0, kernel=kernel), found.how

    def insert(hu, first):
        if own is not None:
            return add_in_proportion(
                hu, own, low.fraction, scan=scan, pixel_mm=pixel_mm, seed=seed, first_slice=first
            )
        return insert_projection_domain(
            hu, seed=seed, dose=low.fraction, scan=scan, pixel_mm=pixel_mm, first_slice=first
        )

    return insert, {"scan": scan.record(dose=low.fraction, seed=seed), "n0_from": how}


def own_scan(own: OwnNoise, kernel: Kernel | None = None) -> tuple[Scan, str]:
    """The scan whose quanta make a series' own noise, and how its photons were found, for a record.

    ``kernel``: another one than the series' own.
    """
    kernel = own.kernel if kernel is None else kernel
    # A sharper kernel makes more noise of the same photons.
    energy, ours = (filter_energy(ONE_PHOTON.geometry, k) for k in (kernel, ONE_PHOTON.kernel))
    n0 = own.photons() * energy / ours
    return Scan(n0=n0, kernel=kernel), f"measured noise of {own.sd_hu:.3g} HU in flat tissue"


def add_in_proportion(
    hu: np.ndarray,
    own: OwnNoise,
    dose: float,
    *,
    scan: Scan,
    pixel_mm: float,
    seed: int,
    first_slice: int = 0,
    times: float = 1.0,
) -> np.ndarray:
    """Slices (N, H, W) float32 HU at ``dose`` in (0, 1], by noise of the projections.

    The noise is scaled so that its variance is everywhere (1/dose - 1) times ``times`` the own
    noise's, which the projections alone don't know (:mod:`ldct_jax.data.own_noise`). ``times``:
    variance of ``hu`` to that of the series.
    """
    if dose == 1:
        return hu
    scan = dataclasses.replace(scan, n0=scan.n0 / times)
    low = insert_projection_domain(
        hu, seed=seed, dose=dose, scan=scan, pixel_mm=pixel_mm, first_slice=first_slice
    )
    gain = np.empty_like(hu)
    for i, image in enumerate(hu):
        rays = _rays(image, pixel_mm)
        wanted = times * (1 / dose - 1) * own.variance(image, rays)
        gain[i] = np.sqrt(wanted / added_variance(rays, scan, dose))
    return hu + np.clip(gain, 1 / MAX_GAIN, MAX_GAIN) * (low - hu)


def required_noise(full_hu: np.ndarray, pixel_mm: float) -> OwnNoise:
    """The own noise of a series (N, H, W) HU; DataError where it shows none."""
    own = measure_own_noise(full_hu, pixel_mm)
    if own is None or own.sd_hu < MIN_NOISE_HU:
        what = "no" if own is None else f"only {own.sd_hu:.2g} HU of"
        raise DataError(
            f"the series shows {what} noise in flat soft tissue to derive its low dose from; "
            "say how much noise to add (added_sd_hu)"
        )
    return own


def _kernel(name: str, own: OwnNoise | None, full_hu, pixel_mm: float) -> Kernel:
    if name not in (OWN, MTF):
        return named_kernel(name)
    if own is not None:
        return own.kernel
    tissue = flat_tissue(full_hu[spread_slices(len(full_hu), CALIBRATION_SLICES)], pixel_mm)
    noisy = tissue.sd_hu is not None and tissue.sd_hu >= MIN_NOISE_HU
    return tissue.kernel if noisy and tissue.kernel else SMOOTH


def _rays(image: np.ndarray, pixel_mm: float):
    return ray_sums(image, scan=ONE_PHOTON, pixel_mm=pixel_mm)
