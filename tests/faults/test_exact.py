"""40 steps in one go and as 7 + 13 + 20 with two restarts are the same training, bit for bit."""

import numpy as np
import pytest

from ldct_jax.losses import mse
from ldct_jax.train.checkpoint import load_arrays
from tests import tiny
from tests.faults.trainings import STAGE, STEPS, assert_same_end, kinds, log_of, run

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    tiny.train(tiny.experiment(model=STAGE, loss=mse, epochs=1), tiny.feeder(), folder)
    return folder


@pytest.mark.promise("resume")
@pytest.mark.parametrize(
    "kind", ["supervised", *(pytest.param(k, marks=pytest.mark.long) for k in ("gan", "cascade"))]
)
def test_forty_steps_are_seven_thirteen_and_twenty(kind, first_stage, tmp_path, capfd):
    training = kinds(first_stage)[kind]
    straight = run(*training, tmp_path / "straight")
    assert len(straight) == STEPS

    taken: list = []
    # An epoch's evaluation comes when the next steps are handed over. A signal leaves it at once,
    # and then those steps are taken again: 6 and 7 of the supervised kind, which follow an epoch.
    ends = {7: 5 if kind == "supervised" else 7, 20: 20}
    for stop_at, end in ends.items():
        taken += run(*training, tmp_path / "pieces", stop_at=stop_at)
        arrays, _ = load_arrays(tmp_path / "pieces" / "checkpoints" / "last")
        assert int(arrays["step"]) == end
        taken = taken[:end]
    taken += run(*training, tmp_path / "pieces")
    said = capfd.readouterr().err
    assert all(f"resumes from step {end} (sha256 " in said for end in ends.values())

    # Two fresh runs with one seed, of which one was interrupted.
    assert_same_end(tmp_path / "straight", tmp_path / "pieces")
    np.testing.assert_array_equal(straight, taken)
    kept = {
        "supervised": {"params", "opt_state", "ema", "key"},
        "gan": {"params", "opt_state", "ema", "key", "critic", "critic_opt_state"},
        "cascade": {"params", "opt_state", "batch_stats", "key"},
    }
    assert kept[kind] <= set(arrays)
    assert sum("evaluation" in row for row in log_of(tmp_path / "pieces")) == training[0].epochs
