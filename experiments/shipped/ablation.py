"""What the parts of the shipped model's recipe bring: equal short trainings from scratch.

    python -m experiments.shipped.ablation runs/ablation --data CT:SINGLES \\
        --out docs/results/shipped

Every row has the recipe of experiments/shipped/train.py with one thing changed, and 600 steps from
random weights; the order that rows have after a longer training may be another one. Four patients
that train there judge here, and train in no row (JUDGES); no held-out patient is looked at.

What is compared is the network's estimate x̂ of the image without noise, by the largest PSNR that
x̂ + a·(x - x̂) has for any a (experiments/shipped/kept.py): how much noise the product keeps is
another question. Runs that are finished are kept; the same command goes on. ``--finished`` trains
nothing and judges what there is.

Expected time, one CPU core: simulation 20 minutes, then 12 minutes a row of 32 filters, 27 of 48.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from experiments.shipped import train
from experiments.shipped.held_out import Case, Patient, spread
from experiments.shipped.in_hu import of_run
from experiments.shipped.kept import Error
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.hu import Window
from ldct_jax.losses import LogMSE, every_clone, last_clone, mse
from ldct_jax.models.layers import Conv, check_images, relu
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.optim import Adam, Cosine
from ldct_jax.report import tables
from ldct_jax.study import Request, Study, run_study
from ldct_jax.study.experiment import Experiment, Scale
from ldct_jax.study.results import RESULT, read_json
from ldct_jax.study.study import slug
from ldct_jax.system import accelerator
from ldct_jax.system.progress import track
from ldct_jax.user_script import use_code

# One quiet scan of 5 mm, one of 2.5 mm and 13 HU, two slices of smooth kernels.
JUDGES = ("pyradiomics lung2", "LIDC-IDRI 0001", "TCGA-LUAD Z019", "TCGA-LUSC 4080")
CASES = tuple(Case(f"{share:.0%}", share) for share in (0.1, 0.25, 0.5))
SLICES = 3  # of each judging series
STEPS = {"demo": 600, "smoke": 2}


class HalfResolution(nn.Module):
    """Clones with feature transfer on blocks of 2x2 pixels as channels (FFDNet's way, Zhang 2018).

    (B, H, W, 1) → (T, B, H, W, 1), last = result. At half the resolution twice the filters cost the
    same work: four times the parameters, and every filter sees twice as far. Each clone: a layer
    of both features, residual blocks of two layers, the layer of the image.
    """

    n_filters: int = 64
    n_clones: int = 3
    n_layers: int = 10

    def inference_padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        return 0, height % 2, 0, width % 2

    def setup(self):
        n = self.n_filters

        def layer(features_in: int, features: int, **fields):
            return Conv(features_in, features, padding="same", initialization="zero_last", **fields)

        self.first, self.join = layer(4, n), layer(2 * n, n)
        self.body = [layer(n, n) for _ in range(self.n_layers - 2)]
        self.out = layer(n, 4, last=True)

    def __call__(self, y_bhw1, train: bool = False):
        check_images(y_bhw1, "half resolution", multiple=2)
        b, h, w, _ = y_bhw1.shape
        y = y_bhw1.astype(jnp.float32)
        blocks = y.reshape(b, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 2, 4)
        f0 = features = relu(self.first(blocks.reshape(b, h // 2, w // 2, 4)))
        images = []
        for _ in range(self.n_clones):
            features = relu(self.join(jnp.concatenate([f0, features], axis=-1)))
            for one, other in zip(self.body[::2], self.body[1::2], strict=True):
                features = relu(features + other(relu(one(features))))
            out = self.out(features).reshape(b, h // 2, w // 2, 2, 2).transpose(0, 1, 3, 2, 4)
            images.append(y + out.reshape(y.shape))
        return jnp.stack(images)


def base(scale: str) -> Experiment:
    """The recipe, from random weights and for few steps."""
    recipe = train.variants(scale)["pcn3"]
    rate = Adam(Cosine(1e-3, to=1e-5, warmup=0.05))
    return recipe.but(steps=STEPS[scale], optimizer=rate, ema_decay=0.99)


def networks(scale: str) -> dict[str, Experiment]:
    """Rows that see the same data."""
    row, small = base(scale), scale == "smoke"
    half = HalfResolution(4, n_layers=4) if small else HalfResolution()
    return {
        "as shipped": row,
        "24 filters": row.but(n_filters=3 if small else 24),
        "48 filters": row.but(n_filters=6 if small else 48),
        "half resolution, 64 filters": row.but(model=half),
        "one clone": row.but(n_clones=1),
        "6 layers": row.but(n_layers=6),
        "14 layers": row.but(n_layers=14),
        "loss: log MSE, one scale": row.but(loss=every_clone(LogMSE(least=0.04))),
        "loss: MSE": row.but(loss=every_clone(mse)),
        "loss: of the last clone": row.but(loss=last_clone(mse)),
        "half the steps": row.but(steps=row.steps // 2),
        "twice the steps": row.but(steps=row.steps * 2),
    }


def volumes_only(scale: Scale, data: str | None) -> PairedSlices:
    """Without the single slices of further patients."""
    pairs = train.mixed_pairs(scale, data)
    return pairs.of([n for n in pairs.patient_names if n in {*train.TRAINING.values(), *JUDGES}])


judged = functools.partial(train.split, validation=JUDGES)
"""JUDGES validate, of those that are there, and all others train but the held-out ones."""


def study(name: str, data, rows) -> Study:
    return dataclasses.replace(
        train.STUDY, name=name, title=f"Ablation: {name}", variants=rows, data=data, split=judged
    )


STUDIES = (
    study("networks", train.mixed_pairs, networks),
    study("volumes-only", volumes_only, lambda scale: {"volumes only": base(scale)}),
    study(
        "own-kernels",
        functools.partial(train.mixed_pairs, other_kernels=0.0),
        lambda scale: {"no other kernels": base(scale)},
    ),
)


def judge(data: str, runs: dict[str, Path]) -> list[list]:
    """A row a run: name, parameters, minutes, the mean over JUDGES of the best PSNR by dose."""
    cases = []
    for store, names in train.patients(data):
        for i, name in enumerate(names):
            if name not in JUDGES:
                continue
            patient = Patient(name, store.full(i), store.series[i].pixel_mm)
            n = len(patient.full_hu)
            at = spread(n, SLICES) if n > SLICES else range(n)
            cases.append((name, {case.name: patient.pairs(case, at) for case in CASES}))
    rows = []
    for name, run in track(runs.items(), "judging", "rows"):
        model, variables, _ = of_run(run)
        whole = WholeSlices(model.clone(routine_hu=0.0, least=0.0), Window(0.0, 1.0))
        best: dict[str, dict[str, list[float]]] = {case.name: {} for case in CASES}
        for patient, pairs in cases:
            for case, (low, full) in pairs.items():
                error = Error.of(low, full, whole(variables, low))
                best[case].setdefault(patient, []).append(error.best_psnr_db)
        result = read_json(run / RESULT)
        means = [float(np.mean([np.mean(v) for v in best[case.name].values()])) for case in CASES]
        minutes = result["seconds"]["train"] / 60
        rows.append([name, result["parameters"], minutes, *means, float(np.mean(means))])
    return [[*row, row[-1] - rows[0][-1]] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--scale", default="demo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--finished", action="store_true", help="train nothing")
    given = parser.parse_args()
    accelerator.start()
    runs = {}
    # As a user's script, so that records can name the network that is defined here.
    for one in use_code(__file__).STUDIES:
        folder = given.runs / one.name
        if not given.finished:
            run_study(one, Request(given.scale, out=folder, data=given.data))
        runs |= {name: folder / slug(name) for name in one.rows(given.scale)}
    missing = [name for name, run in runs.items() if not (run / RESULT).exists()]
    runs = {name: run for name, run in runs.items() if name not in missing}
    made = tables.Table(
        name="ablation",
        title="Parts of the shipped model's recipe, short trainings from scratch",
        columns=(
            tables.Column("row"),
            tables.Column("parameters"),
            tables.Column("minutes of training", "", 0),
            *(tables.Column(f"PSNR at {case.name}", "dB", 2) for case in CASES),
            tables.Column("mean", "dB", 2),
            tables.Column("against the first row", "dB", 2),
        ),
        rows=judge(given.data, runs),
        protocol="largest PSNR in soft tissue of any mixture of the estimate and the low dose; "
        "mean over patients",
        data=f"{', '.join(JUDGES)} (who is there), up to {SLICES} slices of a series; "
        f"{train.ATTRIBUTION}",
        note=f"{STEPS['demo']:,} steps from random weights, one seed: differences of a few "
        "hundredths of a decibel mean nothing"
        + (f"; not run: {', '.join(missing)}" if missing else ""),
    )
    given.out.mkdir(parents=True, exist_ok=True)
    made.write(given.out)
    print(made.markdown())


if __name__ == "__main__":
    main()
