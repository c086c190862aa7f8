"""How low-dose partners of normal-dose slices are simulated: a small recorded spec."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from ldct_jax.errors import DataError, UsageError

DOMAINS = ("image", "projection")
SIMULATION_VERSION = 1
"""Part of the key of cached simulations: raise it when the same spec gives other pixels."""
SLICES_A_CALL = 8
"""Slices whose noise is made in one call; bounds memory."""


@dataclasses.dataclass(frozen=True)
class LowDose:
    """Noise insertion for pairs (data.md, "Low-dose simulation").

    Args:
      fraction: low dose as a fraction of the normal dose, in (0, 1).
      domain: ``image`` (dncnn_dose: shaped noise of one SD a series) or ``projection`` (noise of
        the line integrals, reconstructed and added).
      added_sd_hu: SD of the added noise, HU (image domain). None for physics:
        sqrt(1/fraction - 1) times the noise that the series itself has in flat tissue.
      n0: photons a detector element at normal dose (projection domain). None calibrates them for
        each series from its noise in flat tissue.
      seed: of the noise. The same series and seed give the same low dose.
    """

    fraction: float = 0.25
    domain: str = "image"
    added_sd_hu: float | None = None
    n0: float | None = None
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.fraction < 1:
            raise UsageError(f"fraction={self.fraction}: the low dose lies between 0 and 1")
        if self.domain not in DOMAINS:
            raise UsageError(f"domain={self.domain!r}: use one of {', '.join(DOMAINS)}")
        if self.added_sd_hu is not None and not self.added_sd_hu > 0:
            raise UsageError(f"added_sd_hu={self.added_sd_hu}: a positive number of HU, or none")

    def sd_hu(self, own_noise_hu: float | None) -> float:
        """The SD that image-domain insertion adds to a series with noise ``own_noise_hu``."""
        if self.added_sd_hu is not None:
            return self.added_sd_hu
        if own_noise_hu is None:
            raise DataError(
                "the series has too little flat soft tissue to measure its noise; say how much "
                "noise to add (added_sd_hu)"
            )
        return own_noise_hu * (1 / self.fraction - 1) ** 0.5

    def describe(self) -> str:
        """In words, for reports."""
        how = f"{self.fraction:.0%} dose simulated in the {self.domain} domain"
        if self.domain == "image" and self.added_sd_hu is not None:
            return f"{how}, {self.added_sd_hu:g} HU of noise added"
        return f"{how} from each series' own noise"


def simulate(
    full_hu: np.ndarray, low: LowDose, *, own_noise_hu: float | None, pixel_mm: float
) -> np.ndarray:
    """The low-dose partner of one series, (N, H, W) int16 → (N, H, W) int16, HU.

    The noise depends on (``low.seed``, the pixels), not on names or order, so that the same
    series gets the same low dose in every store.
    """
    digest = hashlib.sha256(np.ascontiguousarray(full_hu).tobytes()).digest()
    words = [low.seed, *np.frombuffer(digest, "<u4").tolist()]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)
    insert = _insertion(low, own_noise_hu, pixel_mm)
    out = np.empty(full_hu.shape, np.int16)
    for start in range(0, len(full_hu), SLICES_A_CALL):
        chunk = full_hu[start : start + SLICES_A_CALL]
        # Every call has the same shape, so that one compiled program serves them all.
        short = min(SLICES_A_CALL, len(full_hu)) - len(chunk)
        filled = np.concatenate([chunk, chunk[-1:].repeat(short, axis=0)]) if short else chunk
        noisy = np.asarray(insert(filled.astype(np.float32), seed, start))[: len(chunk)]
        if not np.isfinite(noisy).all():
            raise DataError("the simulated low dose is not finite: are the HU beyond all bounds?")
        # As scanners do: nothing is stored below -1024 HU.
        out[start : start + len(chunk)] = np.clip(np.rint(noisy), -1024, 32767)
    return out


def _insertion(low: LowDose, own_noise_hu: float | None, pixel_mm: float):
    if low.domain == "image":
        from ldct_jax.ct.dose import insert_image_domain

        added = low.sd_hu(own_noise_hu)
        return lambda hu, seed, first: insert_image_domain(
            hu, seed=seed, added_sd_hu=added, pixel_mm=pixel_mm, first_slice=first
        )
    raise UsageError("domain='projection' isn't available for DICOM yet; use domain='image'")
