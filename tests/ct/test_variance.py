"""Variance maps and the spectrum's kernel, against noise that was drawn."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.ct.add_noise_to_projections import Scan, insert_projection_domain, simulate_scan
from ldct_jax.ct.fbp import MEDIUM, SHARP, SMOOTH, Kernel
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.noise_spectrum import measured_kernel, window_law
from ldct_jax.ct.variance import added_variance, ray_sums, scan_variance
from tests.ct.ellipses import Ellipse, image

SIZE, PIXEL = 128, 2.8
FAN = FanBeam(n_detectors=368, detector_mm=2.5716, n_views=180)
CUT = {"cutoff_per_mm": 0.17}
SCAN = Scan(2e5, electronic_variance=0.0, kernel=Kernel("cut", 0.38, **CUT), geometry=FAN)
BODY = (image([Ellipse(10, 5, 150, 105, 0, 1000.0)], SIZE, PIXEL) - 1000).astype(np.float32)
AXIS = (np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL
X, Y = AXIS[None, :], AXIS[:, None]
ZONES = {
    "middle": np.hypot(X, Y) < 35,
    "side": (X > 90) & (X < 140) & (np.abs(Y) < 40),
    "front": (np.abs(X) < 50) & (Y < -65) & (Y > -90),
}


@pytest.mark.parametrize(
    "scan, dose",
    [
        (SCAN, 0.25),
        (dataclasses.replace(SCAN, kernel=dataclasses.replace(SHARP, **CUT)), 0.5),
        # Few photons: electronic noise and saturation, which no law of 1/dose knows.
        (dataclasses.replace(SCAN, n0=3e4, electronic_variance=10.0), 0.1),
    ],
    ids=["plain", "sharp", "starved"],
)
def test_the_variance_of_inserted_noise_is_known_before(scan, dose):
    # With few views and small zones the drawn noise scatters by 5 %.
    stack = np.repeat(BODY[None], 8, axis=0)
    noise = insert_projection_domain(stack, seed=1, dose=dose, scan=scan, pixel_mm=PIXEL) - stack
    expected = added_variance(ray_sums(BODY, scan=scan, pixel_mm=PIXEL), scan, dose)
    for name, zone in ZONES.items():
        assert noise[:, zone].var() == pytest.approx(expected[zone].mean(), rel=0.1), name


def test_the_variance_of_a_scan_is_known_before():
    stack = np.repeat(BODY[None], 8, axis=0)
    scans = simulate_scan(stack, seed=1, dose=1.0, scan=SCAN, pixel_mm=PIXEL)
    noise = scans - scans.mean(axis=0)
    expected = scan_variance(ray_sums(BODY, scan=SCAN, pixel_mm=PIXEL), SCAN)
    for name, zone in ZONES.items():
        found = (noise[:, zone] ** 2).mean() * 8 / 7
        assert found == pytest.approx(expected[zone].mean(), rel=0.1), name


@pytest.mark.core
def test_a_map_fits_odd_sizes():
    rays = ray_sums(BODY[:101, :77], scan=SCAN, pixel_mm=PIXEL)
    found = scan_variance(rays, SCAN)
    assert found.shape == (101, 77) and (found > 0).all()


@pytest.mark.parametrize("kernel", [SMOOTH, MEDIUM, SHARP, Kernel("very smooth", 0.22, 2.5)])
def test_the_kernel_is_read_from_noise(kernel):
    noise = sample_noise((3, 160, 160), 12.0, 0.7, 4, kernel=kernel)
    slope = np.linspace(0, 40, 160)  # anatomy that changes slowly is no noise
    found = measured_kernel(noise + slope, np.ones(noise.shape, bool), 0.7)
    f = np.linspace(0.01, 0.7, 200)
    power, theirs = (f * k.window(f) ** 2 for k in (found, kernel))
    means = [(f * p).sum() / p.sum() for p in (power, theirs)]
    assert means[0] == pytest.approx(means[1], rel=0.04)


@pytest.mark.core
def test_too_little_tissue_tells_no_kernel():
    flat = np.zeros((1, 40, 40), bool)
    assert measured_kernel(np.zeros((1, 40, 40)), flat, 0.7) is None
    assert measured_kernel(np.zeros((1, 40, 40)), ~flat, 0.7) is None


@pytest.mark.parametrize("half_per_mm", [0.2, 0.5])
def test_windows_of_noise_have_the_computed_moments_whichever_are_chosen(half_per_mm):
    pixel, sigma, side = 0.8, 3.0, 7
    kernel = Kernel("theirs", half_per_mm)
    law = window_law(kernel, pixel, sigma, side)
    noise = sample_noise((6, 256, 256), 1.0, pixel, 9, kernel=kernel)

    def variance(images):
        mean = ndimage.uniform_filter(images, side, axes=(1, 2))
        square = ndimage.uniform_filter(images * images, side, axes=(1, 2))
        return ((square - mean**2) * side**2 / (side**2 - 1))[:, 20:-20, 20:-20]

    blur = ndimage.gaussian_filter(noise, sigma, axes=(1, 2))
    whole, blurred = variance(noise), variance(blur)
    assert whole.mean() == pytest.approx(law.whole, rel=0.03)
    assert blurred.mean() == pytest.approx(law.blurred, rel=0.03)
    # Windows whose blurred copy looks flat have less noise; the correction knows how much.
    chosen = blurred < np.quantile(blurred, 0.75)
    assert law.noise(whole, blurred)[chosen].mean() == pytest.approx(1, rel=0.03)
    if half_per_mm == 0.2:
        assert whole[chosen].mean() < 0.9


@pytest.mark.core
def test_pixels_so_large_that_the_blur_hardly_blurs_leave_something_to_measure():
    law = window_law(SMOOTH, 5.0, 0.5, 3)
    assert law.whole - law.slope * law.blurred > 0.3
