"""What the slices above and below would bring: the recipe's network with and without them.

    python -m experiments.shipped.neighbours runs/neighbours --data CT --out docs/results/shipped

Two equal trainings from random weights. One network sees a slice alone; the other also the slices
above and below, at the same dose and with noise of their own, as two more input channels of its
first layer. Three series judge, of patients that did not train there (FOLDS): slices 0.8, 2.5 and
5 mm apart. Thin slices overlap, so that scanners' noise is correlated between them; noise that is
added here is not, which favours neighbours.

Compared is the estimate of the image without noise, by the largest PSNR that it has with any share
of the noise kept (experiments/shipped/kept.py). ``one slice only``: the network of three slices
where there is one, which is given three times. The share of a lesion's contrast: a disc of 6 mm and
-20 HU in the middle slice alone, the change of the result over that of the input. No held-out
patient is looked at. What is finished is kept in RUNS.

Expected time, one CPU core: 60 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization

from experiments.shipped import train
from experiments.shipped.held_out import Case, Patient, spread
from experiments.shipped.kept import Error
from ldct_jax.data.mixed_dose import MixedDose, draw, simulate_mixed
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.slice_noise import measured_noise_hu
from ldct_jax.optim import Adam, Cosine
from ldct_jax.record import fields
from ldct_jax.report import tables
from ldct_jax.study.study import slug
from ldct_jax.system import accelerator
from ldct_jax.system.progress import track

# Each is left out of one training of both networks, and judges it.
FOLDS = (("RIDER Pilot 0117",), ("LIDC-IDRI 0001", "pyradiomics lung2"))
CASES = (Case("10 %", 0.1), Case("25 %", 0.25))
SLICES = 4  # of each judging series
STEPS = 600
PER_SERIES = 24  # training slices
SIDE, BATCH = 96, 6
CROP = (384, 432)
MIXED = MixedDose(fraction=(0.1, 0.6), step_mm=0.0, seed=20261129, target=NoiseFreeTarget())
LESION_MM, LESION_HU = 6.0, -20.0


class Neighbours(ClonesNet):
    """A clone network with feature transfer whose first layer sees ``n_slices`` slices.

    (B, H, W, n_slices) → (T, B, H, W, 1): the middle slice; other channels than these are ignored.
    """

    n_slices: int = 3

    def setup(self):
        self._check()
        self.body = self._clone(self.n_slices)

    def __call__(self, x_bhwc, train: bool = False):
        centre = x_bhwc[..., 1:2]
        stack = self._features(x_bhwc if self.n_slices == 3 else centre)
        t, b, h, w, n = stack.shape
        return self._images(
            centre, self.body.out(stack.reshape(t * b, h, w, n)).reshape(t, *centre.shape)
        )


def around(i: int, n: int) -> list[int]:
    """The slice above, the slice itself and the one below; at an end the slice itself again."""
    return [max(i - 1, 0), i, min(i + 1, n - 1)]


def three_slices(patient: Patient, drawn, target=None) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, 3) low and (N, H, W) full or target, float32 HU; the three at one dose."""
    n = len(patient.full_hu)
    every = [dataclasses.replace(one, index=j) for one in drawn for j in around(one.index, n)]
    low, full = simulate_mixed(
        patient.full_hu, every, own=patient.own, pixel_mm=patient.pixel_mm, seed=7, target=target
    )
    low = low.reshape(len(drawn), 3, *low.shape[1:]).transpose(0, 2, 3, 1).astype(np.float32)
    # At the ends the neighbour is the slice itself, with the same noise.
    for k, one in enumerate(drawn):
        for channel, j in enumerate(around(one.index, n)):
            if j == one.index:
                low[k, ..., channel] = low[k, ..., 1]
    return low, full[1::3].astype(np.float32)


def training_slices(stores, folder: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By patient, pairs of every series of :func:`train.patients` in network units; kept."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [
        (store, i, name)
        for store, names in stores
        for i, name in enumerate(names)
        if name in train.TRAINING.values()
        and store.series[i].full.shape[0] > 2
        and store.series[i].full.sha256[:32] not in train.HELD_OUT
    ]
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for store, i, name in track(every, "simulating neighbours", "series"):
        record = store.series[i]
        kept = folder / f"{record.full.sha256[:16]}.npz"
        if not kept.exists():
            patient = Patient(name, store.full(i), record.pixel_mm)
            n = len(patient.full_hu)
            only = spread(n, PER_SERIES) if n > PER_SERIES else range(n)
            drawn = draw(MIXED, range(n), np.random.default_rng(i), only)
            low, target = three_slices(patient, drawn, MIXED.target)
            unit = train.UNIT * measured_noise_hu(low[..., 1])[:, None, None]
            with kept.open("wb") as file:
                np.savez(file, low=low / unit[..., None], target=target / unit)
        with np.load(kept, allow_pickle=False) as arrays:
            found.setdefault(name, []).append((arrays["low"], arrays["target"]))
    return found


def network(n_slices: int) -> Neighbours:
    """The recipe's network with that many slices."""
    model = train.variants("demo")["pcn3"].model
    return Neighbours(n_slices=n_slices, **{f.name: getattr(model, f.name) for f in fields(model)})


def patches(pairs: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator):
    """One batch of random patches, flipped and turned: (B, S, S, 3) and (B, S, S, 1)."""
    batch = []
    for _ in range(BATCH):
        low, target = pairs[rng.integers(len(pairs))]
        k = rng.integers(len(low))
        top, left = (
            (side - crop) // 2 + rng.integers(crop - SIDE + 1)
            for side, crop in zip(low.shape[1:3], CROP, strict=True)
        )
        place = np.s_[k, top : top + SIDE, left : left + SIDE]
        both = np.concatenate([low[place], target[place][..., None]], axis=-1)
        both = np.rot90(both, rng.integers(4))
        batch.append(both[::-1] if rng.random() < 0.5 else both)
    both = np.stack(batch)
    return both[..., :3], both[..., 3:]


def trained(n_slices: int, pairs, kept: Path, steps: int) -> dict:
    """Parameters (mean of the last hundred steps) of a training from random weights."""
    model = network(n_slices)
    params = model.init(jax.random.key(7), jnp.zeros((1, SIDE, SIDE, 3)))
    if kept.exists():
        return serialization.from_bytes(params, kept.read_bytes())
    optimizer = Adam(Cosine(1e-3, to=1e-5, warmup=0.05)).build(steps, steps)
    loss = train.variants("demo")["pcn3"].loss

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, mean, state, low, target):
        value, gradient = jax.value_and_grad(
            lambda p: jnp.mean(loss(model.apply(p, low, train=True), target))
        )(params)
        change, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        return params, optax.incremental_update(params, mean, 0.01), state, value

    mean, state = jax.tree.map(jnp.copy, params), optimizer.init(params)
    rng = np.random.default_rng(7)
    for _ in track(range(steps), f"training on {n_slices} slice(s)", "steps"):
        params, mean, state, _ = step(params, mean, state, *patches(pairs, rng))
    kept.write_bytes(serialization.to_bytes(mean))
    return mean


def estimate(model: Neighbours, params, low: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) HU → the image without noise, (N, H, W) HU."""
    unit = train.UNIT * measured_noise_hu(low[..., 1])[:, None, None, None]
    free = [_apply(model, params, jnp.asarray(one)[None])[0] for one in low / unit]
    return np.stack(free) * unit[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, x):
    return model.apply(params, x)[-1, ..., 0]


def lesion(patient: Patient, hu: np.ndarray) -> np.ndarray:
    """A disc where the slice is flattest soft tissue: (H, W), 1 inside."""
    side = max(9, round(3 * LESION_MM / patient.pixel_mm))
    windows = np.lib.stride_tricks.sliding_window_view(hu, (side, side))[::4, ::4]
    mean, sd = windows.mean((-2, -1)), windows.std((-2, -1))
    sd = np.where((mean > 20) & (mean < 150), sd, np.inf)
    top, left = (4 * v for v in np.unravel_index(np.argmin(sd), sd.shape))
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    away = np.hypot(y - top - side // 2, x - left - side // 2) * patient.pixel_mm
    return (away <= LESION_MM / 2).astype(np.float32)


def contrast_kept(model, params, patient: Patient, low: np.ndarray, full: np.ndarray) -> float:
    """The mean change inside lesions that only the middle slices have, over what was put there."""
    discs = np.stack([lesion(patient, hu) for hu in full])
    without = estimate(model, params, low)
    changed = low.copy()
    changed[..., 1] += LESION_HU * discs
    difference = estimate(model, params, changed) - without
    return float((difference * discs).sum() / (LESION_HU * discs.sum()))


def judge(data: str, runs: Path, steps: int) -> list[list]:
    """A row for each judging series and dose, as the table in :func:`main` has it."""
    stores = train.patients(data)
    pairs = training_slices(stores, runs / "slices")
    rows = []
    for fold in FOLDS:
        others = [p for other, several in pairs.items() if other not in fold for p in several]
        networks = {
            n: (
                network(n),
                trained(n, others, runs / f"{n}-without-{slug(fold[0])}.msgpack", steps),
            )
            for n in (1, 3)
        }
        for name in fold:
            store, i = next((s, names.index(name)) for s, names in stores if name in names)
            record = store.series[i]
            patient = Patient(name, store.full(i), record.pixel_mm)
            apart = float(np.median(np.abs(np.diff(record.offsets_mm))))
            n_slices = len(patient.full_hu)
            at = spread(n_slices, SLICES)
            drawn = draw(MIXED, range(n_slices), np.random.default_rng(1), at)
            for case in CASES:
                at_dose = [
                    dataclasses.replace(one, fraction=case.fraction, thinner=1.0) for one in drawn
                ]
                low, full = three_slices(patient, at_dose)
                copied = np.repeat(low[..., 1:2], 3, axis=-1)
                one, three, only = (
                    Error.of(low[..., 1], full, estimate(*networks[n], shown)).best_psnr_db
                    for n, shown in ((1, low), (3, low), (3, copied))
                )
                contrasts = [contrast_kept(*networks[n], patient, low, full) for n in (1, 3)]
                rows.append(
                    [name, apart, case.name, one, three, three - one, only - one, *contrasts]
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    accelerator.start()
    made = tables.Table(
        name="neighbours",
        title="The slices above and below as further input channels, short trainings from scratch",
        columns=(
            tables.Column("series"),
            tables.Column("slices apart", "mm", 1),
            tables.Column("dose"),
            tables.Column("PSNR, one slice", "dB", 2),
            tables.Column("PSNR, three slices", "dB", 2),
            tables.Column("three against one", "dB", 2),
            tables.Column("three where there is one slice only, against one", "dB", 2),
            tables.Column("contrast of a lesion in one slice, one slice", "", 2),
            tables.Column("contrast of a lesion in one slice, three slices", "", 2),
        ),
        rows=judge(given.data, given.runs, given.steps),
        protocol="largest PSNR in soft tissue of any mixture of the estimate and the low dose",
        data=f"{SLICES} slices of each; {train.ATTRIBUTION}",
        note=f"{given.steps:,} steps from random weights, one seed; added noise is independent "
        "from slice to slice",
    )
    given.out.mkdir(parents=True, exist_ok=True)
    made.write(given.out)
    print(made.markdown())


if __name__ == "__main__":
    main()
