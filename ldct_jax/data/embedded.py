"""The embedded data: random phantoms with simulated noise, for whoever has no patient data yet."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.progress import track


@dataclasses.dataclass(frozen=True)
class Phantoms:
    """Random patients and the noise of both doses.

    Args:
      patients, slices: how many patients, and slices of each.
      size: matrix size; with ``pixel_mm`` it should span about 380 mm.
      region: ``abdomen`` or ``thorax``.
      dose: the low dose as a fraction of the normal one.
      added_sd_hu: SD of the noise that the low dose adds, HU; 55-65 is what a quarter dose
        adds to 1 mm B30 slices of the Mayo data. The normal-dose image carries noise too:
        added / sqrt(1/dose - 1), as independent quanta demand.
    """

    patients: int = 7
    slices: int = 4
    size: int = 256
    pixel_mm: float = 1.48
    slice_mm: float = 5.0
    region: str = "abdomen"
    dose: float = 0.25
    added_sd_hu: float = 60.0
    seed: int = 2016

    @property
    def full_sd_hu(self) -> float:
        """SD of the normal-dose images' own noise, HU."""
        return self.added_sd_hu / (1 / self.dose - 1) ** 0.5


def phantom_pairs(spec: Phantoms) -> PairedSlices:
    """The pairs that ``spec`` describes; the same on every machine."""
    from ldct_jax.ct.dose import insert_image_domain, sample_noise
    from ldct_jax.ct.phantom import random_patient

    low, full, labels = [], [], []
    for i in track(range(spec.patients), "phantoms", "patients"):
        seed = spec.seed + i
        anatomy = random_patient(
            seed,
            region=spec.region,
            n_slices=spec.slices,
            size=spec.size,
            pixel_mm=spec.pixel_mm,
            slice_mm=spec.slice_mm,
        )
        normal = anatomy.hu + sample_noise(
            anatomy.hu.shape, spec.full_sd_hu, spec.pixel_mm, seed=2 * seed
        )
        reduced = insert_image_domain(
            normal, seed=2 * seed + 1, added_sd_hu=spec.added_sd_hu, pixel_mm=spec.pixel_mm
        )
        full.append(_int16(normal))
        low.append(_int16(reduced))
        labels += [f"phantom-{i + 1:02d}"] * spec.slices
    n = len(labels)
    return PairedSlices(
        low_hu=np.concatenate(low),
        full_hu=np.concatenate(full),
        patients=tuple(labels),
        pixel_mm=np.full(n, spec.pixel_mm),
        slice_mm=np.full(n, spec.slice_mm),
        source=(
            f"embedded data: {spec.patients} random {spec.region} phantoms (no patients), "
            f"{spec.slices} slices of {spec.size}x{spec.size} pixels ({spec.pixel_mm:g} mm) each; "
            f"normal dose with {spec.full_sd_hu:.0f} HU of noise, {spec.dose:.0%} dose simulated "
            f"in the image domain by adding {spec.added_sd_hu:.0f} HU"
        ),
        dose=spec.dose,
    )


def _int16(hu: np.ndarray) -> np.ndarray:
    """Rounded HU in the range that 12-bit CT with intercept -1024 can store."""
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
