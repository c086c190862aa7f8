"""Slices on another scanner's grid and kernel: values, scale and noise."""

import numpy as np
import pytest

from ldct_jax.ct.another_scanner import reconstruct_elsewhere
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.errors import UsageError

GEOMETRY = FanBeam(n_views=360)


def disc() -> np.ndarray:
    y, x = np.mgrid[:96, :96] - 47.5
    return np.where(np.hypot(x, y) < 30, 40.0, -1000.0).astype(np.float32)


def elsewhere(kernel="sharp", **changes):
    settings = dict(pixel_mm=3.0, to_pixel_mm=4.0, added_sd_hu=50.0, seed=1, geometry=GEOMETRY)
    return reconstruct_elsewhere(disc(), kernel=kernel, **(settings | changes))


def test_the_disc_keeps_its_value_and_shrinks_with_the_larger_pixels():
    low, clean = elsewhere()
    assert clean.shape == (96, 96)
    assert clean[44:52, 44:52].mean() == pytest.approx(40, abs=10)
    area = np.count_nonzero(clean > -480) / np.count_nonzero(disc() > -480)
    assert area == pytest.approx((3 / 4) ** 2, rel=0.05)
    assert (low - clean)[clean > -500].std() == pytest.approx(50, rel=1e-3)


def test_the_kernel_and_the_seed_count():
    (low, clean), (_, smooth), (other, same) = elsewhere(), elsewhere("smooth"), elsewhere(seed=2)
    assert np.abs(clean - smooth).max() > 20
    np.testing.assert_array_equal(clean, same)
    assert np.abs(low - other).max() > 50


def test_no_noise_is_refused():
    with pytest.raises(UsageError, match="added_sd_hu"):
        elsewhere(added_sd_hu=0.0)
