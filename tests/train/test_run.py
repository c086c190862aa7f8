"""Training: it learns, it resumes bit for bit, it stops when the numbers fail."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.errors import CheckpointError, NumericsError
from ldct_jax.hu import ABDOMEN
from ldct_jax.losses import mse
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.optim import Adam, Constant
from ldct_jax.train import calls, run
from ldct_jax.train.checkpoint import Checkpoints, find, load_arrays, load_model
from ldct_jax.train.mesh import DataParallel
from ldct_jax.train.signals import Interrupted, StopRequest
from tests import tiny


def one_device():
    return DataParallel(jax.devices()[:1])


def leaves(variables):
    return [np.asarray(x) for x in jax.tree.leaves(variables)]


class StopAfter(StopRequest):
    """A stop that comes when so many steps are done."""

    def __init__(self, monkeypatch, steps: int):
        super().__init__()
        original = calls.Pace.finished

        def finished(pace, count, **more):
            original(pace, count, **more)
            self.done = getattr(self, "done", 0) + count
            if self.done >= steps:
                self.number = 15

        monkeypatch.setattr(calls.Pace, "finished", finished)


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(tmp_path):
    outcomes = [
        tiny.train(tiny.experiment(seed=s, epochs=1), tiny.feeder(), tmp_path / n)
        for n, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = (np.concatenate([x.ravel() for x in leaves(o.variables)]) for o in outcomes)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@dataclasses.dataclass(frozen=True)
class Told:
    """A schedule that keeps what it was built for."""

    heard: list

    def schedule(self, steps, steps_per_epoch):
        self.heard.append((steps, steps_per_epoch))
        return lambda count: 1e-3


@pytest.mark.promise("resume")
@pytest.mark.core
def test_a_training_counted_in_steps_looks_evenly_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    told: list = []
    job = tiny.experiment(epochs=None, steps=21, optimizer=Adam(Told(told)), ema_decay=0.9)

    def train(folder, stop=None):
        monitor = lambda v: lambda: {"validation_psnr": float(leaves(v)[0].sum())}  # noqa: E731
        arguments = {"parallel": one_device(), "monitor": monitor, "looks": 4, "stop": stop}
        return tiny.train(job, tiny.feeder(), tmp_path / folder, **arguments)

    outcome = train("whole")
    assert (outcome.steps, set(told)) == (21, {(21, 8)})
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        train("cut", StopAfter(patch, 13))
    train("cut")
    rows = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "evaluation" in r] == [6, 12, 18, 21]
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 22))
    a, b = (load_arrays(tmp_path / f / "checkpoints/last")[0] for f in ("whole", "cut"))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b)) and int(a["step"]) == 21
    logs = [(tmp_path / f / "metrics.jsonl").read_text() for f in ("whole", "cut")]
    assert logs[0] == logs[1]


@pytest.mark.core
def test_the_moving_average_covers_the_statistics(tmp_path):
    model = DnCNN(depth=3, n_filters=4)
    job = tiny.experiment(model=model, loss=mse, ema_decay=0.5, epochs=1)
    outcome = tiny.train(job, tiny.feeder(), tmp_path)
    arrays, _ = load_arrays(tmp_path)
    averaged, last = (jax.tree.leaves(arrays[k]) for k in ("ema_stats", "batch_stats"))
    assert all(not np.array_equal(a, b) for a, b in zip(averaged, last, strict=True))
    for used in (outcome.variables, load_model(tmp_path)[1]):
        for a, b in zip(jax.tree.leaves(used["batch_stats"]), averaged, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.core
@pytest.mark.long
def test_it_overfits_eight_patches_by_20_db(tmp_path):
    pairs = tiny.pairs(patients=8, size=16)
    feeder = Resident(pairs, Patches(size=16, stride=1, batch=8, slices_per_patient=None), 0)
    model = tiny.MODEL.clone(n_filters=16, n_layers=6, initialization="lecun")
    job = tiny.experiment(model=model, optimizer=Adam(Constant(3e-3)), epochs=500)
    tiny.train(job, feeder, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[0]["loss"], min(r["loss"] for r in rows[-20:])
    assert 10 * np.log10(first / last) >= 20


@pytest.mark.core
def test_five_bad_batches_in_a_row_stop_and_leave_the_last_good_state(tmp_path):
    def poisoned(prediction, target):
        return jnp.mean(jnp.log(-1 - prediction[-1] ** 2), axis=(1, 2, 3))

    with pytest.raises(NumericsError, match="5 batches in a row"):
        tiny.train(tiny.experiment(loss=poisoned), tiny.feeder(), tmp_path / "bad")
    with pytest.raises(CheckpointError):
        find(tmp_path / "bad")


@pytest.mark.core
def test_one_bad_batch_is_skipped_and_counted(tmp_path):
    """One slice holds a value that the loss turns into NaN; all its patches are skipped."""
    pairs = tiny.pairs(patients=3, size=16)
    pairs.full_hu[1] = 3000
    feeder = Resident(pairs, Patches(size=16, stride=1, batch=1, slices_per_patient=None), 0)

    def touchy(prediction, target):
        error = jnp.mean((prediction[-1] - target) ** 2, axis=(1, 2, 3))
        return jnp.where(jnp.mean(target) > 0.9, jnp.nan, 1.0) * error

    outcome = tiny.train(tiny.experiment(loss=touchy, epochs=3), feeder, tmp_path)
    assert (outcome.steps, outcome.skipped) == (9, 3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("skipped_in_a_row" in r for r in rows) == 3
    assert all(np.isfinite(x).all() for x in leaves(outcome.variables))
    # The optimiser has seen six batches, not nine.
    arrays, _ = load_arrays(tmp_path)
    assert int(arrays["opt_state"]["0"]["count"]) == 6


@pytest.mark.core
def test_the_best_by_validation_is_kept_beside_the_last(tmp_path):
    values = iter([30.0, 35.0, 33.0])
    job = tiny.experiment(epochs=3)
    outcome = tiny.train(
        job,
        tiny.feeder(),
        tmp_path,
        monitor=lambda variables: lambda: {"validation_psnr": next(values)},
    )
    assert outcome.best == 35.0
    best = Checkpoints(tmp_path / "checkpoints" / "best", tiny.record(job))
    last = Checkpoints(tmp_path / "checkpoints" / "last", tiny.record(job))
    assert (best.steps(), last.steps()) == ([16], [24])
    best.close()
    last.close()


@pytest.mark.core
@pytest.mark.parametrize(("select", "scored"), [("last", "last/16"), ("best", "best/8")])
def test_a_model_is_the_state_that_the_tables_score(select, scored, tmp_path):
    """``--model RUN`` takes the ``last``, unless the experiment selects the ``best``."""
    values = iter([35.0, 30.0])
    experiment = tiny.experiment(select=select)
    run.train(
        experiment,
        tiny.feeder(),
        tmp_path,
        record={"experiment": experiment.record()},
        parallel=one_device(),
        monitor=lambda variables: lambda: {"validation_psnr": next(values)},
    )
    assert find(tmp_path) == tmp_path / "checkpoints" / scored
    model, _, window, meta = load_model(tmp_path)
    assert (model, window) == (experiment.model, experiment.window)
    assert meta["step"] == int(scored.rpartition("/")[2])


def test_what_the_log_lacks_is_evaluated_when_the_run_goes_on(tmp_path):
    seen = []

    def monitor(variables):
        seen.append(leaves(variables)[0])
        return lambda: {"validation_psnr": 30.0}

    first = tiny.train(tiny.experiment(epochs=1), tiny.feeder(), tmp_path)
    tiny.train(tiny.experiment(epochs=2), tiny.feeder(), tmp_path, monitor=monitor)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "evaluation" in r] == [8, 16]
    np.testing.assert_array_equal(seen[0], leaves(first.variables)[0])
    tiny.train(tiny.experiment(epochs=2), tiny.feeder(), tmp_path, monitor=monitor)
    assert len(seen) == 2


def test_fine_tuning_starts_from_the_other_runs_parameters(tmp_path, capfd):
    source = tiny.train(tiny.experiment(), tiny.feeder(), tmp_path / "a")
    frozen = tiny.experiment(optimizer=Adam(Constant(0.0)), epochs=1)
    start = {"init_from": tmp_path / "a"}
    capfd.readouterr()
    tuned = tiny.train(frozen, tiny.feeder(), tmp_path / "b", **start)
    for x, y in zip(leaves(source.variables), leaves(tuned.variables), strict=True):
        np.testing.assert_array_equal(x, y)
    assert "parameters of a (sha256 " in capfd.readouterr().err
    with pytest.raises(CheckpointError, match="a has changed since"):
        run.train(
            frozen,
            tiny.feeder(),
            tmp_path / "e",
            record={**tiny.record(frozen), "init": "the digest of what was there before"},
            parallel=one_device(),
            **start,
        )
    narrow = tiny.experiment(window=ABDOMEN)
    with pytest.raises(
        CheckpointError, match=r"for the window \[-1024, 3072\] HU, and \[-160, 240\]"
    ):
        tiny.train(narrow, tiny.feeder(), tmp_path / "d", **start)
    other = tiny.experiment(model=tiny.MODEL.clone(n_filters=5))
    with pytest.raises(CheckpointError, match="n_filters"):
        tiny.train(other, tiny.feeder(), tmp_path / "c", **start)


@pytest.mark.core
def test_a_checkpoint_of_another_model_in_the_folder_is_refused(tmp_path):
    tiny.train(tiny.experiment(), tiny.feeder(), tmp_path)
    with pytest.raises(CheckpointError, match="n_filters is 4 there, 5 here"):
        tiny.train(
            tiny.experiment(model=tiny.MODEL.clone(n_filters=5)),
            tiny.feeder(),
            tmp_path,
        )


@pytest.mark.core
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog):
    job = tiny.experiment()
    outcome = tiny.train(job, tiny.feeder(), tmp_path)
    assert outcome.steps == 16
    folder = find(tmp_path)
    data = next(p for p in folder.glob("state/**/d/*") if p.is_file())
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content)
    with pytest.raises(CheckpointError):
        tiny.train(job, tiny.feeder(), tmp_path)
    assert "damaged" in caplog.text


@pytest.mark.core
def test_a_huge_learning_rate_stops_within_six_steps_and_changes_nothing(tmp_path):
    job = tiny.experiment(optimizer=Adam(Constant(1e20)))
    with pytest.raises(NumericsError, match="learning rate") as error:
        tiny.train(job, tiny.feeder(), tmp_path)
    assert "step" in str(error.value)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    streaks = [json.loads(row).get("skipped_in_a_row", 0) for row in rows]
    assert streaks[:5] == [1, 2, 3, 4, 5]


@pytest.mark.core
def test_evaluations_and_checkpoints_wait_until_the_device_has_the_next_steps(
    tmp_path, monkeypatch
):
    """Handed over, evaluated and saved in this order; the log has the order of the steps."""
    happened: list = []
    feeder = tiny.feeder()
    inputs, saved = feeder.inputs, Checkpoints.save

    def handed_over(epoch, first, count, place):
        happened.append(("steps", epoch * feeder.steps_per_epoch + first + count))
        return inputs(epoch, first, count, place)

    def save(self, state, extra=None):
        happened.append((self.folder.name, int(state.step)))
        saved(self, state, extra)

    def monitor(variables):
        epoch = sum(what == "begun" for what, _ in happened) + 1
        happened.append(("begun", epoch))
        copied = jax.tree.map(lambda x: np.array(x, copy=True), variables)

        def numbers():
            # The device has trained on, and these are still the variables of the epoch's end.
            assert jax.tree.all(jax.tree.map(np.array_equal, copied, variables))
            happened.append(("numbers", epoch))
            return {"validation_psnr": 30.0 + epoch}

        return numbers

    monkeypatch.setattr(feeder, "inputs", handed_over)
    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(run, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(calls.Pace, "steps", lambda pace: 1 if pace.unsure else 8)
    tiny.train(tiny.experiment(epochs=2), feeder, tmp_path, monitor=monitor)
    assert happened[1:] == [
        ("steps", 1),
        ("last", 1),  # the first call is waited for, to learn how long a step takes
        ("steps", 8),
        ("begun", 1),
        ("steps", 16),
        ("numbers", 1),
        ("best", 8),
        ("last", 8),
        ("begun", 2),
        ("numbers", 2),
        ("best", 16),
        ("last", 16),
    ]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = ["evaluation" if "evaluation" in row else row["step"] for row in rows]
    assert kinds == [*range(1, 9), "evaluation", *range(9, 17), "evaluation"]
