"""Targets whose noise follows from the input's: shares, means, and the pairs of a store."""

import numpy as np
import pytest

from ldct_jax.data.flat_noise import flat_region
from ldct_jax.data.mixed_dose import Drawn, simulate_mixed
from ldct_jax.data.quiet_target import QuietTarget
from ldct_jax.errors import UsageError
from tests.dicom_fixtures import anatomy

pytestmark = pytest.mark.core


def test_the_share_kept_falls_with_the_noise_between_its_bounds():
    rule = QuietTarget(level_hu=10, power=2, least=0.2)
    assert [rule.kept(s) for s in (5, 10, 20, 80)] == [1, 1, 0.25, 0.2]


@pytest.mark.parametrize("own, ratio", [(6.0, 10.0), (10.0, 4.0), (10.0, 2.0), (14.0, 1.6)])
def test_the_targets_mean_keeps_that_share_of_all_noise(own, ratio):
    """What a network can know of a target is its mean for an input: the regression on its noise."""
    rule = QuietTarget(level_hu=10.75, power=3, least=0.15, most=4.0)
    rng = np.random.default_rng(0)
    image, size = 50.0, 400_000
    original = image + rng.normal(0, own, size)
    low = original + rng.normal(0, own * (ratio - 1) ** 0.5, size)
    target = rule.of(low, original, own, ratio)
    noise = low - image
    assert noise.std() == pytest.approx(own * ratio**0.5, rel=0.01)
    kept = np.mean((target - image) * noise) / np.mean(noise**2)
    assert kept == pytest.approx(rule.kept(own * ratio**0.5), abs=0.01)
    assert target.mean() == pytest.approx(image, abs=0.1)


def test_little_added_noise_is_not_blown_up():
    rule = QuietTarget(most=2.0)
    assert rule.removed(14.0, 1.05) == 2.0 == rule.removed(14.0, 1.0)
    # More stays there than the rule says.
    assert 1 - rule.removed(14.0, 1.05) * (1 - 1 / 1.05) > 0.9 > rule.kept(14.0 * 1.05**0.5)
    # What is quiet anyway stays as it is.
    assert rule.removed(5.0, 1.0) == 0.0 == rule.removed(5.0, 2.0)
    with pytest.raises(UsageError, match="larger noise"):
        rule.removed(10.0, 0.5)


@pytest.mark.parametrize(
    "wrong", [{"level_hu": 0.0}, {"power": -1.0}, {"least": 1.5}, {"most": 0.5}]
)
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(UsageError, match="QuietTarget"):
        QuietTarget(**wrong)


def test_the_pairs_of_a_thinner_slice_aim_at_the_slice_itself():
    """Not at its noisier normal dose; with a rule that removes all, little of either is left."""
    noise = np.random.default_rng(1).normal(0, 10, (1, 64, 64))
    body = np.clip(anatomy(0, 1) + noise, -1024, 3071).astype(np.int16)
    region = flat_region(anatomy(0, 1), 5.0)
    how = {"n0": {"smooth": 3e4}, "pixel_mm": 5.0, "seed": 0}
    drawn = [Drawn(0, 0.5, "smooth", 4.0)]
    low, noisier = simulate_mixed(body, drawn, **how)
    rule = QuietTarget(level_hu=0.01, least=0.0)
    same, target = simulate_mixed(body, drawn, target=rule, noise_hu=10.0, **how)
    np.testing.assert_array_equal(same, low)
    factor = rule.removed(10.0, 8.0)
    assert factor == pytest.approx(8 / 7, rel=0.01)
    # The stored input is rounded and cut at -1024 HU, the target is made before that.
    inside = np.asarray(region)
    expected = low.astype(float) - factor * (low.astype(float) - body)
    assert np.abs(target - expected)[inside].max() <= 1.5
    left = (target.astype(float) - body)[inside].std()
    assert left < 0.3 * (noisier.astype(float) - body)[inside].std()
