"""WGAN-GP and cascades: what moves, what is frozen, and that neither depends on devices."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.errors import CheckpointError
from ldct_jax.losses import l1, last_clone, mse
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.models.drl import DRL
from ldct_jax.optim import Adam, Constant
from ldct_jax.train import state as train_state
from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.gan import WassersteinGAN, adversarial
from ldct_jax.train.mesh import DataParallel
from tests import tiny
from tests.faults.trainings import STAGE, SmallCritic
from tests.train.test_run import leaves

GAN = WassersteinGAN(SmallCritic(), n_critic=2, optimizer=Adam(Constant(1e-3), b1=0.5, b2=0.9))


def gan_job(**changes):
    return tiny.experiment(**{"loss": last_clone(l1), "gan": GAN, **changes})


def train(job, folder, devices=1, batch=8, **kwargs):
    parallel = DataParallel(jax.devices()[:devices])
    return tiny.train(job, tiny.feeder(batch=batch), folder, parallel=parallel, **kwargs)


def test_generator_and_critic_both_learn_and_are_both_saved(tmp_path):
    train(gan_job(), tmp_path)
    arrays, _ = load_arrays(tmp_path)
    assert int(arrays["critic_opt_state"]["0"]["count"]) == 2 * int(
        arrays["opt_state"]["0"]["count"]
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert all(np.isfinite([r["wasserstein"], r["penalty"], r["loss"]]).all() for r in rows)


@pytest.mark.long
def test_the_critic_pushes_the_estimate_up(tmp_path):
    """With a frozen generator the critic alone learns: its estimate of the distance grows."""
    # A weak penalty: its pull towards slope 1 works in either direction and may win at first.
    gan = dataclasses.replace(GAN, penalty=0.01)
    job = gan_job(optimizer=Adam(Constant(0.0)), gan=gan, epochs=40)
    train(job, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = (np.mean([r["wasserstein"] for r in part]) for part in (rows[:8], rows[-8:]))
    assert last > first + 1e-4


def critic_steps(n_critic: int = 4, **optimizer):
    """(a compiled adversarial step of one device, its initial state) for batches of eight."""
    gan = WassersteinGAN(SmallCritic(), n_critic=n_critic, optimizer=Adam(**optimizer))
    generator, critic = Adam(Constant(1e-3)).build(10, 2), gan.optimizer.build(40, 8)
    step = adversarial(tiny.MODEL, last_clone(mse), generator, gan, critic)
    state = train_state.create(tiny.MODEL, generator, 16, 0, critic=(gan.critic, critic))
    mesh = DataParallel(jax.devices()[:1]).mesh
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P(), P("data"), P("data"), P("data")),
        out_specs=P(),
        check_vma=False,
    )
    return jax.jit(mapped), state


@pytest.mark.long
def test_a_batch_with_fewer_patches_than_critic_steps_counts(tmp_path):
    """A mean over no patch is 0/0: the whole batch, the real patches in it too, was skipped."""
    rng = np.random.default_rng(0)
    low, full = rng.random((2, 8, 16, 16, 1), np.float32)
    step, state = critic_steps(schedule=Constant(1e-3))
    one_patch = np.array([1, 0, 0, 0, 0, 0, 0, 0], np.float32)
    # Position p belongs to critic step p mod 4: 1, 2 and 3 have their padding alone.
    filled = np.array([1, 1, 1, 1, 0, 1, 1, 1], np.float32)
    (a, metrics), (b, _) = (step(state, low, full, weight) for weight in (one_patch, filled))
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert int(a.skipped) == int(a.streak) == 0
    for x, y in zip(leaves((a.params, a.critic)), leaves((b.params, b.critic)), strict=True):
        np.testing.assert_array_equal(x, y)
    moved = [not np.array_equal(x, y) for x, y in zip(leaves(a), leaves(state), strict=True)]
    assert any(moved)

    # As a training meets it: nine patches in batches of eight.
    feed = Resident(tiny.pairs(patients=9, size=16), Patches(16, 16, 8, None), 0)
    gan = dataclasses.replace(GAN, n_critic=4)
    outcome = tiny.train(gan_job(gan=gan, epochs=3), feed, tmp_path)
    assert (outcome.steps, outcome.skipped) == (6, 0)


def test_a_critic_that_runs_away_is_skipped_like_a_generator_that_does():
    rng = np.random.default_rng(0)
    low, full = rng.random((2, 8, 16, 16, 1), np.float32)
    # One critic step: after it every number of the batch is still finite.
    step, state = critic_steps(1, schedule=Constant(1e7), b1=0.5, b2=0.9)
    after, _ = step(state, low, full, np.ones(8, np.float32))
    assert (int(after.skipped), int(after.streak)) == (1, 1)
    for x, y in zip(leaves(after.critic), leaves(state.critic), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.long
def test_one_and_two_devices_play_the_same_game(tmp_path):
    logs = []
    for devices in (1, 2):
        train(gan_job(epochs=1), tmp_path / str(devices), devices=devices)
        lines = (tmp_path / str(devices) / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    for a, b in zip(*logs, strict=True):
        for key in ("loss", "wasserstein", "penalty"):
            np.testing.assert_allclose(a[key], b[key], rtol=2e-5, atol=1e-7)


def test_a_generator_worse_than_no_denoising_is_noticed_after_its_warm_up(tmp_path, capsys):
    job = gan_job(gan=dataclasses.replace(GAN, warmup=0.5))
    numbers = {"validation_psnr": 30.0, "undenoised_psnr": 35.0}
    train(job, tmp_path, monitor=lambda v: lambda: numbers)
    assert capsys.readouterr().err.count("worse than the undenoised") == 1


SMALL_DRL = DRL(n_filters=4)


def cascade_job(model, **changes):
    return tiny.experiment(model=model, loss=mse, epochs=1, **changes)


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """The folder of a trained first stage."""
    folder = tmp_path_factory.mktemp("one")
    train(cascade_job(STAGE), folder)
    return folder


def test_the_next_stage_starts_from_the_last_and_leaves_it_alone(first_stage, tmp_path):
    both = Cascade((STAGE.copy(), STAGE.copy()))
    job = cascade_job(
        both,
        optimizer=Adam(Constant(1e-2), trainable="last_stage"),
    )
    outcome = train(job, tmp_path, init_from=first_stage)
    one, _ = load_arrays(first_stage)
    for part in ("params", "batch_stats"):
        stage = outcome.variables[part]["stages_0"]
        for x, y in zip(leaves(stage), leaves(one[part]), strict=True):
            np.testing.assert_array_equal(x, y)
    moved = [
        not np.array_equal(x, y)
        for x, y in zip(
            leaves(outcome.variables["params"]["stages_1"]), leaves(one["params"]), strict=True
        )
    ]
    assert any(moved)


@pytest.mark.long
def test_a_third_stage_starts_from_a_cascade_of_two(tmp_path):
    frozen = dict(optimizer=Adam(Constant(1e-2), trainable="last_stage"))
    two, three = (Cascade(tuple(SMALL_DRL.copy() for _ in range(n))) for n in (2, 3))
    train(cascade_job(two, **frozen), tmp_path / "two")
    outcome = train(cascade_job(three, **frozen), tmp_path / "three", init_from=tmp_path / "two")
    before, _ = load_arrays(tmp_path / "two")
    for stage in ("stages_0", "stages_1"):
        kept = outcome.variables["params"][stage]
        for x, y in zip(leaves(kept), leaves(before["params"][stage]), strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_cascade_does_not_start_from_a_foreign_stage(first_stage, tmp_path):
    foreign = cascade_job(Cascade((DnCNN(depth=4), STAGE)))
    with pytest.raises(CheckpointError, match="another model"):
        train(foreign, tmp_path, init_from=first_stage)


def test_last_conv_trains_on_frozen_statistics(tmp_path):
    model = DnCNN(depth=4, n_filters=4)
    train(cascade_job(model), tmp_path / "a")
    tuned = cascade_job(
        model,
        optimizer=Adam(Constant(1e-2), trainable="last_conv"),
    )
    outcome = train(tuned, tmp_path / "b", init_from=tmp_path / "a")
    before, _ = load_arrays(tmp_path / "a")
    for x, y in zip(
        leaves(outcome.variables["batch_stats"]), leaves(before["batch_stats"]), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    changed = {
        name
        for name, sub in outcome.variables["params"].items()
        if any(
            not np.array_equal(x, y)
            for x, y in zip(leaves(sub), leaves(before["params"][name]), strict=True)
        )
    }
    assert changed == {"conv4"}


@pytest.mark.long
def test_batch_statistics_are_those_of_the_whole_batch(tmp_path):
    found = []
    for devices in (1, 2):
        # Standing still: Adam would amplify rounding, and the statistics of other weights differ.
        job = cascade_job(SMALL_DRL, optimizer=Adam(Constant(0.0)))
        outcome = train(job, tmp_path / str(devices), devices=devices)
        found.append(np.concatenate([x.ravel() for x in leaves(outcome.variables["batch_stats"])]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
