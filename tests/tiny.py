"""Small pairs and trainings for tests."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.losses import every_clone, mse
from ldct_jax.models.clones import ClonesNet
from ldct_jax.optim import Adam, Constant
from ldct_jax.record import to_record
from ldct_jax.study.experiment import Experiment
from ldct_jax.train import run
from ldct_jax.train.mesh import DataParallel

MODEL = ClonesNet(n_filters=4, n_clones=2, n_layers=4)


def pairs(patients: int = 2, slices: int = 1, size: int = 40, noise_hu: float = 60.0):
    """Smooth random images with white noise of ``noise_hu`` as the low dose."""
    rng = np.random.default_rng(7)
    n = patients * slices
    y, x = np.mgrid[:size, :size] / size
    phase = rng.uniform(0, 6, (n, 1, 1))
    full = 300 * np.sin(6 * x + phase) * np.cos(5 * y - phase)
    low = full + rng.normal(0, noise_hu, full.shape)
    return PairedSlices(
        low_hu=np.rint(low).astype(np.int16),
        full_hu=np.rint(full).astype(np.int16),
        patients=tuple(f"p{i // slices}" for i in range(n)),
        pixel_mm=np.ones(n),
        slice_mm=np.ones(n),
        source="waves with white noise",
    )


def feeder(batch: int = 4, seed: int = 3, **changes) -> Resident:
    """Patches of 16 pixels at stride 8 from two slices of 40 pixels: 32 of them."""
    settings = {"size": 16, "stride": 8, "slices_per_patient": None, **changes}
    return Resident(pairs(), Patches(batch=batch, **settings), seed)


def experiment(*, augment: str = "none", **changes) -> Experiment:
    """A training of :data:`MODEL` for two epochs."""
    settings = {
        "model": MODEL,
        "loss": every_clone(mse),
        "optimizer": Adam(Constant(1e-3)),
        "patches": Patches(16, 8, 4, None, augment),
        "epochs": 2,
        "seed": 5,
        **changes,
    }
    return Experiment(**settings)


def rate_at(optimizer: Adam, step: int, steps: int, steps_per_epoch: int) -> float:
    """The learning rate of step ``step`` (counted from zero)."""
    return float(optimizer.schedule.schedule(steps, steps_per_epoch)(step))


def record(experiment: Experiment) -> dict:
    """What a checkpoint must say of it; a test's own loss can't be recorded."""
    return {"model": to_record(experiment.model), "window": to_record(experiment.window)}


def train(
    experiment: Experiment, feed, folder: Path, *, parallel: DataParallel | None = None, **further
) -> run.Outcome:
    """Train on the first device, if no others are given."""
    return run.train(
        experiment,
        feed,
        folder,
        record=record(experiment),
        parallel=parallel or DataParallel(jax.devices()[:1]),
        **further,
    )
