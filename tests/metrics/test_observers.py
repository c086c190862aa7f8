"""Model observers against ideal-observer theory and the FDA's published toolbox."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics.observers import (
    OBSERVERS,
    channels_of,
    detect,
    flattened,
    laguerre_gauss,
    separation,
    template,
)
from tests.conftest import require

SIZE, WIDTH, SD = 33, 10.0, 20.0


def lesion(peak):
    x = np.arange(SIZE) - SIZE // 2
    return peak * np.exp(-np.pi * (x[:, None] ** 2 + x**2) / WIDTH**2)


def ideal(peak):
    """d' of the best observer of white noise, which the images' own means don't help."""
    return np.linalg.norm(lesion(peak) - lesion(peak).mean()) / SD


def regions(peak, n=1500, seed=0):
    rng = np.random.default_rng(seed)
    noise = SD * rng.standard_normal((2 * n, SIZE, SIZE))
    return noise[:n] + lesion(peak), noise[n:]


def test_laguerre_gauss_channels_are_orthonormal():
    channels = laguerre_gauss(65, 10.0, 5)
    # ∫ u_j u_k dx dy is 1 for the published scale √2/a.
    assert channels.T @ channels == pytest.approx(np.eye(5), abs=1e-4)
    assert laguerre_gauss(33, 10.0, 1)[:, 0].reshape(33, 33).argmax() == 33 * 16 + 16


@pytest.mark.core
@pytest.mark.parametrize("peak", [0.0, 4.0, 8.0])
def test_in_white_noise_a_matched_lesion_is_seen_ideally(peak):
    result = detect(*regions(peak), diameter=1.5 * WIDTH)
    assert result.d_prime == pytest.approx(ideal(peak), abs=0.12)
    assert result.auc == pytest.approx(stats.norm.cdf(ideal(peak) / 2**0.5), abs=0.025)
    assert result.n == 1500
    for value, (low, high) in (
        (result.d_prime, result.d_prime_interval),
        (result.auc, result.auc_interval),
    ):
        assert low <= value <= high
    low, high = result.d_prime_interval
    assert 0.05 < high - low < 0.3  # 1500 images: the SD of d' is about sqrt(2/1500)


def test_the_interval_covers_the_truth():
    hits = 0
    for seed in range(20):
        found = detect(*regions(6.0, 200, seed), diameter=1.5 * WIDTH, seed=seed)
        hits += found.d_prime_interval[0] < ideal(6.0) < found.d_prime_interval[1]
    assert hits >= 14  # templates from 100 images lose a little of the ideal


@pytest.mark.parametrize("observer", OBSERVERS)
def test_every_observer_sees_the_lesion_and_nothing_in_nothing(observer):
    seen = detect(*regions(6.0, 400), diameter=WIDTH, observer=observer)
    assert 0.5 < seen.d_prime < 1.15 * ideal(6.0)
    blind = detect(*regions(0.0, 400), diameter=WIDTH, observer=observer)
    assert blind.auc == pytest.approx(0.5, abs=0.06)


def test_few_images_do_not_flatter_the_observer():
    # Scored on its own training images, five channels "see" nothing at d' of about 1 from 2 x 40.
    blind = [detect(*regions(0.0, 40, seed), diameter=15.0).d_prime for seed in range(30)]
    assert abs(np.mean(blind)) < 0.2


def test_blur_wins_psnr_and_gains_the_observer_nothing():
    present, absent = regions(6.0)
    blurred = [ndimage.gaussian_filter(r, (0, 3, 3)) for r in (present, absent)]
    assert np.mean((blurred[0] - lesion(6.0)) ** 2) < 0.02 * SD**2
    sharp, soft = detect(present, absent, diameter=15.0), detect(*blurred, diameter=15.0)
    assert soft.d_prime < sharp.d_prime + 0.05


def test_the_result_is_a_function_of_the_seed():
    pair = regions(6.0, 100)
    assert detect(*pair, diameter=15.0) == detect(*pair, diameter=15.0)
    assert detect(*pair, diameter=15.0) != detect(*pair, diameter=15.0, seed=1)


def test_what_the_observer_refuses():
    present, absent = regions(6.0, 30)
    with pytest.raises(DataError, match="at least 20"):
        detect(present[:16], absent, diameter=15.0)
    with pytest.raises(DataError, match="one size"):
        detect(present, absent[:, 1:, 1:], diameter=15.0)
    with pytest.raises(DataError, match="square"):
        detect(present[:, 1:], absent[:, 1:], diameter=15.0)
    with pytest.raises(DataError, match="holds no noise"):
        detect(np.ones_like(present), np.zeros_like(absent), diameter=15.0)
    with pytest.raises(UsageError, match="positive width"):
        detect(present, absent, diameter=0.0)
    with pytest.raises(UsageError, match="unknown observer"):
        detect(present, absent, diameter=15.0, observer="CHO")


def test_the_numbers_of_the_published_toolbox():
    """All 96 of the small public set (LCD_CT, CC0; images 0-4 train, 5-9 test), to 1e-6."""
    folder = Path(os.environ.get("LDCT_TEST_LCD") or "unset")
    require((folder / "golden.json").is_file(), "LDCT_TEST_LCD names no low-contrast data set")
    golden = json.loads((folder / "golden.json").read_text())
    rois = np.load(folder / "rois.npz")
    assert {one["observer"].split()[0] for one in golden} == set(OBSERVERS)
    for one in golden:
        name = f"{one['recon']}_{one['dose']:03d}_{one['insert']}"
        present, absent = (flattened(rois[f"{name}_{which}"]) for which in ("present", "absent"))
        size = one["roi"][-1]
        channels = channels_of(one["observer"].split()[0], size, one["diameter_px"])
        weights = template(present[:5], absent[:5], channels)
        snr, auc = separation(present[5:] @ weights, absent[5:] @ weights)
        assert snr == pytest.approx(one["snr"], abs=1e-6), one
        assert auc == pytest.approx(one["auc"], abs=1e-6), one
