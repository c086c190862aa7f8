"""How good the shipped model is on patients it never saw, against tuned classical filters.

    python -m experiments.shipped.held_out --data CT:SINGLES --model runs/pcn3.npz \\
        --out docs/results/shipped

Each filter is tuned for each dose on training patients (largest PSNR); then model and filters
denoise slices of the two held-out patients, and the held-out slices of smooth kernels, at 10, 25,
50 and 75 % dose with noise of each series' own spectrum. What a case gave is kept in
OUT/held_out_by_case, so that a second command goes on, and several may share the cases
(``--cases``); for another model only its own row is made anew. Writes the table as Markdown, CSV
and JSON. Expected time: 4 minutes a case on one CPU core.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import ldct_jax
from experiments.shipped.train import (
    ATTRIBUTION,
    HELD_OUT,
    HELD_OUT_SINGLES,
    TRAINING,
    patients,
)
from ldct_jax.data.mixed_dose import Drawn, simulate_mixed
from ldct_jax.data.own_noise import OwnNoise
from ldct_jax.data.simulate import OWN, required_noise
from ldct_jax.denoise.filters import (
    Bilateral,
    Gaussian,
    Median,
    NonLocalMeans,
    TotalVariation,
    Wiener,
    run,
)
from ldct_jax.denoise.models import for_series
from ldct_jax.errors import DataError
from ldct_jax.metrics.contrast import cnr
from ldct_jax.metrics.protocols import MAYO_ABDOMEN, PCN, table
from ldct_jax.report import tables
from ldct_jax.study import results
from ldct_jax.study.study import slug
from ldct_jax.system import accelerator, provenance
from ldct_jax.system.progress import stage


@dataclasses.dataclass(frozen=True)
class Case:
    """A low dose: a share of the normal one, noise with the series' own spectrum."""

    name: str
    fraction: float


CASES = (
    Case("10 %", 0.10),
    Case("25 %", 0.25),
    Case("50 %", 0.50),
    Case("75 %", 0.75),
)
SEED = 7

# From hardly any change (at half the dose little noise is worth removing) to far too much.
GRID: dict[str, list[Callable]] = {
    "median": [Median(3), Median(5)],
    "gaussian": [Gaussian(s) for s in (0.3, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7)],
    "wiener": [
        Wiener(size, strength)
        for size, strength in itertools.product((3, 5, 7), (0.03, 0.06, 0.12, 0.25, 0.5, 1.0))
    ],
    "bilateral": [
        Bilateral(strength, sigma)
        for strength, sigma in itertools.product((0.5, 1.0, 2.0, 4.0, 8.0), (1.0, 2.0))
    ],
    "nlm": [NonLocalMeans(strength=h) for h in (0.25, 0.5, 1.0, 1.5, 2.5, 4.0)],
    "tv": [TotalVariation(w) for w in (0.125, 0.25, 0.5, 1.0, 2.0, 3.5, 6.0)],
}
TUNING_SLICES = 1  # of each training patient, its central quarter
SLICES = 4  # of each held-out patient


@dataclasses.dataclass(frozen=True)
class Region:
    """A rectangle of flat tissue, the same on each of ``slices``."""

    patient: str
    slices: tuple[int, ...]
    rows: tuple[int, int]
    columns: tuple[int, int]

    def of(self, stack: np.ndarray) -> np.ndarray:
        """Its pixels in (len(slices), H, W)."""
        return stack[:, slice(*self.rows), slice(*self.columns)]


A10W, A0002 = HELD_OUT.values()
REGIONS = {
    "liver": [
        Region(A10W, (48, 49, 50), (176, 200), (112, 152)),
        Region(A0002, (4, 5, 6), (200, 240), (100, 150)),
    ],
    "muscle": [
        Region(A10W, (28,), (354, 368), (164, 178)),
        Region(A0002, (19,), (341, 355), (48, 62)),
    ],
    "fat": [
        Region(A10W, (27,), (372, 396), (96, 130)),
        Region(A0002, (5,), (84, 97), (215, 250)),
    ],
    "lesion": [Region(A10W, (48,), (250, 285), (80, 115))],
}
CONTRASTS = (("liver", "lesion"), ("liver", "fat"), ("muscle", "fat"))


@dataclasses.dataclass(frozen=True)
class Patient:
    """A normal-dose series: (N, H, W) int16 HU, side of a pixel in mm."""

    name: str
    full_hu: np.ndarray
    pixel_mm: float

    def pairs(self, case: Case, indices, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
        """(low, full) of the slices ``indices``, each (n, H, W) int16 HU."""
        drawn = [Drawn(int(i), case.fraction, OWN, 1.0) for i in indices]
        return simulate_mixed(self.full_hu, drawn, own=self.own, pixel_mm=self.pixel_mm, seed=seed)

    @functools.cached_property
    def own(self) -> OwnNoise:
        """Its noise, from which the low doses follow."""
        return required_noise(self.full_hu, self.pixel_mm)


def load_patients(data: str, wanted: set[str]) -> dict[str, Patient]:
    """The first series of every patient in ``wanted``."""
    found: dict[str, Patient] = {}
    for store, names in patients(data):
        for i, (record, name) in enumerate(zip(store.series, names, strict=True)):
            if name in wanted and name not in found:
                found[name] = Patient(name, store.full(i), record.pixel_mm)
    return found


def load_smooth(data: str) -> dict[str, Patient]:
    """The held-out single slices of smooth kernels, by the first half of their SHA-256."""
    found = {}
    for store, names in patients(data):
        for i, (record, name) in enumerate(zip(store.series, names, strict=True)):
            if (key := record.full.sha256[:32]) in HELD_OUT_SINGLES:
                found[key] = Patient(name, store.full(i), record.pixel_mm)
    if lacking := set(HELD_OUT_SINGLES) - set(found):
        raise DataError(f"DATA lacks {len(lacking)} of the held-out single slices")
    return dict(sorted(found.items()))


def spread(n: int, count: int) -> np.ndarray:
    """``count`` indices of ``n`` slices, evenly spread, none at the ends."""
    return np.linspace(0, n - 1, count + 2)[1:-1].round().astype(int)


def tune(training: dict[str, Patient], case: Case) -> dict[str, Callable]:
    """The setting of every filter with the largest mean PSNR on training patients at ``case``."""
    parts = [p.pairs(case, spread(len(p.full_hu), TUNING_SLICES)) for p in training.values()]
    low, full = (np.concatenate(stack)[:, 160:352, 160:352] for stack in zip(*parts, strict=True))

    def mean_psnr(filtered) -> float:
        return float(PCN.score(run(filtered, low), full).psnr_db.mean())

    return {name: max(settings, key=mean_psnr) for name, settings in GRID.items()}


def rows(
    methods: dict[str, Callable],
    held_out: dict[str, Patient],
    smooth: dict[str, Patient],
    case: Case,
) -> Iterator[dict]:
    """One dict for each method (name → HU to HU): its scores, contrasts and bias at ``case``."""
    single = {key: p.pairs(case, range(len(p.full_hu))) for key, p in smooth.items()}
    whole = {p.name: p.pairs(case, spread(len(p.full_hu), SLICES)) for p in held_out.values()}
    boxed = {
        region: held_out[region.patient].pairs(case, region.slices, SEED + 100)
        for regions in REGIONS.values()
        for region in regions
    }
    labels = [name for name, (low, _) in whole.items() for _ in low]
    full = np.concatenate([full for _, full in whole.values()])
    for name, method in methods.items():
        # Regions too are slices of their patient's series.
        by_patient = {
            p: for_series(method, low.__getitem__, len(low)) for p, (low, _) in whole.items()
        }
        out = np.concatenate(
            [np.asarray(by_patient[p](low), np.float32) for p, (low, _) in whole.items()]
        )
        row: dict = {"case": case.name, "method": name}
        for protocol in (PCN, MAYO_ABDOMEN):
            summary = table(protocol.score(out, full), labels)
            row[protocol.name] = {
                p.patient: {"psnr_db": p.psnr_db, "ssim": p.ssim, "rmse": p.rmse}
                for p in summary.patients
            }
        row["smooth"] = {
            key: _alone(for_series(method, low.__getitem__, len(low)), low, reference)
            for key, (low, reference) in single.items()
        }
        boxes = {
            region: (
                region.of(np.asarray(by_patient[region.patient](low), np.float32)),
                region.of(reference),
            )
            for region, (low, reference) in boxed.items()
        }
        row["cnr"] = {f"{a} and {b}": _contrast(boxes, a, b) for a, b in CONTRASTS}
        row["bias_hu"] = {tissue: _bias(boxes, tissue) for tissue in ("liver", "muscle", "fat")}
        yield row


def _alone(method: Callable, low: np.ndarray, full: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM of one series in the abdominal window."""
    score = MAYO_ABDOMEN.score(np.asarray(method(low), np.float32), full)
    return {"psnr_db": float(score.psnr_db.mean()), "ssim": float(score.ssim.mean())}


def _contrast(boxes, a: str, b: str) -> float:
    """Mean CNR over patients that have both tissues, in the noise that all methods were given."""
    values = [
        cnr(boxes[one][0][0], boxes[other][0][0])
        for one in REGIONS[a]
        for other in REGIONS[b]
        if one.patient == other.patient
    ]
    return float(np.mean(values))


def _bias(boxes, tissue: str) -> dict[str, float]:
    """Mean of result - reference by patient, over the region's slices."""
    return {
        region.patient: float(boxes[region][0].astype(float).mean() - boxes[region][1].mean())
        for region in REGIONS[tissue]
    }


COLUMNS = (
    tables.Column("dose"),
    tables.Column("method"),
    tables.Column("setting"),
    tables.Column("PSNR", "dB", 2),
    tables.Column("SSIM", "", 4),
    tables.Column("PSNR, abdominal window", "dB", 2),
    tables.Column("SSIM, abdominal window", "", 4),
    tables.Column("PSNR, smooth kernels, abdominal window", "dB", 2),
    tables.Column("SSIM, smooth kernels, abdominal window", "", 4),
    tables.Column("CNR liver / lesion", "", 2),
    tables.Column("CNR liver / fat", "", 2),
    tables.Column("CNR muscle / fat", "", 2),
    tables.Column("bias, liver", "HU", 2),
    tables.Column("bias, muscle", "HU", 2),
    tables.Column("bias, fat", "HU", 2),
)


def as_table(measured: list[dict]) -> tables.Table:
    def mean(row, protocol, metric):
        return float(np.mean([p[metric] for p in row[protocol.name].values()]))

    def worst(row, tissue):
        return max(row["bias_hu"][tissue].values(), key=abs)

    lines = [
        [
            row["case"],
            row["method"],
            one["settings"].get(row["method"], ""),
            mean(row, PCN, "psnr_db"),
            mean(row, PCN, "ssim"),
            mean(row, MAYO_ABDOMEN, "psnr_db"),
            mean(row, MAYO_ABDOMEN, "ssim"),
            *(float(np.mean([s[m] for s in row["smooth"].values()])) for m in ("psnr_db", "ssim")),
            *row["cnr"].values(),
            *(worst(row, tissue) for tissue in ("liver", "muscle", "fat")),
        ]
        for one in measured
        for row in one["rows"]
    ]
    return tables.Table(
        name="held_out",
        title="The shipped model and tuned filters on two patients they never saw",
        columns=COLUMNS,
        rows=lines,
        protocol=f"{PCN}; {MAYO_ABDOMEN}",
        data=f"{', '.join(HELD_OUT.values())}: {SLICES} slices each; smooth kernels: "
        f"{len(HELD_OUT_SINGLES)} single slices of {len(set(HELD_OUT_SINGLES.values()))} more "
        f"patients; low dose simulated in the projection domain with each series' own noise and "
        f"spectrum; {ATTRIBUTION}",
        note="The references carry about 10 HU of noise themselves, which no method can restore. "
        "Bias: mean of result - reference in a region (slices, rows and columns in "
        "experiments/shipped/held_out.py), the "
        "patient with the larger one; the undenoised row shows what of it is chance. Filters were "
        "tuned for each dose on training patients for the largest PSNR.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default=None, help="a run or checkpoint [the shipped model]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", default=[c.name for c in CASES])
    given = parser.parse_args()
    accelerator.start()
    model = ldct_jax.load(given.model)
    by_case = given.out / "held_out_by_case"
    by_case.mkdir(parents=True, exist_ok=True)
    held_out = load_patients(given.data, set(HELD_OUT.values()))
    smooth = load_smooth(given.data)
    training = load_patients(given.data, set(TRAINING.values()))
    for case in CASES:
        kept = by_case / f"{slug(case.name)}.json"
        if case.name not in given.cases or (
            kept.exists() and results.read_json(kept)["model"] == model.digest
        ):
            continue
        with stage(f"{case.name} of the dose"):
            found = list(rows({"undenoised": np.asarray, "model": model}, held_out, smooth, case))
            old = results.read_json(kept) if kept.exists() else {"rows": [None]}
            tuning = repr((GRID, TUNING_SLICES, sorted(training)))
            if old["rows"][0] == found[0] and old.get("tuning", tuning) == tuning:
                # The same low doses and the same tuning: the filters' rows stand.
                settings = old["settings"]
                found += [row for row in old["rows"] if row["method"] in GRID]
            else:
                tuned = tune(training, case)
                settings = {name: _words(f) for name, f in tuned.items()}
                filters = {name: lambda hu, f=f: run(f, hu) for name, f in tuned.items()}
                found += rows(filters, held_out, smooth, case)
        results.write_json(
            kept,
            {
                "model": model.digest,
                "settings": settings,
                "tuning": tuning,
                "rows": found,
                "versions": provenance.versions(),
            },
        )
    there = {case.name: by_case / f"{slug(case.name)}.json" for case in CASES}
    kept_cases = {name: results.read_json(path) for name, path in there.items() if path.exists()}
    if others := [name for name, m in kept_cases.items() if m["model"] != model.digest]:
        print(f"still of another model, so no table is written yet: {', '.join(others)}")
        return
    measured = list(kept_cases.values())
    made = as_table(measured)
    made.write(given.out)
    print(made.markdown())


def _words(filtered) -> str:
    return ", ".join(f"{k} {v:g}" for k, v in dataclasses.asdict(filtered).items())


if __name__ == "__main__":
    main()
