"""The trial of neighbouring slices: what its two networks see, and the lesion that it measures."""

import jax
import numpy as np
import pytest

from experiments.shipped import neighbours, train
from experiments.shipped.held_out import Patient


def test_no_judge_trains_the_networks_that_it_judges():
    judges = {name for fold in neighbours.FOLDS for name in fold}
    assert judges <= {*train.TRAINING.values(), *train.VALIDATION.values()}
    assert not judges & {*train.HELD_OUT.values(), *train.HELD_OUT_SINGLES.values()}


@pytest.mark.parametrize("n_slices", [1, 3])
def test_only_the_network_of_three_slices_sees_three(n_slices):
    model = neighbours.Neighbours(
        n_filters=2, n_clones=2, n_layers=4, n_slices=n_slices, final_relu=False
    )
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    variables = model.init(jax.random.key(1), x)
    before = model.apply(variables, x)
    assert before.shape == (2, 1, 16, 16, 1)
    for channel in (0, 1, 2):
        after = model.apply(variables, x.at[..., channel].add(1.0))
        assert (np.abs(after - before).max() > 1e-6) == (channel == 1 or n_slices == 3)


def test_at_the_ends_the_slice_stands_for_its_missing_neighbour(monkeypatch):
    """With the same noise: the network must not average two draws of one slice."""

    def simulated(full_hu, drawn, **_):
        noisy = np.stack([full_hu[one.index] + 10 * k for k, one in enumerate(drawn)])
        return noisy.astype(np.int16), np.stack([full_hu[one.index] for one in drawn])

    monkeypatch.setattr(neighbours, "simulate_mixed", simulated)
    full = (1000 * np.arange(3)[:, None, None] + np.zeros((3, 4, 4))).astype(np.int16)
    patient = Patient("p", full, 0.7)
    patient.__dict__["own"] = None
    drawn = neighbours.draw(neighbours.MIXED, range(3), np.random.default_rng(0), range(3))
    low, normal = neighbours.three_slices(patient, drawn)
    np.testing.assert_array_equal(
        low[:, 0, 0], [[10, 10, 1020], [30, 1040, 2050], [1060, 2070, 2070]]
    )
    np.testing.assert_array_equal(normal[:, 0, 0], [0, 1000, 2000])


def test_a_lesion_lies_in_flat_soft_tissue_and_its_contrast_is_measured(monkeypatch):
    rng = np.random.default_rng(0)
    hu = rng.normal(-900, 10, (1, 96, 96))
    hu[:, 40:80, 30:70] = rng.normal(60, 10, (1, 40, 40))
    patient = Patient("p", hu.astype(np.int16), 0.7)
    disc = neighbours.lesion(patient, hu[0])
    assert disc.sum() * 0.7**2 == pytest.approx(np.pi * 3**2, rel=0.1)
    assert disc[44:76, 34:66].sum() == disc.sum()
    # A network that averages the three slices equally would keep a third.
    monkeypatch.setattr(neighbours, "estimate", lambda model, params, low: low.mean(-1))
    low = np.repeat(hu[..., None], 3, axis=-1)
    assert neighbours.contrast_kept(None, None, patient, low, hu) == pytest.approx(1 / 3)
