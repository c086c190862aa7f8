"""Grain and resident feeders: the same batches, and the same training bit for bit."""

import dataclasses

import jax
import numpy as np
import pytest

from ldct_jax.data.feed import choose
from ldct_jax.data.feed.choose import make_feed
from ldct_jax.data.feed.grain import GrainFeed
from ldct_jax.data.feed.mapped import MappedStack
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.errors import UsageError
from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.mesh import DataParallel
from ldct_jax.train.signals import Interrupted
from tests import tiny
from tests.train.test_run import StopAfter

PATCHES = Patches(size=16, stride=8, batch=5, slices_per_patient=None)


def mapped(pairs, folder):
    """The same pairs as stacks of memory-mapped files."""

    def stack(name, array):
        parts = []
        for i, part in enumerate(np.array_split(array, 2)):
            np.save(folder / f"{name}{i}.npy", part)
            parts.append(np.load(folder / f"{name}{i}.npy", mmap_mode="r", allow_pickle=False))
        return MappedStack(parts)

    return dataclasses.replace(
        pairs, low_hu=stack("low", pairs.low_hu), full_hu=stack("full", pairs.full_hu)
    )


def batches(feeder, epoch, first=0):
    found, step = [], first
    while step < feeder.steps_per_epoch:
        count = min(3, feeder.steps_per_epoch - step)
        inputs = feeder.inputs(epoch, step, count)
        found += [feeder.batch(inputs, s) for s in range(step, step + count)]
        step += count
    return found


@pytest.mark.core
def test_both_feeders_give_the_same_batches_in_the_same_order(tmp_path):
    resident = Resident(tiny.pairs(), PATCHES, seed=1)
    grain = GrainFeed(mapped(tiny.pairs(), tmp_path), PATCHES, seed=1)
    assert_same_batches(resident, grain)
    anywhere = dataclasses.replace(PATCHES, per_slice=11)
    assert_same_batches(*(kind(tiny.pairs(), anywhere, seed=1) for kind in (Resident, GrainFeed)))


def assert_same_batches(resident, grain):
    for epoch, first in ((0, 0), (1, 0), (1, 4)):
        a, b = batches(resident, epoch, first), batches(grain, epoch, first)
        assert len(a) == len(b) == resident.steps_per_epoch - first
        for x, y in zip(a, b, strict=True):
            for field in ("low_hu", "full_hu", "index", "weight"):
                np.testing.assert_array_equal(getattr(x, field), getattr(y, field))


def test_a_training_through_grain_is_the_resident_one_bit_for_bit(tmp_path, monkeypatch):
    job = tiny.experiment(augment="dihedral")
    one = DataParallel(jax.devices()[:1])

    def train(kind, folder, stop=None):
        tiny.train(job, kind(tiny.pairs(), PATCHES, 3), folder, parallel=one, stop=stop)

    train(Resident, tmp_path / "resident")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        train(GrainFeed, tmp_path / "grain", StopAfter(patch, 3))
    train(GrainFeed, tmp_path / "grain")
    a, b = (load_arrays(tmp_path / f)[0] for f in ("resident", "grain"))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
    logs = [(tmp_path / f / "metrics.jsonl").read_text() for f in ("resident", "grain")]
    assert logs[0] == logs[1]


@pytest.mark.core
def test_the_feeder_is_chosen_by_memory_and_said(monkeypatch, capsys):
    pairs = tiny.pairs()
    assert isinstance(make_feed("auto", pairs, PATCHES, 0), Resident)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(choose, "device_memory", lambda: 1000)
    assert isinstance(make_feed("auto", pairs, PATCHES, 0), GrainFeed)
    assert "device has room for 0.0 GiB" in capsys.readouterr().err
    assert isinstance(make_feed("resident", pairs, PATCHES, 0), Resident)
    with pytest.raises(UsageError, match="auto, resident, grain"):
        make_feed("disk", pairs, PATCHES, 0)


@pytest.mark.core
def test_a_feed_is_what_the_process_with_the_least_memory_can_hold(capsys):
    """Each on its own would choose another program, and they would wait for each other."""
    asked = []

    def agree(*values):
        asked.append(values)
        return [1]  # another process said so

    assert isinstance(make_feed("auto", tiny.pairs(), PATCHES, 0, agree=agree), GrainFeed)
    assert asked == [(0,)] and "another process's device" in capsys.readouterr().err


@pytest.mark.core
@pytest.mark.parametrize(
    "index",
    [
        np.s_[..., None],
        np.s_[None],
        np.s_[...],
        np.s_[1:3, None],
        np.s_[:, 2:5, ::2],
        np.s_[3, 4:6],
        np.s_[-1, :, 0],
        np.s_[1:4, ..., 0],
        np.s_[[4, 0], 1],
        np.s_[np.array([[0, 1], [2, 3]])],
        np.s_[np.array([True, False, True, False, True])],
        np.s_[-2],
        np.s_[2:2],
    ],
)
def test_every_index_of_a_mapped_stack_gives_what_an_array_gives(index, tmp_path):
    """An index that it didn't know, such as None, was left out without a word."""
    pairs = tiny.pairs(patients=5)
    found = np.asarray(mapped(pairs, tmp_path).low_hu[index])
    np.testing.assert_array_equal(found, pairs.low_hu[index])
    assert found.dtype == np.int16


@pytest.mark.core
def test_a_mapped_stack_reads_like_an_array(tmp_path):
    pairs = tiny.pairs(patients=5)
    stack = mapped(pairs, tmp_path).low_hu
    assert (stack.shape, stack.dtype, stack.nbytes) == (
        pairs.low_hu.shape,
        pairs.low_hu.dtype,
        pairs.low_hu.nbytes,
    )
    np.testing.assert_array_equal(stack, pairs.low_hu)
    np.testing.assert_array_equal(stack[3], pairs.low_hu[3])
    np.testing.assert_array_equal(stack[[2, 0]].astype(np.float32), pairs.low_hu[[2, 0]])
    np.testing.assert_array_equal(stack[1:4], pairs.low_hu[1:4])
    np.testing.assert_array_equal(stack[np.array([4, 0])], pairs.low_hu[[4, 0]])
    assert mapped(pairs, tmp_path).digest() == pairs.digest()
    taken = mapped(pairs, tmp_path).of(["p1", "p4"])
    assert isinstance(taken.low_hu, MappedStack)
    np.testing.assert_array_equal(taken.full_hu, pairs.of(["p1", "p4"]).full_hu)
