"""The quality phantom against what can be computed by hand; a blur must lose on it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ldct_jax.errors import UsageError
from ldct_jax.metrics.quality_phantom import BODY_HU, DISCS, QualityPhantom, measure

PHANTOM = QualityPhantom(size=192, pixel_mm=1.5, noise_hu=30.0)


@pytest.fixture(scope="module")
def untouched():
    return measure(PHANTOM, lambda hu: hu)


@pytest.fixture(scope="module")
def blurred():
    return measure(PHANTOM, lambda hu: gaussian_filter(hu, (0, 1, 1)))


@pytest.mark.core
def test_the_truth_has_the_stated_values():
    with_lesions, without = PHANTOM.truth(lesions=True), PHANTOM.truth(lesions=False)
    for hu, row, column in DISCS.values():
        y, x = (round(v) for v in PHANTOM.place(row, column))
        assert without[y, x] == hu
    assert without[0, 0] == -1000
    added = with_lesions - without
    for y, x in PHANTOM.lesions:
        assert added[round(y), round(x)] == pytest.approx(PHANTOM.lesion_hu)
        assert PHANTOM.lesion_hu == pytest.approx(4.5)
        assert without[round(y), round(x)] == BODY_HU
    area = np.pi * PHANTOM.lesion_radius**2 * len(PHANTOM.lesions)
    assert added.sum() / PHANTOM.lesion_hu == pytest.approx(area, rel=0.02)


def test_the_untouched_phantom_shows_the_noise_it_was_given(untouched):
    assert untouched.noise_hu == pytest.approx(30, rel=0.05)
    step = untouched.nps_per_mm[1] - untouched.nps_per_mm[0]
    f = np.array(untouched.nps_per_mm)
    # 2 pi f df NPS(f) adds up to the variance, but for the corners beyond Nyquist.
    assert (2 * np.pi * f * untouched.nps).sum() * step == pytest.approx(30**2, rel=0.2)
    assert all(abs(bias) < 3 for bias in untouched.bias_hu.values())
    for curve in untouched.ttf.values():
        assert min(np.array(curve["ttf"])[np.array(curve["per_mm"]) < 0.2]) > 0.75
    assert untouched.ttf["high contrast"]["contrast_hu"] == pytest.approx(900, rel=0.02)
    assert untouched.ttf["low contrast"]["contrast_hu"] == pytest.approx(-150, rel=0.08)


def test_white_noise_is_detected_as_theory_says():
    """An ideal observer of white noise has d'² = contrast² · area / variance; with a few smooth
    channels it keeps most of that."""
    rng = np.random.default_rng(0)
    phantom = QualityPhantom(192, 1.5, noise_hu=30.0, contrast=0.5, realisations=30)
    flat = phantom.truth(lesions=False)

    def white(hu):
        lesions = hu.mean(0) - flat  # which of the two stacks it is
        clean = phantom.truth(lesions=lesions[round(phantom.lesions[0][0]), :].mean() > 0)
        seen = np.mean([np.sum((hu.mean(0) - phantom.truth(lesions=k)) ** 2) for k in (True,)])
        less = np.sum((hu.mean(0) - flat) ** 2)
        clean = phantom.truth(lesions=bool(seen < less))
        return clean + rng.normal(0, 30, hu.shape)

    found = measure(phantom, white)
    ideal = 0.5 * (np.pi * phantom.lesion_radius**2) ** 0.5
    assert 0.75 * ideal < found.d_prime < 1.1 * ideal
    assert found.noise_hu == pytest.approx(30, rel=0.02)
    assert np.ptp(found.nps) < 0.35 * np.mean(found.nps)


def test_a_blur_loses_resolution_and_texture(untouched, blurred):
    for name in untouched.ttf:
        assert blurred.ttf[name]["f50_per_mm"] == pytest.approx(
            # exp(-2 (pi f sigma)²) = 1/2, sigma = 1.5 mm
            (np.log(2) / 2) ** 0.5 / (np.pi * 1.5),
            rel=0.12,
        )
        assert (untouched.ttf[name]["f50_per_mm"] or 1) > 1.5 * blurred.ttf[name]["f50_per_mm"]
    assert blurred.nps_mean_per_mm < 0.75 * untouched.nps_mean_per_mm
    assert blurred.noise_hu < untouched.noise_hu
    assert blurred.cnr > untouched.cnr  # what fools a reader of CNR alone
    # But nothing was won, and there was something to lose.
    assert blurred.n_channels == untouched.n_channels == 5
    assert blurred.d_prime_interval[0] < untouched.d_prime
    assert 0.55 < untouched.auc_interval[0] < untouched.auc_interval[1] < 0.99


def test_wrong_numbers_are_seen(untouched):
    off = measure(PHANTOM, lambda hu: hu + 7)
    for name, bias in off.bias_hu.items():
        assert bias - untouched.bias_hu[name] == pytest.approx(7, abs=1e-3)
    hidden = measure(PHANTOM, lambda hu: np.full_like(hu, 50.0))
    assert hidden.d_prime is None and hidden.cnr is None and hidden.noise_hu == 0
    assert hidden.ttf == {"low contrast": None, "high contrast": None}


@pytest.mark.core
@pytest.mark.parametrize("wrong", [{"size": 32}, {"noise_hu": 0.0}, {"realisations": 2}])
def test_impossible_phantoms(wrong):
    with pytest.raises(UsageError):
        QualityPhantom(**{"size": 96, "pixel_mm": 4.0, "noise_hu": 20.0, **wrong})
