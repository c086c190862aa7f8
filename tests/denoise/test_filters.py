"""Classical filters: what each does to known images, in HU and in network units alike."""

import dataclasses

import numpy as np
import pytest

from ldct_jax.denoise.filters import FILTERS, Gaussian, Identity, Median, Wiener, noise_std
from ldct_jax.errors import UsageError
from ldct_jax.hu import FULL

RNG = np.random.default_rng(0)
CLEAN_HU = np.full((1, 64, 60, 1), 40.0, np.float32)
CLEAN_HU[:, 20:44, 20:40] = 240.0
NOISY_HU = (CLEAN_HU + RNG.normal(0, 30, CLEAN_HU.shape)).astype(np.float32)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_denoise_and_do_not_care_about_the_unit(name):
    filter_ = FILTERS[name]()
    assert dataclasses.is_dataclass(filter_) and hash(filter_) is not None
    out = filter_(NOISY_HU)
    assert out.shape == NOISY_HU.shape and out.dtype == np.float32
    unit = filter_(FULL.to_unit(NOISY_HU))
    np.testing.assert_allclose(FULL.to_hu(unit), out, atol=0.2)

    def rmse(x):
        return float(np.sqrt(((x - CLEAN_HU) ** 2).mean()))

    if name == "identity":
        np.testing.assert_array_equal(out, NOISY_HU)
    else:
        assert rmse(out) < 0.75 * rmse(NOISY_HU)


@pytest.mark.parametrize("name", FILTERS)
def test_each_slice_is_filtered_alone_and_constants_stay(name):
    filter_ = FILTERS[name]()
    two = np.concatenate([NOISY_HU, 2 * NOISY_HU[:, ::-1]])
    np.testing.assert_array_equal(filter_(two)[:1], filter_(NOISY_HU))
    flat = np.full((1, 16, 16, 1), -1000.0, np.float32)
    np.testing.assert_allclose(filter_(flat), flat, rtol=1e-6)


@pytest.mark.promise("every-network")
def test_the_standard_ones_are_what_their_names_say():
    x = NOISY_HU[0, ..., 0].astype(np.float64)
    median = Median()(NOISY_HU)[0, ..., 0]
    assert median[5, 7] == np.float32(np.median(x[4:7, 6:9]))
    # A Gaussian of σ = 1 leaves 1/(4π) of white noise's variance.
    white = RNG.normal(0, 1, (1, 200, 200, 1)).astype(np.float32)
    assert Gaussian()(white).var() == pytest.approx(1 / (4 * np.pi), rel=0.05)
    # Lim's filter: local mean + (1 - noise / local variance) · (x - local mean).
    padded = np.pad(x, 2, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    mean, var = windows.mean((2, 3)), windows.var((2, 3))
    for strength in (1.0, 0.3):
        gain = np.maximum(1 - strength**2 * var.mean() / var, 0)
        expected = mean + gain * (x - mean)
        wiener = Wiener(strength=strength)(NOISY_HU)[0, ..., 0]
        np.testing.assert_allclose(wiener, expected, atol=1e-3)


def test_noise_is_measured_whatever_lies_under_it():
    assert noise_std(NOISY_HU[0, ..., 0]) == pytest.approx(30, rel=0.1)
    cut = np.where(np.arange(60) < 30, -1024.0, NOISY_HU[0, ..., 0])
    assert noise_std(cut) == pytest.approx(30, rel=0.15)
    assert noise_std(CLEAN_HU[0, ..., 0] * 0) == 0.0


def test_what_a_filter_cannot_take_is_refused():
    with pytest.raises(UsageError, match=r"\(B, H, W, 1\)"):
        Identity()(NOISY_HU[0])
    for make in (
        lambda: Median(4),
        lambda: Wiener(0),
        lambda: Wiener(3, 0.0),
        lambda: Gaussian(0.0),
    ):
        with pytest.raises(UsageError):
            make()
