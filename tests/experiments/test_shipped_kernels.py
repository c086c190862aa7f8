"""Slices of one kernel shown as another would have shown them."""

import numpy as np
import pytest

from experiments.shipped.kernels import MAX_GAIN, as_kernel, gain
from ldct_jax.ct.fbp import Kernel

PIXEL_MM = 0.7
OWN = Kernel("own", 0.35, 2.5)


def shown(kernel: Kernel, image: np.ndarray) -> np.ndarray:
    """``image`` as a scanner of that kernel shows it."""
    f = np.hypot(
        np.fft.fftfreq(image.shape[0], PIXEL_MM)[:, None], np.fft.rfftfreq(image.shape[1], PIXEL_MM)
    )
    return np.fft.irfft2(np.fft.rfft2(image) * kernel.window(f), image.shape)


def test_a_scan_of_a_smoother_kernel_is_what_that_kernel_would_have_shown():
    truth = 100 * np.random.default_rng(0).normal(size=(64, 48)) + 40
    smoother = Kernel("smoother", 0.2, 2.5)
    made = as_kernel(shown(OWN, truth), OWN, smoother, PIXEL_MM)
    np.testing.assert_allclose(made, shown(smoother, truth), atol=1e-9)
    assert made.mean() == pytest.approx(shown(OWN, truth).mean())
    assert made.std() < 0.8 * shown(OWN, truth).std()


def test_a_sharper_kernel_raises_no_frequency_beyond_the_limit():
    raised = gain(OWN, Kernel("sharper", 0.65, 2.5), (64, 48), PIXEL_MM)
    assert raised.shape == (64, 25) and raised[0, 0] == 1
    assert raised.max() == pytest.approx(MAX_GAIN) and raised.min() >= 1
