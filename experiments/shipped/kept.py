"""How much noise the shipped model should keep: the rule of ``in_hu.py``, from training patients.

    python -m experiments.shipped.kept runs/pcn3.npz --data CT:SINGLES --out docs/results/shipped

The result is x̂ + kept·(x - x̂), kept = (routine_hu/σ)^power, at least ``least``
(:class:`ldct_jax.models.noise_scaled.NoiseScaled`), x̂ the network's estimate of the image without
noise. For PSNR the share kept should be the dose's share of the normal dose, which an image
doesn't show: three quarters of the dose of a thin slice have more noise than half the dose of a
thick one. A rule can only be made for scans whose normal dose has ``routine_hu``; noisier ones are
made quieter than their own normal dose, and lose PSNR by it.

Two tables, neither with a held-out patient:

- ``kept``: the share with the largest PSNR for volumes and slices of smooth kernels of training and
  validation, and what the rule in use adds to PSNR at three quarters of a volume's dose;
- ``kept_rules``: what rules lose against that share, by dose: those of one routine noise for all,
  and one whose routine noise follows from kernel and thickness, fitted to the other patients.

Expected time on two CPU cores: 4 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from experiments.shipped.held_out import Case, Patient, spread
from experiments.shipped.in_hu import LEAST, POWER, ROUTINE_HU
from experiments.shipped.train import (
    SMOOTH_SINGLES,
    TRAINING,
    VALIDATION,
    patients,
)
from ldct_jax.metrics.protocols import MAYO_ABDOMEN
from ldct_jax.models.slice_noise import slice_noise_hu
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.report import tables
from ldct_jax.system import accelerator
from ldct_jax.system.progress import track
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.digests import combined

SLICES = 1  # of each series
HIGH = Case("75%", 0.75)
DOSES = tuple(Case(f"{share:.0%}", share) for share in (0.1, 0.25, 0.5))
GAINED = f"PSNR gained at {HIGH.name}"
# (routine_hu, power, least); None: from kernel and thickness.
RULES = (
    (10.75, 3.0, 0.10),
    (10.75, 3.0, 0.15),
    (10.75, 3.0, 0.20),
    (10.75, 2.0, 0.10),
    (10.75, 2.0, 0.15),
    (12.0, 3.0, 0.12),
    (12.0, 2.0, 0.12),
    (None, 3.0, 0.12),
    (None, 2.0, 0.10),
)


@dataclasses.dataclass(frozen=True)
class Error:
    """Mean squared error of x̂ + a·(x - x̂) against the normal dose, HU²: a parabola in a.

    Of the pixels whose normal dose lies in the abdominal window. added: mean of (x - normal)²;
    removed: of (x - x̂)²; both: of their product.
    """

    added: float
    removed: float
    both: float

    @classmethod
    def of(cls, low, full, free) -> Error:
        at = (full > MAYO_ABDOMEN.window.low) & (full < MAYO_ABDOMEN.window.high)
        added = (low.astype(np.float64) - full)[at]
        removed = (low.astype(np.float64) - free)[at]
        return cls(*(float(v.mean()) for v in (added**2, removed**2, added * removed)))

    @property
    def best(self) -> float:
        """The share with the smallest error."""
        return 1 - self.both / self.removed

    @property
    def best_psnr_db(self) -> float:
        """PSNR of that share in the abdominal window."""
        return float(10 * np.log10(MAYO_ABDOMEN.window.width**2 / self.at(self.best)))

    def at(self, share: float) -> float:
        """The error of a share, HU²."""
        return self.added - 2 * (1 - share) * self.both + (1 - share) ** 2 * self.removed

    def lost_db(self, share: float) -> float:
        """PSNR that ``share`` loses against the best share."""
        return float(10 * np.log10(self.at(share) / self.at(self.best)))


@dataclasses.dataclass(frozen=True)
class Measured:
    """One series: what it is, the noise of its normal dose, and by dose (σ in HU, Error).

    high: the same of three quarters of the dose, None for single slices.
    """

    patient: str
    training: bool
    kernel: str
    half_per_mm: float
    slice_mm: float
    noise_hu: float
    doses: dict[str, tuple[float, Error]]
    high: tuple[float, Error] | None = None

    @property
    def terms(self) -> list[float]:
        """Of the logarithm of its noise: 1, log of the kernel's half-frequency, of thickness."""
        return [1.0, float(np.log(self.half_per_mm)), float(np.log(self.slice_mm))]


def measure(data: str, network) -> list[Measured]:
    """Volumes and smooth single slices; ``network``: (N, H, W) HU → x̂."""
    wanted = {**TRAINING, **SMOOTH_SINGLES, **VALIDATION}
    every = [
        (store, i, name)
        for store, names in patients(data)
        for i, name in enumerate(names)
        if store.series[i].full.sha256[:32] in wanted
    ]
    found = []
    for store, i, name in track(every, "how much to keep", "series"):
        record = store.series[i]
        patient = Patient(name, store.full(i), record.pixel_mm)
        n = len(patient.full_hu)
        doses = {}
        for case in DOSES if n == 1 else (*DOSES, HIGH):
            low, full = patient.pairs(case, spread(n, SLICES) if n > SLICES else range(n))
            noise = float(np.median(slice_noise_hu(low.astype(np.float32))))
            doses[case.name] = (noise, Error.of(low, full, network(low)))
        high = doses.pop(HIGH.name, None)
        found.append(
            Measured(
                name,
                name not in VALIDATION.values(),
                record.kernel or "unknown",
                patient.own.kernel.half_per_mm,
                record.slice_mm,
                float(np.median(slice_noise_hu(full.astype(np.float32)))),
                doses,
                high,
            )
        )
    return found


def expected_noise(one: Measured, others: list[Measured]) -> float:
    """The noise of a normal dose of that kernel and thickness, HU, as other patients have it."""
    known = [m for m in others if m.training and m.patient != one.patient]
    logs = np.log([m.noise_hu for m in known])
    fitted = np.linalg.lstsq(np.array([m.terms for m in known]), logs, rcond=None)[0]
    return float(np.exp(np.array(one.terms) @ fitted))


def lost(rule: tuple, one: Measured, dose: str, every: list[Measured]) -> float:
    """PSNR that ``rule`` loses on a series at a dose, against the best share, dB."""
    routine, power, least = rule
    noise, error = one.doses[dose]
    routine = expected_noise(one, every) if routine is None else routine
    return error.lost_db(share(noise, routine, power, least))


def share(noise_hu: float, routine_hu: float, power: float, least: float) -> float:
    """What the rule keeps of that noise."""
    return float(np.clip((routine_hu / noise_hu) ** power, least, 1.0))


def gained_db(measured: tuple[float, Error] | None) -> float | None:
    """What the rule in use adds to PSNR, dB."""
    if measured is None:
        return None
    noise, error = measured
    kept = share(noise, ROUTINE_HU, POWER, LEAST)
    return float(10 * np.log10(error.at(1.0) / error.at(kept)))


def rules_table(every: list[Measured]) -> tables.Table:
    sides = {"training": True, "validation": False}
    rows = []
    for rule in RULES:
        routine, power, least = rule
        row: list = ["kernel, thickness" if routine is None else f"{routine:g} HU", power, least]
        for training in sides.values():
            by_dose = [
                float(
                    np.mean([lost(rule, m, d.name, every) for m in every if m.training is training])
                )
                for d in DOSES
            ]
            row += [*by_dose, float(np.mean(by_dose))]
        rows.append(row)
    return tables.Table(
        name="kept_rules",
        title="What rules lose in PSNR against the best share of each series",
        columns=(
            tables.Column("routine noise"),
            tables.Column("power", "", 1),
            tables.Column("least share", "", 2),
            *(
                tables.Column(f"{side}, {dose}", "dB", 2)
                for side in sides
                for dose in (*(d.name for d in DOSES), "mean")
            ),
        ),
        rows=rows,
        protocol="mean over series of the PSNR lost in soft tissue (normal dose in the abdominal "
        f"window) against the share that is best for that series and dose; up to {SLICES} slices "
        "each",
        data=f"{len(every)} series: training and validation patients",
        note="Kernel, thickness: the routine noise is that of the other patients' normal doses by "
        "the half-frequency of the kernel and the slice thickness (logarithms, least squares). In "
        f"use: {ROUTINE_HU:g} HU, power {POWER:g}, least share {LEAST:g}.",
    )


def kept_table(every: list[Measured], digest: str) -> tables.Table:
    return tables.Table(
        name="kept",
        title="How much noise to keep, by series",
        columns=(
            tables.Column("patient"),
            tables.Column("kernel"),
            tables.Column("kernel's half", "/mm", 2),
            tables.Column("thickness", "mm", 2),
            tables.Column("noise of the normal dose", "HU", 1),
            tables.Column("noise by kernel and thickness", "HU", 1),
            *(tables.Column(f"best share at {dose.name}", "", 2) for dose in DOSES),
            tables.Column(GAINED, "dB", 1),
        ),
        rows=[
            [
                m.patient,
                m.kernel,
                m.half_per_mm,
                m.slice_mm,
                m.noise_hu,
                expected_noise(m, every),
                *(m.doses[dose.name][1].best for dose in DOSES),
                gained_db(m.high),
            ]
            for m in every
        ],
        protocol="share of the noise with the largest PSNR in soft tissue; up to "
        f"{SLICES} slices of each series against the normal dose",
        data="training patients, last the validation patient",
        note=f"Model: sha256 {digest}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, help="folder for kept.md and its kin")
    given = parser.parse_args()
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    accelerator.start()
    model, variables, window, meta = load_model(given.model)
    whole = WholeSlices(model.clone(routine_hu=0.0, least=0.0), window)

    def network(hu):
        return whole(variables, hu)

    every = sorted(measure(given.data, network), key=lambda m: (not m.training, m.patient))
    digest = combined(meta["digests"])
    for made in (kept_table(every, digest), rules_table(every)):
        print(made.markdown())
        if given.out is not None:
            made.write(given.out)


if __name__ == "__main__":
    main()
