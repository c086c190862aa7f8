"""Targets whose mean has no noise: means, bounds, and the pairs of a store."""

import numpy as np
import pytest

from ldct_jax.data.mixed_dose import Drawn, simulate_mixed
from ldct_jax.data.noise_estimate import flat_tissue
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.data.own_noise import measure_own_noise
from ldct_jax.errors import UsageError
from tests.dicom_fixtures import anatomy

pytestmark = pytest.mark.core


@pytest.mark.parametrize("own, ratio, kept", [(6.0, 10.0, 0), (10.0, 1.6, 0), (14.0, 1.25, 0.4)])
def test_the_targets_mean_holds_no_noise(own, ratio, kept):
    """What a network can know of a target is its mean for an input: the regression on its noise."""
    rule = NoiseFreeTarget(most=3.0)
    rng = np.random.default_rng(0)
    image, size = 50.0, 400_000
    original = image + rng.normal(0, own, size)
    low = original + rng.normal(0, own * (ratio - 1) ** 0.5, size)
    target = rule.of(low, original, ratio)
    noise = low - image
    assert noise.std() == pytest.approx(own * ratio**0.5, rel=0.01)
    # Some is kept where V/W, here 5, is above the bound.
    assert np.mean((target - image) * noise) / np.mean(noise**2) == pytest.approx(kept, abs=0.01)
    assert target.mean() == pytest.approx(image, abs=0.1)


def test_little_added_noise_is_not_blown_up():
    rule = NoiseFreeTarget(most=2.0)
    assert rule.removed(1.05) == 2.0 == rule.removed(1.0)
    assert rule.removed(4.0) == pytest.approx(4 / 3)
    with pytest.raises(UsageError, match="larger noise"):
        rule.removed(0.5)
    with pytest.raises(UsageError, match="NoiseFreeTarget"):
        NoiseFreeTarget(most=0.5)


def test_the_pairs_of_a_thinner_slice_aim_at_the_slice_itself():
    """Not at its noisier normal dose: little of either's noise is left."""
    noise = np.random.default_rng(1).normal(0, 10, (1, 64, 64))
    body = np.clip(anatomy(0, 1) + noise, -1024, 3071).astype(np.int16)
    region = flat_tissue(anatomy(0, 1), 5.0).flat
    how = {"own": measure_own_noise(body, 5.0), "pixel_mm": 5.0, "seed": 0}
    drawn = [Drawn(0, 0.5, "own", 4.0)]
    low, noisier = simulate_mixed(body, drawn, **how)
    rule = NoiseFreeTarget()
    same, target = simulate_mixed(body, drawn, target=rule, **how)
    np.testing.assert_array_equal(same, low)
    factor = rule.removed(8.0)
    assert factor == pytest.approx(8 / 7, rel=0.01)
    # The stored input is rounded and cut at -1024 HU, the target is made before that.
    inside = np.asarray(region)
    expected = low.astype(float) - factor * (low.astype(float) - body)
    assert np.abs(target - expected)[inside].max() <= 1.5
    left = (target.astype(float) - body)[inside].std()
    assert left < 0.3 * (noisier.astype(float) - body)[inside].std()
