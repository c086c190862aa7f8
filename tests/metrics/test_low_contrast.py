"""The low-contrast phantom: truth, doses, and what a blur can and can't win."""

import numpy as np
import pytest
from scipy import ndimage

from ldct_jax.errors import UsageError
from ldct_jax.metrics.low_contrast import (
    BACKGROUND_HU,
    INSERTS,
    LowContrastPhantom,
    detectability,
    dose_at_equal_d_prime,
)

PHANTOM = LowContrastPhantom(full_sd_hu=8.0, pixel_mm=1.0, realisations=60)


@pytest.mark.core
def test_the_truth_has_the_stated_inserts():
    added = PHANTOM.truth(inserts=True) - PHANTOM.truth(inserts=False)
    for i, (diameter_mm, contrast_hu) in enumerate(INSERTS):
        row, column = PHANTOM.centre(i)
        assert added[row, column] == pytest.approx(contrast_hu, abs=1e-3)
        inside = PHANTOM.region(added[None], i).sum() / contrast_hu
        assert inside == pytest.approx(np.pi / 4 * diameter_mm**2, rel=0.05)
    total = sum(np.pi / 4 * d**2 * c for d, c in INSERTS)
    assert added.sum() == pytest.approx(total, rel=0.03)  # and nothing else
    assert PHANTOM.truth(inserts=False)[56, 56] == BACKGROUND_HU


def test_noise_grows_as_one_over_root_dose_and_differs():
    full, quarter = (PHANTOM.images(dose)[1] - PHANTOM.truth(inserts=False) for dose in (1, 0.25))
    assert full.std() == pytest.approx(8, rel=0.02)
    assert quarter.std() == pytest.approx(16, rel=0.02)
    assert abs(np.corrcoef(full.ravel(), quarter.ravel())[0, 1]) < 0.01


@pytest.mark.long
def test_detectability_rises_with_dose_and_blur_wins_little():
    doses = (0.1, 1.0)
    plain = detectability(PHANTOM, lambda hu: hu, doses)
    blurred = detectability(PHANTOM, lambda hu: ndimage.gaussian_filter(hu, (0, 1, 1)), doses)
    for i in range(len(INSERTS)):
        low, high = plain[0.1][i], plain[1.0][i]
        assert high.d_prime > 1.5 * low.d_prime
        assert low.auc < high.auc
        assert blurred[0.1][i].d_prime_interval[0] < low.d_prime_interval[1]
    # Something can be lost and something won: neither blind nor perfect.
    assert all(one.auc_interval[1] > 0.5 and one.auc_interval[0] < 1 for one in plain[0.1])


@pytest.mark.core
def test_dose_at_equal_d_prime():
    curve = {dose: 3 * dose**0.5 for dose in (0.1, 0.25, 0.5, 1.0)}
    assert dose_at_equal_d_prime(curve, 3 * 0.4**0.5) == pytest.approx(0.4)
    assert dose_at_equal_d_prime(curve, 3.5) is None
    assert dose_at_equal_d_prime(curve, 0.5) is None
    assert dose_at_equal_d_prime({0.1: -0.2, 0.5: 1.0, 1.0: 2.0}, 1.5) == pytest.approx(
        0.75, rel=0.1
    )


@pytest.mark.core
@pytest.mark.parametrize("wrong", [{"full_sd_hu": 0.0}, {"pixel_mm": 3.0}, {"realisations": 5}])
def test_impossible_phantoms(wrong):
    with pytest.raises(UsageError):
        LowContrastPhantom(**wrong)
