"""Three kinds of small trainings, stopped at an exact step, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.losses import l1, last_clone, mse
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.optim import Adam, Constant
from ldct_jax.study.experiment import Experiment
from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.gan import WassersteinGAN
from ldct_jax.train.signals import Interrupted, StopRequest
from tests import tiny

STEPS = 40
STAGE = DnCNN(depth=3, n_filters=4)


class SmallCritic(nn.Module):
    """A critic small enough for tests."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.leaky_relu(nn.Conv(4, (3, 3))(x), 0.2)
        return nn.Dense(1)(x.mean((1, 2)))[:, 0]


class Recorded(Resident):
    """A feed that writes down which patches it was asked for, and ends calls at ``stop_at``."""

    def __init__(self, batch: int, stop_at: int | None = None):
        patches = Patches(size=16, stride=8, batch=batch, slices_per_patient=None)
        super().__init__(tiny.pairs(), patches, seed=3)
        self.order: list[np.ndarray] = []
        self._stop_at, self.total, self._compiled = stop_at, 0, False

    @property
    def max_steps(self) -> int:
        return 3 if self._stop_at is None else max(1, min(3, self._stop_at - self.total))

    def inputs(self, epoch, first, count, place=None):
        found = super().inputs(epoch, first, count, place)
        if self._compiled:  # the first inputs are those of the compilation
            self.total = epoch * self.steps_per_epoch + first + count
            self.order += list(np.asarray(found["order"])[first : first + count])
        self._compiled = True
        return found


class StopAt(StopRequest):
    """A SIGTERM that comes while the feeder's last call before its ``stop_at`` runs."""

    def __init__(self, feeder: Recorded):
        self._feeder = feeder
        super().__init__()

    @property
    def number(self):
        feeder = self._feeder
        return 15 if feeder._stop_at is not None and feeder.total >= feeder._stop_at else None

    @number.setter
    def number(self, value): ...


def kinds(first_stage: Path) -> dict[str, tuple[Experiment, int, Path | None]]:
    """(experiment, batch, initial checkpoint) by kind; 40 steps each."""
    gan = WassersteinGAN(SmallCritic(), n_critic=2, optimizer=Adam(Constant(1e-3), b1=0.5, b2=0.9))
    return {
        # Five steps an epoch, the last padded: step 20 ends one, step 7 is within one.
        "supervised": (tiny.experiment(ema_decay=0.9, augment="dihedral", epochs=8), 7, None),
        # Eight steps an epoch: 7 and 20 are both within one.
        "gan": (tiny.experiment(loss=last_clone(l1), gan=gan, epochs=5, ema_decay=0.9), 4, None),
        "cascade": (
            tiny.experiment(
                model=Cascade((STAGE.copy(), STAGE.copy())),
                loss=mse,
                optimizer=Adam(Constant(1e-2), trainable="last_stage"),
                epochs=5,
            ),
            4,
            first_stage,
        ),
    }


def monitor(variables: dict):
    """A number that changes with every bit of the parameters."""

    def numbers() -> dict:
        total = sum(float(np.abs(np.asarray(x)).sum()) for x in jax.tree.leaves(variables))
        return {"validation_psnr": total, "undenoised_psnr": 0.0}

    return numbers


def run(
    experiment, batch: int, init_from, folder: Path, stop_at: int | None = None
) -> list[np.ndarray]:
    """Train until the end or ``stop_at``; returns the patches in the order they were taken."""
    feeder = Recorded(batch, stop_at)
    ended = pytest.raises(Interrupted) if stop_at else contextlib.nullcontext()
    with ended as stopped:
        tiny.train(
            experiment,
            feeder,
            folder,
            init_from=init_from,
            monitor=monitor,
            stop=StopAt(feeder),
        )
    assert not stop_at or stopped.value.exit_code == 143
    return feeder.order


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_end(a: Path, b: Path) -> None:
    """Every array of the last checkpoints, and every logged number, bit for bit."""
    left, right = (
        flatten_dict(load_arrays(folder / "checkpoints" / "last")[0], sep="/") for folder in (a, b)
    )
    assert set(left) == set(right) and len(left) > 10
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
