"""The recipe of the shipped model: who trains, who is tested, and pairs that stay pairs."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.shipped import ablation, train
from experiments.shipped.versions import bias_hu
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.models import whole_slices


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


def test_half_resolution_is_the_identity_at_first_and_keeps_every_pixel_in_its_place():
    """The rows of the ablation must differ in the network, not in a shift of half a pixel."""
    model = ablation.HalfResolution(4, n_clones=2, n_layers=4)
    y = jax.random.normal(jax.random.key(0), (2, 12, 16, 1))
    variables = model.init(jax.random.key(1), y)
    np.testing.assert_array_equal(model.apply(variables, y), np.stack([y, y]))
    # With a last layer that is not zero, a change of one pixel reaches only what is near it.
    filled = jax.tree.map(
        lambda v: v + 0.1 * jax.random.normal(jax.random.key(2), v.shape), variables
    )
    changed = model.apply(filled, y.at[0, 6, 8].add(1.0)) - model.apply(filled, y)
    assert np.abs(changed[:, 1]).max() == 0
    # And a network of odd sides goes through whole_slices, which pads and crops.
    out = whole_slices.denoise(model, variables, y[:, :11, :15])
    np.testing.assert_allclose(out, y[:, :11, :15], atol=1e-6)


def test_the_ablation_trains_on_no_patient_that_judges_or_is_held_out():
    names = ("LIDC-IDRI 0001", "TCGA-LIHC A10X", "TCGA-LIHC A10W", "TCGA-LUAD Z051")
    n = len(names)
    pixels = np.zeros((n, 8, 8), np.int16)
    sizes = np.full(n, 1.0, np.float32)
    split = ablation.judged(PairedSlices(pixels, pixels, names, sizes, sizes, "none"))
    assert split.train == ("TCGA-LIHC A10X",)
    assert split.validation == ("LIDC-IDRI 0001",)
