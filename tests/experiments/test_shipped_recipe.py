"""The recipe of the shipped model: who trains, who is tested, and pairs that stay pairs."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.shipped import train
from experiments.shipped.versions import bias_hu
from ldct_jax.data.pairs import PairedSlices


def test_no_patient_of_training_is_validated_or_tested():
    sides = (
        {**train.TRAINING, **train.SINGLES, **train.SMOOTH_SINGLES},
        train.VALIDATION,
        {**train.HELD_OUT, **train.HELD_OUT_SINGLES},
    )
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(sides[one]) & set(sides[other])
        assert not set(sides[one].values()) & set(sides[other].values())


def test_both_images_of_a_pair_get_the_same_other_kernel_or_none():
    n = 40
    rng = np.random.default_rng(0)
    low = (100 * rng.normal(size=(n, 32, 32))).astype(np.int16)
    pairs = PairedSlices(
        low, 2 * low, ("p",) * n, np.full(n, 0.7, np.float32), np.full(n, 5.0, np.float32), "noise"
    )
    kernel = {"name": "measured", "half_per_mm": 0.35, "order": 2.5, "cutoff_per_mm": None}
    series = SimpleNamespace(
        low_dose={"own_noise": {"kernel": kernel}}, full=SimpleNamespace(shape=(n, 32, 32))
    )
    made = train.in_other_kernels(pairs, SimpleNamespace(series=[series]), seed=3)
    assert np.abs(made.full_hu - 2 * made.low_hu).max() <= 2  # rounding
    changed = (made.low_hu != low).any((1, 2))
    assert 0.3 < changed.mean() < 0.7
    spread = made.low_hu[changed].std((1, 2)) / low[changed].std((1, 2))
    assert spread.min() < 0.8 and spread.max() > 1.2  # smoother ones and sharper ones


def test_bias_is_that_of_soft_tissue_alone():
    full = np.full((1, 64, 64), 50, np.int16)
    full[:, :32] = -900
    result = full + 2.0
    result[:, :20] += 100.0
    assert bias_hu(result, full) == pytest.approx(2.0)
