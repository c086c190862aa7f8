"""Low doses drawn slice by slice: ranges, noise, reproducibility, refusals."""

import dataclasses

import numpy as np
import pytest

from ldct_jax.data.mixed_dose import Drawn, MixedDose, add_mixed_dose, draw, simulate_mixed
from ldct_jax.data.noise_estimate import flat_tissue
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.data.own_noise import measure_own_noise
from ldct_jax.data.prepare import prepare
from ldct_jax.errors import DataError, UsageError
from tests.dicom_fixtures import anatomy, noisy, write_series


@pytest.mark.core
def test_draws_keep_to_their_ranges():
    mixed = MixedDose(draws=40, step_mm=2.0)
    offsets = [0.0, 0.8, 1.6, 2.4, 3.2, 4.0, 4.8]
    drawn = draw(mixed, offsets, np.random.default_rng(0))
    assert {one.index for one in drawn} == {0, 3, 6}  # 2.4 mm apart
    doses = np.array([one.fraction for one in drawn])
    assert doses.min() >= 0.1 and doses.max() <= 1
    assert np.median(doses) == pytest.approx(0.1**0.5, rel=0.3)  # log-uniform
    thinner = np.array([one.thinner for one in drawn])
    assert (thinner > 1).mean() == pytest.approx(0.3, abs=0.13)
    assert thinner[thinner > 1].min() >= 2 and thinner.max() <= 8
    assert {one.kernel for one in drawn} == {"own"}
    assert drawn == draw(mixed, offsets, np.random.default_rng(0))
    assert drawn != draw(mixed, offsets, np.random.default_rng(1))


def test_noise_of_dose_and_thinner_slices():
    body = noisy(anatomy(0, 2), 12.0, 1)
    region = flat_tissue(body, 5.0).flat[:1]
    own = measure_own_noise(body, 5.0)
    shape = {"own": own, "pixel_mm": 5.0, "seed": 0}

    def sds(fraction, thinner):
        low, full = simulate_mixed(body, [Drawn(0, fraction, "own", thinner)], **shape)
        reference = full.astype(float) - body[:1]
        return reference[region].std(), (low.astype(float) - full)[region].std()

    zero, at_half = sds(0.5, 1.0)
    assert zero == 0
    assert at_half == pytest.approx(own.sd_hu, rel=0.15)
    assert sds(0.2, 1.0)[1] == pytest.approx(2 * at_half, rel=0.15)  # 1/a - 1: 4 to 1
    reference, added = sds(0.5, 4.0)
    # The reference has three times the slice's own variance more, its low dose four times more.
    assert reference == pytest.approx(3**0.5 * at_half, rel=0.15)
    assert added == pytest.approx(2 * at_half, rel=0.15)


@pytest.mark.long
def test_a_store_of_mixed_doses(tmp_path):
    noise = np.random.default_rng(0).normal(0, 10, (2, 64, 64))
    body = np.clip(anatomy(0, 2) + noise, -1024, 3071).astype(np.int16)
    write_series(tmp_path / "in", body)
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    mixed = MixedDose(draws=2, thinner_share=0.5, step_mm=0.0, seed=3)
    made = add_mixed_dose(store, tmp_path / "mixed", mixed)
    (record,) = made.series
    assert record.full.shape == (4, 64, 64) == record.low.shape
    assert record.low_dose["spec"]["draws"] == 2 and record.low_dose["spec"]["target"] is None
    assert [one["index"] for one in record.low_dose["slices"]] == [0, 1, 0, 1]
    for i, one in enumerate(record.low_dose["slices"]):
        same = np.array_equal(made.full(0)[i], store.full(0)[one["index"]])
        assert same == (one["thinner"] == 1)
        assert not np.array_equal(made.low(0)[i], made.full(0)[i])
    again = add_mixed_dose(store, tmp_path / "again", mixed)
    np.testing.assert_array_equal(again.low(0), made.low(0))
    other = add_mixed_dose(store, tmp_path / "other", dataclasses.replace(mixed, seed=4))
    assert (other.low(0) != made.low(0)).mean() > 0.5
    rule = NoiseFreeTarget()
    noise_free = add_mixed_dose(store, tmp_path / "free", dataclasses.replace(mixed, target=rule))
    np.testing.assert_array_equal(noise_free.low(0), made.low(0))
    assert (noise_free.full(0) != made.full(0)).mean() > 0.3
    assert noise_free.series[0].low_dose["spec"]["target"]["most"] == rule.most
    with pytest.raises(DataError, match="already holds low-dose"):
        add_mixed_dose(made, tmp_path / "x", mixed)


def test_a_series_without_noise_is_refused(tmp_path):
    write_series(tmp_path / "in", anatomy(0, 2))
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    with pytest.raises(DataError, match="noise in flat soft tissue"):
        add_mixed_dose(store, tmp_path / "out", MixedDose())


@pytest.mark.core
@pytest.mark.parametrize(
    "wrong",
    [
        {"fraction": (0.0, 1.0)},
        {"fraction": (0.5, 0.1)},
        {"thinner": (1.0, 2.0)},
        {"thinner_share": 1.5},
        {"draws": 0},
        {"kernels": ()},
        {"kernels": ("B30",)},
        {"step_mm": -1.0},
    ],
)
def test_impossible_mixtures(wrong):
    with pytest.raises(UsageError):
        MixedDose(**wrong)
