"""Image-domain noise: its level, spectrum, rules and reproducibility."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ldct_jax.ct.add_noise_to_images import added_sd, noise_ratio, sample_noise
from ldct_jax.ct.fbp import SMOOTH
from ldct_jax.errors import UsageError


@pytest.mark.core
@pytest.mark.parametrize("spectrum", ["sqrt_f_mtf", "mtf"])
@pytest.mark.parametrize("pixel_mm", [0.6, 1.48])
def test_the_added_sd_is_what_was_asked(spectrum, pixel_mm):
    noise = sample_noise((6, 128, 96), 37.0, pixel_mm, 3, spectrum=spectrum)
    assert noise.dtype == np.float32
    assert abs(noise.std() / 37 - 1) < 0.03
    # Shaped noise has few independent values, so the mean of "mtf" noise scatters most.
    assert abs(noise.mean()) < 1.5


def test_the_spectrum_is_the_filter():
    size, pixel = 128, 0.74
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size, pixel), np.fft.fftfreq(size, pixel)))
    ring = np.rint(f * size * pixel).astype(int).ravel()
    peaks = {}
    for spectrum in ("sqrt_f_mtf", "mtf"):
        noise = sample_noise((20, size, size), 10.0, pixel, 5, spectrum=spectrum)
        power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0).ravel()
        radial = np.bincount(ring, power) / np.bincount(ring)
        frequency = np.arange(len(radial)) / (size * pixel)
        expected = SMOOTH.window(frequency) ** 2
        if spectrum == "sqrt_f_mtf":
            expected = expected * frequency
        keep = (frequency > 0.04) & (frequency < 0.6)
        a, b = radial[keep] / radial[keep].sum(), expected[keep] / expected[keep].sum()
        assert np.abs(a - b).max() < 0.15 * b.max()
        peaks[spectrum] = frequency[keep][a.argmax()]
    assert 0.18 < peaks["sqrt_f_mtf"] < 0.26  # measured peak at 0.22 /mm
    assert peaks["mtf"] < 0.12


@pytest.mark.core
def test_a_slice_depends_on_the_seed_and_its_number_alone():
    noise = sample_noise((4, 32, 40), 20.0, 1.0, 8)
    np.testing.assert_array_equal(noise, sample_noise((4, 32, 40), 20.0, 1.0, 8))
    np.testing.assert_array_equal(noise[2], sample_noise((32, 40), 20.0, 1.0, 8, first_slice=2))
    assert np.abs(noise - sample_noise((4, 32, 40), 20.0, 1.0, 9)).max() > 20
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.2


@pytest.mark.core
def test_the_noise_is_the_same_on_every_machine():
    """jax's Poisson numbers differ by release and its transforms by the number of threads: a run
    resumed on a node with fewer cores was refused, as one on other data."""
    noise = sample_noise((2, 64, 64), 20.0, 1.0, 8)
    known = [-33.012344, -18.817019, -4.135151, -14.270062]
    np.testing.assert_allclose(noise[1, 3, :4], known, atol=1e-3)
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ldct_jax.ct.add_noise_to_images import sample_noise\n"
        "sys.stdout.buffer.write(sample_noise((2, 64, 64), 20.0, 1.0, 8).tobytes())"
    )
    if hasattr(os, "sched_setaffinity"):
        alone = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        assert alone == noise.tobytes()


def test_the_rules_of_dose():
    # "paper" is dncnn_dose's r: 1.3, 2, 10, 20 at 75, 50, 10, 5 %.
    ratios = [noise_ratio(d, "paper") for d in (0.75, 0.5, 0.1, 0.05)]
    np.testing.assert_allclose(ratios, [1.333, 2, 10, 20], rtol=0.001)
    assert noise_ratio(0.25) == 2
    np.testing.assert_allclose(added_sd(0.25, 10.0), 10 * 3**0.5)
    assert added_sd(1.0, 10.0) == 0
    np.testing.assert_allclose(added_sd(0.25, 10.0, "paper"), 10 * 15**0.5)


def test_misuse_is_one_line():
    with pytest.raises(UsageError, match="dose="):
        added_sd(0.0, 1.0)
    with pytest.raises(UsageError, match="full_sd_hu="):
        added_sd(0.5, -1.0)
    with pytest.raises(UsageError, match="r="):
        noise_ratio(0.5, "linear")
    with pytest.raises(UsageError, match="spectrum="):
        sample_noise((8, 8), 1.0, 1.0, 0, spectrum="white")
    with pytest.raises(UsageError, match="slices"):
        sample_noise((8,), 1.0, 1.0, 0)
    with pytest.raises(UsageError, match="sd_hu"):
        sample_noise((8, 8), -1.0, 1.0, 0)
