"""How much noise the shipped model should keep: the rule of ``in_hu.py``, from training patients.

    python -m experiments.shipped.kept runs/pcn3.npz --data /folder/of/the/series \\
        --out docs/results/shipped

The result is x̂ + kept·(x - x̂), kept = (routine_hu/σ)^power
(:class:`ldct_jax.models.noise_scaled.NoiseScaled`), x̂ the network's estimate of the image without
noise. No rule is right for all scans. For PSNR the share kept should be the dose's share of the
normal dose, which an image doesn't show: three quarters of the dose of a thin slice have more noise
than half the dose of a thick one. A rule can only be made for scans whose normal dose has
``routine_hu``; noisier ones are made quieter than their own normal dose, and lose PSNR by it. A
large ``power`` leaves little noise at low doses.

Measured here, so that the two numbers in use can be judged: the noise of the training patients'
normal doses, and the power up to which three quarters of a routine scan's dose lose nothing, where
0.75^(power/2) is the least share that costs no PSNR, the median over training patients. And what it
changes that slices of a series keep one share, that of their median noise, and not each its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np

from experiments.shipped.held_out import CASES, Case, Patient, load_patients, spread
from experiments.shipped.in_hu import POWER, ROUTINE_HU
from experiments.shipped.train import TRAINING
from ldct_jax.metrics.protocols import PCN
from ldct_jax.models.noise_scaled import NoiseScaled, slice_noise_hu
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.report import tables
from ldct_jax.system import accelerator
from ldct_jax.system.progress import track
from ldct_jax.train.checkpoint import load_model

SLICES = 2  # of each training patient
SERIES_SLICES = 6  # and as a series
DOSES = CASES[:4]
LOSSLESS = 0.75  # the dose at which a routine scan shall lose nothing


@dataclasses.dataclass(frozen=True)
class Shares:
    """Of one patient at one dose: the share kept with the largest PSNR, and the least one with
    which PSNR isn't below the input's (negative: any).
    """

    best: float
    least: float


def shares(low, full, free) -> Shares:
    """From stacks of HU: the squared error of x̂ + a·(x - x̂) is a parabola in a."""
    added, removed = low.astype(np.float64) - full, low.astype(np.float64) - free
    slope = (added * removed).sum() / (removed * removed).sum()
    return Shares(best=1 - slope, least=1 - 2 * slope)


def gains(patient: Patient, case: Case, model: NoiseScaled, network, variables) -> list[float]:
    """What the model adds to PSNR [dB] and SSIM: slices alone, and as a series; four numbers."""
    low, full = patient.pairs(case, spread(len(patient.full_hu), SERIES_SLICES))
    free, noise = network(variables, low), slice_noise_hu(low.astype(np.float32))
    before = PCN.score(low.astype(np.float32), full)
    found = []
    for series in (noise, np.median(noise)):
        share = np.asarray(model.share_kept(noise, series))
        out = free + share[:, None, None] * (low - free)
        after = PCN.score(out.astype(np.float32), full)
        found += [
            float(np.mean(after.psnr_db) - np.mean(before.psnr_db)),
            float(np.mean(after.ssim) - np.mean(before.ssim)),
        ]
    return found


def series_table(by_patient: dict[str, list[float]]) -> tables.Table:
    rows = [[name, *numbers] for name, numbers in by_patient.items()]
    rows.append(["mean", *np.mean(list(by_patient.values()), axis=0).tolist()])
    return tables.Table(
        name="kept_series",
        title="One share for a series, or each slice its own: what the model adds, by patient",
        columns=(
            tables.Column("patient"),
            *(
                tables.Column(f"{metric}, {how}, {case.name}", unit, digits)
                for case in DOSES[-2:]
                for how in ("each its own", "one share")
                for metric, unit, digits in (("PSNR", "dB", 2), ("SSIM", "", 5))
            ),
        ),
        rows=rows,
        protocol=f"{PCN}; {SERIES_SLICES} slices of each patient",
        data=f"training patients: {', '.join(sorted(set(TRAINING.values())))}",
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
    model, variables, window, _ = load_model(given.model)
    network = WholeSlices(model.clone(routine_hu=0.0, least=0.0), window)
    rows, noises, least, series = [], [], [], {}
    for patient in track(
        list(load_patients(given.data, set(TRAINING.values())).values()), "training", "patients"
    ):
        noises.append(float(np.median(slice_noise_hu(patient.full_hu.astype(np.float32)))))
        row: list = [patient.name, noises[-1]]
        for case in DOSES:
            low, full = patient.pairs(case, spread(len(patient.full_hu), SLICES))
            found = shares(low, full, network(variables, low))
            row += [found.best, found.least]
            if case.fraction == LOSSLESS:
                least.append(found.least)
        rows.append(row)
        series[patient.name] = [
            number
            for case in DOSES[-2:]
            for number in gains(patient, case, model, network, variables)
        ]
    routine, share = float(np.median(noises)), float(np.median(least))
    most = 2 * math.log(share) / math.log(LOSSLESS)
    table = tables.Table(
        name="kept",
        title="How much noise to keep, by training patients",
        columns=(
            tables.Column("patient"),
            tables.Column("noise of the normal dose", "HU", 1),
            *(
                tables.Column(f"{what} share at {case.name}", "", 2)
                for case in DOSES
                for what in ("best", "least")
            ),
        ),
        rows=rows,
        protocol=f"share of the noise with the largest PSNR, and least share with no lower PSNR "
        f"than the input's; {SLICES} slices of each patient against the normal dose",
        data=f"training patients: {', '.join(sorted(set(TRAINING.values())))}",
        note=f"Medians: {routine:.1f} HU at normal dose, least share {share:.3f} at three quarters "
        f"of it, which a power of {most:.2f} keeps. In use: {ROUTINE_HU:g} HU and power {POWER:g}.",
    )
    for made in (table, series_table(series)):
        print(made.markdown())
        if given.out is not None:
            made.write(given.out)


if __name__ == "__main__":
    main()
