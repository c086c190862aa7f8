"""The channelised Hotelling observer against ideal-observer theory."""

import numpy as np
import pytest
from scipy import ndimage, stats

from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics.image import mse
from ldct_jax.metrics.observers import hotelling, laguerre_gauss

SIZE, WIDTH, SD = 33, 10.0, 20.0


def lesion(peak):
    x = np.arange(SIZE) - SIZE // 2
    return peak * np.exp(-np.pi * (x[:, None] ** 2 + x**2) / WIDTH**2)


def regions(peak, n=1500, seed=0):
    rng = np.random.default_rng(seed)
    noise = SD * rng.standard_normal((2 * n, SIZE, SIZE))
    return noise[:n] + lesion(peak), noise[n:]


def test_channels_are_orthonormal():
    channels = laguerre_gauss(65, 10.0, 5)
    assert channels.T @ channels == pytest.approx(np.eye(5), abs=1e-4)
    assert laguerre_gauss(33, 10.0, 1)[:, 0].reshape(33, 33).argmax() == 33 * 16 + 16


@pytest.mark.core
@pytest.mark.parametrize("peak", [0.0, 4.0, 8.0])
def test_in_white_noise_a_matched_lesion_is_seen_ideally(peak):
    ideal = np.linalg.norm(lesion(peak)) / SD
    result = hotelling(*regions(peak), width=WIDTH)
    assert result.d_prime == pytest.approx(ideal, abs=0.12)
    assert result.auc == pytest.approx(stats.norm.cdf(ideal / 2**0.5), abs=0.025)
    assert result.n_test == 1500


def test_few_images_do_not_flatter_the_observer():
    # Scored on its own training images, six channels "see" nothing at d' of about 1.1 from 2 x 40.
    blind = [hotelling(*regions(0.0, 40, seed), width=WIDTH).d_prime for seed in range(30)]
    assert abs(np.mean(blind)) < 0.2


def test_blur_wins_psnr_and_gains_the_observer_nothing():
    present, absent = regions(6.0)
    blurred = [ndimage.gaussian_filter(r, (0, 3, 3)) for r in (present, absent)]
    assert mse(blurred[0], np.broadcast_to(lesion(6.0), present.shape)) < 0.02 * SD**2
    sharp, soft = hotelling(present, absent, width=WIDTH), hotelling(*blurred, width=WIDTH)
    assert soft.d_prime < sharp.d_prime + 0.05


def test_the_result_is_a_function_of_the_seed():
    pair = regions(6.0, 100)
    assert hotelling(*pair, width=WIDTH) == hotelling(*pair, width=WIDTH)
    assert hotelling(*pair, width=WIDTH) != hotelling(*pair, width=WIDTH, seed=1)


def test_what_the_observer_refuses():
    present, absent = regions(6.0, 30)
    with pytest.raises(DataError, match="at least 24"):
        hotelling(present[:20], absent, width=WIDTH)
    with pytest.raises(DataError, match="one size"):
        hotelling(present, absent[:, 1:, 1:], width=WIDTH)
    with pytest.raises(DataError, match="square"):
        hotelling(present[:, 1:], absent[:, 1:], width=WIDTH)
    with pytest.raises(DataError, match="holds no noise"):
        hotelling(np.ones_like(present), np.zeros_like(absent), width=WIDTH)
    with pytest.raises(UsageError, match="positive width"):
        hotelling(present, absent, width=0.0)
