"""The embedded data: random phantoms with simulated noise, for whoever has no patient data yet."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldct_jax.ct.add_noise_to_images import added_sd, sample_noise
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.data.acquisition import PHANTOMS, Acquisition
from ldct_jax.data.noise_estimate import flat_noise_hu
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.data.store import SeriesRecord, Store, rounded
from ldct_jax.data.store_writer import begin, finished, write_array
from ldct_jax.errors import UsageError
from ldct_jax.hu import whole_hu
from ldct_jax.system.names import percent
from ldct_jax.system.progress import track

PHANTOMS_VERSION = 3
"""Part of a written store's digest: raise it when the same phantoms would give another one."""
STORED_HU = (-1024, 3071)
"""What 12-bit CT with intercept -1024 can store."""
# Between the seeds of a patient's doses: more than there are patients.
SEEDS_A_DOSE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Phantoms:
    """Random patients and the noise of both doses.

    Args:
      patients, slices: how many patients, and slices of each.
      size: matrix size; with ``pixel_mm`` it should span about 380 mm.
      region: ``abdomen``, ``thorax``, or ``torso`` for both: the upper half of each patient's
        slices shows the thorax.
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

    def __post_init__(self):
        if self.patients < 1 or self.slices < 1:
            raise UsageError(f"patients={self.patients}, slices={self.slices}: at least one each")
        if not 0 < self.dose < 1:
            raise UsageError(
                f"dose={self.dose:g}: the low dose is a fraction of the normal dose, between 0 and "
                "1 (0.25 for 25 %); at 1 there is no noise to add"
            )
        if self.seed < 0:
            raise UsageError(f"seed={self.seed}: 0 or a positive whole number")

    @property
    def labels(self) -> tuple[str, ...]:
        """What the patients are called."""
        return tuple(f"phantom-{i + 1:02d}" for i in range(self.patients))

    @property
    def full_sd_hu(self) -> float:
        """SD of the normal-dose images' own noise, HU."""
        return self.added_sd_hu / (1 / self.dose - 1) ** 0.5


def phantom_pairs(
    spec: Phantoms,
    doses: Sequence[float] = (),
    rule: str = "physics",
    spectrum: str = "sqrt_f_mtf",
) -> PairedSlices:
    """The pairs that ``spec`` describes; the same on every machine.

    Args:
      doses: several low doses of every slice in place of the one of ``spec``; 1 is the normal
        dose itself. The normal dose and its noise stay those of ``spec``.
      rule: how the noise grows there, see :func:`ldct_jax.ct.add_noise_to_images.noise_ratio`.
      spectrum: shape of the added noise, see
        :func:`ldct_jax.ct.add_noise_to_images.noise_response`.
    """
    added = {spec.dose: spec.added_sd_hu}
    if doses:
        added = {dose: added_sd(dose, spec.full_sd_hu, rule) for dose in doses}
    low, full, labels = [], [], []
    for seed, label in track(enumerate(spec.labels, spec.seed), "phantoms", "patients"):
        anatomy = _anatomy(spec, seed)
        normal = anatomy + sample_noise(
            anatomy.shape, spec.full_sd_hu, spec.pixel_mm, seed=2 * seed
        )
        for k, sd_hu in enumerate(added.values()):
            # Every dose has noise of its own.
            noise_seed = 2 * (seed + k * SEEDS_A_DOSE) + 1
            added_hu = sample_noise(
                normal.shape, sd_hu, spec.pixel_mm, noise_seed, spectrum=spectrum
            )
            full.append(whole_hu(normal, *STORED_HU))
            low.append(whole_hu(normal + added_hu, *STORED_HU))
            labels += [label] * spec.slices
    n = len(labels)
    several = len(added) > 1
    simulated = f"{percent(spec.dose)} dose simulated in the image domain by adding "
    simulated += f"{spec.added_sd_hu:.0f} HU"
    if doses:
        simulated = dose_words(doses, rule, spectrum)
    return PairedSlices(
        low_hu=np.concatenate(low),
        full_hu=np.concatenate(full),
        patients=tuple(labels),
        pixel_mm=np.full(n, spec.pixel_mm),
        slice_mm=np.full(n, spec.slice_mm),
        source=(
            f"embedded data: {spec.patients} random {spec.region} phantoms (no patients), "
            f"{spec.slices} slices of {spec.size}x{spec.size} pixels ({spec.pixel_mm:g} mm) each; "
            f"normal dose with {spec.full_sd_hu:.0f} HU of noise, {simulated}"
        ),
        dose=None if several else next(iter(added)),
        doses=np.tile(np.repeat(list(added), spec.slices), spec.patients) if several else None,
        acquisition=Acquisition.uniform(
            n, kernel=PHANTOMS, field_of_view_mm=spec.size * spec.pixel_mm
        ),
    )


def write_phantoms(spec: Phantoms, out: Path) -> Store:
    """The embedded patients of ``spec`` as a paired store."""
    digest = hashlib.sha256(repr((PHANTOMS_VERSION, spec)).encode()).hexdigest()
    if done := finished(Path(out), digest):
        return done
    needed = 4 * spec.patients * spec.slices * spec.size**2
    with begin(Path(out), digest, needed_bytes=needed) as unfinished:
        pairs = phantom_pairs(spec)
        for name in pairs.patient_names:
            own = pairs.of([name])

            def make(stem: str, name=name, own=own) -> SeriesRecord:
                return SeriesRecord(
                    patient=name,
                    full=write_array(unfinished.folder, f"{stem}-full.npy", own.full_hu),
                    low=write_array(unfinished.folder, f"{stem}-low.npy", own.low_hu),
                    pixel_mm=spec.pixel_mm,
                    slice_mm=spec.slice_mm,
                    step_mm=spec.slice_mm,
                    offsets_mm=tuple(round(i * spec.slice_mm, 4) for i in range(len(own))),
                    kernel=PHANTOMS,
                    noise_hu=rounded(flat_noise_hu(own.full_hu, spec.pixel_mm)),
                    low_dose_noise_hu=rounded(flat_noise_hu(own.low_hu, spec.pixel_mm)),
                    dose=spec.dose,
                    dose_source=f"{percent(spec.dose)} dose simulated",
                )

            unfinished.series(name, make)
        return unfinished.finish(pairs.source, pairs.attribution)


def dose_words(doses: Sequence[float], rule: str, spectrum: str) -> str:
    """Several simulated doses, for the words that stand under figures and tables."""
    listed = ", ".join(percent(dose) for dose in doses)
    grows = {"physics": "1/√dose", "paper": "1/dose"}[rule]
    shape = {"sqrt_f_mtf": "as filtered back projection leaves it", "mtf": "shaped by the MTF"}
    return (
        f"doses of {listed} simulated in the image domain (noise SD grows as {grows}, "
        f"{shape[spectrum]})"
    )


def _anatomy(spec: Phantoms, seed: int) -> np.ndarray:
    """One patient's slices without noise, (N, H, W) HU, from the feet upwards."""
    upper = spec.slices // 2
    parts = {spec.region: spec.slices}
    if spec.region == "torso":
        parts = {"abdomen": spec.slices - upper, "thorax": upper}
    return np.concatenate(
        [
            random_patient(
                seed,
                region=region,
                n_slices=n,
                size=spec.size,
                pixel_mm=spec.pixel_mm,
                slice_mm=spec.slice_mm,
            ).hu
            for region, n in parts.items()
            if n
        ]
    )
