"""Versions of the shipped model beside each other, by kernel, thickness, region and patient.

    python -m experiments.shipped.versions --data CT:SINGLES --out docs/results/shipped \\
        fourth=ldct_jax/shipped/pcn3.npz fifth=runs/pcn3.npz

Low doses of 10, 25 and 50 %, whose added noise has the spectrum of each series' own, of the
validation patient, of the held-out patients and of the held-out single slices of smooth kernels
(experiments/shipped/train.py names them). Which version ships may be decided by the validation
patient alone without having seen test patients. Expected time on two CPU cores: 3 minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter

import ldct_jax
from experiments.shipped.held_out import SEED, Case, Patient, spread
from experiments.shipped.train import (
    ATTRIBUTION,
    HELD_OUT,
    HELD_OUT_SINGLES,
    VALIDATION,
    patients,
)
from ldct_jax.denoise.models import for_series
from ldct_jax.errors import UsageError
from ldct_jax.metrics.protocols import MAYO_ABDOMEN
from ldct_jax.report import tables
from ldct_jax.system import accelerator
from ldct_jax.system.progress import track

CASES = tuple(Case(f"{share:.0%}", share) for share in (0.1, 0.25, 0.5))
SLICES = 2  # of each series
GROUPS = {
    "validation": VALIDATION,
    "held out": HELD_OUT,
    "held out, smooth kernel": HELD_OUT_SINGLES,
}
TISSUE_HU = (0.0, 120.0)
"""Bias is that of the pixels whose normal dose, averaged over 9x9 pixels, is in this range."""


def bias_hu(result, full) -> float:
    """Mean of result - normal dose over soft tissue, two (N, H, W) HU."""
    smooth = uniform_filter(full.astype(np.float32), size=(0, 9, 9))
    tissue = (smooth > TISSUE_HU[0]) & (smooth < TISSUE_HU[1])
    return float((result.astype(np.float64) - full)[tissue].mean())


def scored(result, full) -> list[float]:
    """PSNR [dB] and SSIM in the abdominal window, bias in soft tissue [HU]: means over slices."""
    score = MAYO_ABDOMEN.score(result.astype(np.float32), full)
    return [float(score.psnr_db.mean()), float(score.ssim.mean()), bias_hu(result, full)]


def rows(data: str, models: dict) -> list[list]:
    """A row for each series and dose, the group's mean after each group."""
    found: dict[str, list[list]] = {group: [] for group in GROUPS}
    every = [
        (group, store, i, name)
        for store, names in patients(data)
        for i, name in enumerate(names)
        for group, hashes in GROUPS.items()
        if store.series[i].full.sha256[:32] in hashes
    ]
    for group, store, i, name in track(every, "versions", "series"):
        record = store.series[i]
        patient = Patient(name, store.full(i), record.pixel_mm)
        n = len(patient.full_hu)
        for case in CASES:
            low, full = patient.pairs(case, spread(n, SLICES) if n > SLICES else range(n), SEED)
            row = [group, name, record.kernel or "unknown", record.slice_mm, case.name]
            row += scored(low, full)
            for model in models.values():
                shared = for_series(model, low.__getitem__, len(low))
                row += scored(np.asarray(shared(low)), full)
            found[group].append(row)
    lines = []
    for group, of_group in found.items():
        lines += of_group
        for case in CASES:
            numbers = [row[5:] for row in of_group if row[4] == case.name]
            if len(numbers) > 1:
                lines.append([group, "mean", "", "", case.name, *np.mean(numbers, axis=0).tolist()])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if lacking := [text for text in given.models if "=" not in text]:
        raise UsageError(f"{lacking[0]}: models are given as NAME=FILE")
    accelerator.start()
    models = {name: ldct_jax.load(file) for name, file in (m.split("=", 1) for m in given.models)}
    made = tables.Table(
        name="versions",
        title="Versions of the shipped model, by kernel, thickness and patient",
        columns=(
            tables.Column("group"),
            tables.Column("patient"),
            tables.Column("kernel"),
            tables.Column("thickness", "mm", 2),
            tables.Column("dose"),
            *(
                tables.Column(f"{what}, {name}", unit, digits)
                for name in ("undenoised", *models)
                for what, unit, digits in (("PSNR", "dB", 2), ("SSIM", "", 4), ("bias", "HU", 2))
            ),
        ),
        rows=rows(given.data, models),
        protocol=f"{MAYO_ABDOMEN}; bias: mean of result - normal dose in soft tissue",
        data=f"up to {SLICES} slices of each series, low dose simulated in the projection domain "
        f"with the series' own noise and spectrum; {ATTRIBUTION}",
        note="; ".join(f"{name}: sha256 {model.digest}" for name, model in models.items()),
    )
    given.out.mkdir(parents=True, exist_ok=True)
    made.write(given.out)
    print(made.markdown())


if __name__ == "__main__":
    main()
