"""One device, two devices and pmap are the same training; the program is what it should be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.data.feed import patches as p
from ldct_jax.data.feed.augment import augment
from ldct_jax.errors import UsageError
from ldct_jax.hu import FULL
from ldct_jax.optim import Adam, Constant
from ldct_jax.train import state as train_state
from ldct_jax.train import steps
from ldct_jax.train.mesh import DataParallel
from tests import tiny

BATCH = 6  # 32 patches: five full batches and one with two patches, padded to six


@functools.cache
def setup(n_devices: int):
    """What the tests share, compiled once; the state is never donated itself."""
    job, feeder = tiny.experiment(), tiny.feeder(batch=BATCH)
    optimizer = job.optimizer.build(100, feeder.steps_per_epoch)
    step = steps.supervised(job.model, job.loss, optimizer)
    parallel = DataParallel(jax.devices()[:n_devices])
    run = parallel.compile_steps(step, feeder, FULL, "dihedral", 16)
    state = jax.tree.map(np.array, train_state.create(job.model, optimizer, 16, job.seed))
    return parallel, feeder, run, step, state


def train(n_devices: int, n_steps: int):
    """(the last state, the first step's gradients, every step's loss)."""
    parallel, feeder, run, _, state = setup(n_devices)
    state, losses, moments = parallel.replicate(state), [], []
    for done in range(n_steps):
        epoch, first = divmod(done, feeder.steps_per_epoch)
        inputs = feeder.inputs(epoch, first, 1, parallel.place)
        state, log = run(state, inputs, np.int32(epoch), np.int32(first), np.int32(1))
        losses.append(float(log["loss"][0]))
        # Adam's first moment: m = (1 - b1) g after the first step.
        moments.append([np.ravel(x) for x in jax.tree.leaves(state.opt_state[0].mu)])
    return state, np.concatenate(moments[0]), losses


@pytest.mark.core
def test_two_devices_train_as_one():
    assert len(jax.devices()) >= 2
    (one, a, one_losses), (two, b, two_losses) = train(1, 10), train(2, 10)
    assert {d.id for d in two.step.devices()} != {d.id for d in one.step.devices()}
    np.testing.assert_allclose(one_losses, two_losses, rtol=1e-6)
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


@pytest.mark.core
@pytest.mark.long
def test_pmap_of_the_same_step_gives_the_same_parameters():
    parallel, feeder, run, step, state = setup(2)
    order = p.epoch_order(len(feeder.grid), BATCH, feeder.seed, 0)
    host = jax.tree.map(np.asarray, state)

    inputs = feeder.inputs(0, 0, 6, parallel.place)
    mapped, _ = run(parallel.replicate(state), inputs, np.int32(0), np.int32(0), np.int32(6))

    pairs = tiny.pairs()
    pmapped = jax.pmap(step, axis_name=steps.AXIS, devices=jax.devices()[:2])
    replicated = jax.tree.map(lambda x: np.stack([x, x]), host)
    key = jax.random.wrap_key_data(state.key)
    for row in order:
        index, weight = p.decode(row)
        low, full = (
            FULL.to_unit(p.cut(stack, index, feeder.grid))
            for stack in (pairs.low_hu, pairs.full_hu)
        )
        low, full = augment("dihedral", key, 0, index, low, full)
        share = [jnp.reshape(x, (2, BATCH // 2, 16, 16, 1)) for x in (low, full)]
        replicated, _ = pmapped(replicated, *share, jnp.reshape(weight, (2, -1)))
    for a, b in zip(
        jax.tree.leaves(mapped.params), jax.tree.leaves(replicated.params), strict=True
    ):
        np.testing.assert_allclose(a, b[0], atol=2e-6)
        np.testing.assert_array_equal(b[0], b[1])


def test_where_calls_are_cut_changes_nothing():
    parallel, feeder, run, _, state = setup(1)
    inputs = feeder.inputs(0, 0, 6, parallel.place)

    def go(*counts):
        s, first = parallel.replicate(state), 0
        for count in counts:
            s, _ = run(s, inputs, np.int32(0), np.int32(first), np.int32(count))
            first += count
        return jax.tree.map(np.asarray, s)

    a, b = go(6), go(1, 2, 3)
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_padding_counts_nothing():
    """The last batch holds two patches; four padded ones must not move its loss."""
    parallel, feeder, run, _, state = setup(1)
    last = feeder.steps_per_epoch - 1
    order = p.epoch_order(len(feeder.grid), BATCH, feeder.seed, 0)
    assert (order[last] >= 0).sum() == 2
    inputs = feeder.inputs(0, 0, 6, parallel.place)
    changed = np.array(order)
    changed[last][changed[last] < 0] = -1 - np.arange(4)
    assert not np.array_equal(changed, order)
    _, a = run(parallel.replicate(state), inputs, np.int32(0), np.int32(last), np.int32(1))
    inputs = {**inputs, "order": parallel.place(changed, True)}
    _, b = run(parallel.replicate(state), inputs, np.int32(0), np.int32(last), np.int32(1))
    assert float(a["loss"][0]) == float(b["loss"][0]) > 0


@pytest.mark.core
def test_the_program_has_one_all_reduce_no_host_transfer_and_a_donated_state():
    parallel, feeder, run, _, state = setup(2)
    inputs = feeder.inputs(0, 0, 1, parallel.place)
    state = parallel.replicate(state)
    lowered = run.lower(state, inputs, np.int32(0), np.int32(0), np.int32(1))
    text = lowered.as_text()
    assert text.count("stablehlo.all_reduce") == 1
    for word in ("infeed", "outfeed", "callback", "send"):
        assert word not in text
    assert "jax.buffer_donor" in text or "tf.aliasing_output" in text
    run(state, inputs, np.int32(0), np.int32(0), np.int32(1))
    assert state.params["clone"]["conv1"]["kernel"].is_deleted()


@pytest.mark.core
def test_bfloat16_step_convolves_in_bfloat16_only():
    job, feeder = tiny.experiment(model=tiny.MODEL.clone(dtype=jnp.bfloat16)), tiny.feeder()
    optimizer = Adam(Constant(1e-3)).build(10, 8)
    parallel = DataParallel(jax.devices()[:1])
    run = parallel.compile_steps(
        steps.supervised(job.model, job.loss, optimizer), feeder, FULL, "none", 4
    )
    state = parallel.replicate(train_state.create(job.model, optimizer, 16, 0))
    inputs = feeder.inputs(0, 0, 1, parallel.place)
    text = run.lower(state, inputs, np.int32(0), np.int32(0), np.int32(1)).as_text()
    convolutions = [x for x in text.splitlines() if "stablehlo.convolution" in x]
    assert len(convolutions) > 5
    assert all("xbf16>" in x and "xf32>" not in x for x in convolutions)


@pytest.mark.core
def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(UsageError, match="multiple of 2"):
        DataParallel(jax.devices()[:2]).check_batch(5)
