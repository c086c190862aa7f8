"""Schedules hit their stated rates; optimisers do what their paper says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldct_jax.errors import UsageError
from ldct_jax.optim import Adam, Constant, Cosine, Exponential, InverseSqrtEpoch, Piecewise
from tests.tiny import rate_at

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (Constant(0.1), {0: 0.1, 99: 0.1}),
        (Exponential(1e-4, to=1e-5), {0: 1e-4, 99: 1e-5, 200: 1e-5}),
        (Cosine(1e-3), {0: 1e-3, 50: 5e-4, 100: 0.0}),
        (Cosine(1e-3, warmup=0.1), {0: 0.0, 5: 5e-4, 10: 1e-3, 100: 0.0}),
        (Piecewise(), {0: 1e-4, 49: 1e-4, 50: 1e-5, 74: 1e-5, 75: 1e-6}),
        (InverseSqrtEpoch(1e-4), {0: 1e-4, 9: 1e-4, 10: 1e-4 / 2**0.5, 30: 5e-5}),
    ],
)
def test_schedules(schedule, rates):
    adam = Adam(schedule)
    for step, rate in rates.items():
        assert rate_at(adam, step, 100, 10) == pytest.approx(rate, rel=1e-5, abs=1e-12), step


def test_adam_is_optax_adam_with_the_schedule():
    params = {"conv1": {"kernel": jnp.ones(3)}}
    grads = jax.tree.map(lambda p: 0.3 * p, params)
    ours = Adam(Constant(0.01), b1=0.5, eps=1e-3).build(10, 5)
    theirs = optax.adam(0.01, b1=0.5, eps=1e-3)
    a, _ = ours.update(grads, ours.init(params), params)
    b, _ = theirs.update(grads, theirs.init(params), params)
    np.testing.assert_array_equal(a["conv1"]["kernel"], b["conv1"]["kernel"])


def test_last_conv_moves_the_last_convolution_only():
    params = {f"conv{i}": {"kernel": jnp.ones(2)} for i in (1, 2, 10)} | {"bn1": {"scale": 1.0}}
    optimizer = Adam(Constant(0.1), trainable="last_conv").build(10, 5)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    moved = {k for k, v in updates.items() if any(np.any(x) for x in jax.tree.leaves(v))}
    assert moved == {"conv10"}


def test_senseless_optimisers_are_refused():
    with pytest.raises(UsageError, match="last_conv, last_stage"):
        Adam(trainable="first")
    with pytest.raises(UsageError, match="boundaries"):
        Piecewise((1.0, 2.0), (0.1, 0.2))
    with pytest.raises(UsageError, match="conv1"):
        Adam(trainable="last_conv").build(1, 1).init({"dense": jnp.ones(1)})
