"""How low-dose partners of normal-dose slices are simulated: a small recorded spec."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from ldct_jax.data.flat_noise import flat_region
from ldct_jax.errors import DataError, UsageError
from ldct_jax.record import to_record

DOMAINS = ("image", "projection")
SIMULATION_VERSION = 1
"""Part of the key of cached simulations: raise it when the same spec gives other pixels."""
SLICES_A_CALL = {"image": 8, "projection": 4}
"""Slices whose noise is made in one call; bounds memory."""
LEAST_NOISE_HU = 0.5
"""Less is rounding to whole HU, or a phantom without noise."""
CALIBRATION_SLICES = 3
FIRST_N0 = 1e5
"""Where the search for the photon number starts."""


@dataclasses.dataclass(frozen=True)
class LowDose:
    """Noise insertion for pairs (data.md, "Low-dose simulation").

    Args:
      fraction: low dose as a fraction of the normal dose, in (0, 1).
      domain: ``projection`` (noise of the line integrals, reconstructed and added: more of it in
        thick patients, and streaks) or ``image`` (dncnn_dose: shaped noise of one SD a series).
      added_sd_hu: SD of the added noise in flat soft tissue, HU. None for physics:
        sqrt(1/fraction - 1) times the noise that the series itself has there.
      n0: photons a ray at normal dose (projection domain). None calibrates them for each series,
        so that the added noise has the SD above.
      kernel: reconstructs the added noise in the projection domain (ldct_jax.ct.fbp).
      seed: of the noise. The same pixels and seed give the same low dose.
    """

    fraction: float = 0.25
    domain: str = "projection"
    added_sd_hu: float | None = None
    n0: float | None = None
    kernel: str = "smooth"
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

    def sd_hu(self, own_noise_hu: float | None) -> float:
        """The SD that is added to a series with noise ``own_noise_hu`` (unless ``n0`` sets it)."""
        if self.added_sd_hu is not None:
            return self.added_sd_hu
        if own_noise_hu is None or own_noise_hu < LEAST_NOISE_HU:
            what = "no" if own_noise_hu is None else f"only {own_noise_hu:.2g} HU of"
            raise DataError(
                f"the series shows {what} noise in flat soft tissue to derive its low dose from; "
                "say how much noise to add (added_sd_hu)"
            )
        return own_noise_hu * (1 / self.fraction - 1) ** 0.5

    def describe(self) -> str:
        """In words, for reports."""
        how = f"{self.fraction:.0%} dose simulated in the {self.domain} domain"
        if self.n0 is not None:
            return f"{how}, {self.n0:.3g} photons a ray at normal dose"
        if self.added_sd_hu is not None:
            return f"{how}, {self.added_sd_hu:g} HU of noise added"
        return f"{how} from each series' own noise"


def simulate(
    full_hu: np.ndarray,
    low: LowDose,
    *,
    own_noise_hu: float | None,
    pixel_mm: float,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, dict]:
    """The low-dose partner of one series.

    The noise depends on (``low.seed``, the pixels), not on names or order, so that the same
    series gets the same low dose in every store.

    Args:
      full_hu: (N, H, W) int16, HU.
      own_noise_hu: its noise in flat tissue (ldct_jax.data.flat_noise).
      advance: called with the number of slices that were made.

    Returns:
      (N, H, W) int16 HU, not below -1024; and a record of how it was made, for JSON.
    """
    digest = hashlib.sha256(np.ascontiguousarray(full_hu).tobytes()).digest()
    words = [low.seed, *np.frombuffer(digest, "<u4").tolist()]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)
    insert, record = _insertion(full_hu, low, own_noise_hu, pixel_mm, seed)
    out = np.empty(full_hu.shape, np.int16)
    n = SLICES_A_CALL[low.domain]
    for start in range(0, len(full_hu), n):
        chunk = full_hu[start : start + n]
        # Every call has the same shape, so that one compiled program serves them all.
        short = min(n, len(full_hu)) - len(chunk)
        filled = np.concatenate([chunk, chunk[-1:].repeat(short, axis=0)]) if short else chunk
        noisy = np.asarray(insert(filled.astype(np.float32), start))[: len(chunk)]
        if not np.isfinite(noisy).all():
            raise DataError("the simulated low dose is not finite: are the HU beyond all bounds?")
        # As scanners do: nothing is stored below -1024 HU.
        out[start : start + len(chunk)] = np.clip(np.rint(noisy), -1024, 32767)
        advance(len(chunk))
    return out, {"spec": to_record(low), **record}


def _insertion(full_hu, low: LowDose, own_noise_hu: float | None, pixel_mm: float, seed: int):
    """(function of (slices, index of the first) → low-dose slices, record)."""
    if low.domain == "image":
        from ldct_jax.ct.dose import insert_image_domain

        added = low.sd_hu(own_noise_hu)

        def image(hu, first):
            return insert_image_domain(
                hu, seed=seed, added_sd_hu=added, pixel_mm=pixel_mm, first_slice=first
            )

        return image, {"added_sd_hu": round(added, 4)}

    from ldct_jax.ct.insertion import Scan, insert_projection_domain

    scan = Scan(n0=low.n0 or FIRST_N0, kernel=low.kernel)
    how = "given"
    if low.n0 is None:
        scan, how = calibrated(full_hu, low, own_noise_hu, pixel_mm, seed)

    def projection(hu, first):
        return insert_projection_domain(
            hu, seed=seed, dose=low.fraction, scan=scan, pixel_mm=pixel_mm, first_slice=first
        )

    return projection, {
        "scan": scan.record(dose=low.fraction, seed=seed),
        "n0_from": how,
    }


def calibrated(full_hu, low: LowDose, own_noise_hu: float | None, pixel_mm: float, seed: int):
    """The scan whose photons add ``low.sd_hu`` in the flat tissue of a few slices.

    Returns (:class:`ldct_jax.ct.insertion.Scan`, how its N₀ was found, in words).
    """
    from ldct_jax.ct.calibration import n0_from_added_sd
    from ldct_jax.ct.insertion import Scan

    scan = Scan(n0=FIRST_N0, kernel=low.kernel)
    target = low.sd_hu(own_noise_hu)
    region = flat_region(full_hu, pixel_mm)
    # Spread over the slices with much flat tissue: a thick slice alone would stand for all.
    much = np.flatnonzero(region.sum((1, 2)) * 2 >= region.sum((1, 2)).max())
    spread = np.linspace(0, len(much) - 1, min(len(much), CALIBRATION_SLICES)).round().astype(int)
    chosen = much[np.unique(spread)]
    found = n0_from_added_sd(
        full_hu[chosen],
        region[chosen],
        target,
        dose=low.fraction,
        scan=scan,
        pixel_mm=pixel_mm,
        seed=seed,
    )
    own = "" if own_noise_hu is None else f"; own noise {own_noise_hu:.3g} HU"
    return dataclasses.replace(scan, n0=found.n0), f"{found.how}{own}"
