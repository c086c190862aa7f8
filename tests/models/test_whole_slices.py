"""Whole slices through a network in one step and in two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.errors import NumericsError
from ldct_jax.hu import FULL
from ldct_jax.models.whole_slices import WholeSlices
from tests import tiny

pytestmark = pytest.mark.core


@pytest.fixture
def variables():
    return tiny.MODEL.init(jax.random.key(0), jnp.zeros((1, 24, 24, 1)))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_begun_and_waited_for_is_the_same_as_called(backend, variables, monkeypatch):
    hu = np.random.default_rng(0).integers(-1000, 1000, (3, 24, 24)).astype(np.int16)
    slices = WholeSlices(tiny.MODEL, FULL, batch=2)
    expected = slices(variables, hu)
    assert expected.shape == hu.shape and expected.dtype == np.float32
    # What an accelerator does, tried on the CPU.
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    ran = []
    program = slices._result
    monkeypatch.setattr(slices, "_result", lambda *a: ran.append(1) or program(*a))
    waiting = slices.begin(variables, hu)
    assert len(ran) == (2 if backend == "gpu" else 0)
    np.testing.assert_array_equal(waiting(), expected)
    assert len(ran) == 2


def test_numbers_that_are_not_finite_are_told_where_they_are_waited_for(variables, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    broken = jax.tree.map(lambda x: x * jnp.nan, variables)
    waiting = WholeSlices(tiny.MODEL, FULL).begin(broken, np.zeros((1, 24, 24), np.int16))
    with pytest.raises(NumericsError, match="NaN"):
        waiting()


def test_clones_come_batch_by_batch_and_their_last_one_is_the_result(variables):
    hu = np.random.default_rng(0).integers(-1000, 1000, (3, 24, 24)).astype(np.int16)
    slices = WholeSlices(tiny.MODEL, FULL, batch=2)
    indices, images = zip(*slices.clones(variables, hu), strict=True)
    assert [at.tolist() for at in indices] == [[0, 1], [2, 2]]
    assert {i.shape for i in images} == {(tiny.MODEL.n_clones, 2, 24, 24)}
    last = np.concatenate([i[-1] for i in images])[:3]
    np.testing.assert_allclose(last, slices(variables, hu), rtol=1e-5, atol=1e-2)


def test_clones_that_are_not_finite_are_told(variables):
    broken = jax.tree.map(lambda x: x * jnp.nan, variables)
    with pytest.raises(NumericsError, match="NaN"):
        list(WholeSlices(tiny.MODEL, FULL).clones(broken, np.zeros((1, 24, 24), np.int16)))
