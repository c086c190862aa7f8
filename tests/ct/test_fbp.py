"""Filtered back-projection: HU of water, kernels, resolution, scikit-image, options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.ct.fbp import KERNELS, Kernel, filtered_back_projection, named_kernel
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.projector import forward_project
from ldct_jax.errors import UsageError
from tests.ct.ellipses import Ellipse, image, integrals

MU = 0.019
WATER = [Ellipse(15, -12, 110, 110, 0, MU)]
FAN = FanBeam(n_views=576)
GEOMETRIES = {
    "arc": FAN,
    "centred": dataclasses.replace(FAN, detector_offset=0.0),
}


def rebuild(sinogram, geometry, kernel="smooth", size=128, pixel=3.0):
    how = {"size": (size, size), "pixel_mm": pixel, "kernel": named_kernel(kernel)}
    found = filtered_back_projection(sinogram, geometry, **how)
    return (np.asarray(found) / MU - 1) * 1000


def distance(ellipse, size, pixel):
    axis = (np.arange(size) - (size - 1) / 2) * pixel
    return np.hypot(axis[None, :] - ellipse.x, -axis[:, None] - ellipse.y)


@pytest.mark.core
@pytest.mark.parametrize("name", GEOMETRIES)
def test_water_is_0_hu_and_air_minus_1000(name):
    hu = rebuild(integrals(WATER, GEOMETRIES[name]), GEOMETRIES[name])
    r = distance(WATER[0], 128, 3.0)
    assert abs(hu[r < 95].mean()) < 1
    assert np.abs(hu[r < 95]).max() < 5
    air = hu[(r > 125) & (r < 160)] + 1000
    assert abs(air.mean()) < 1
    assert np.abs(air).max() < 20  # streaks between the views


@pytest.mark.long
@pytest.mark.parametrize("name", GEOMETRIES)
def test_water_is_0_hu_pixel_by_pixel_at_full_size(name):
    """What sharp edges alias to meets in few pixels, which a coarse image steps over."""
    sinogram = integrals(WATER, GEOMETRIES[name])
    core = distance(WATER[0], 512, 0.74) < 95
    for kernel in ("smooth", "medium", "sharp"):
        hu = rebuild(sinogram, GEOMETRIES[name], kernel, 512, 0.74)
        assert np.abs(hu[core]).max() < 5, kernel


def test_projecting_and_reconstructing_keeps_hu_and_place():
    body = [*WATER, Ellipse(-45, 20, 20, 14, 0.6, 0.003)]
    picture = image(body, 256, 1.5)
    hu = rebuild(forward_project(picture, FAN, 1.5), FAN, size=256, pixel=1.5)
    rows, columns = np.mgrid[0:256, 0:256]
    x, y = (columns - 127.5) * 1.5, (127.5 - rows) * 1.5
    c, s = np.cos(0.6), np.sin(0.6)
    u, v = c * (x + 45) + s * (y - 20), c * (y - 20) - s * (x + 45)
    insert = (u / 17) ** 2 + (v / 11) ** 2 < 1
    around = ((u / 26) ** 2 + (v / 20) ** 2 > 1) & (distance(WATER[0], 256, 1.5) < 95)
    assert abs(hu[insert].mean() - 1000 * 0.003 / MU) < 5
    assert abs(hu[around].mean()) < 2


def test_kernels_give_the_noise_spectrum_that_their_window_says():
    # White noise in the sinogram becomes f·W(f)², the measured curve of the smooth kernel.
    geometry = FanBeam(n_views=200)
    rng = np.random.default_rng(0)
    size, pixel = 128, 0.74
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size, pixel), np.fft.fftfreq(size, pixel)))
    ring = np.rint(f * size * pixel).astype(int)
    spectra = {}
    for name in ("smooth", "sharp"):
        power = 0
        for _ in range(12):
            noise = rng.normal(size=(200, geometry.n_detectors)).astype(np.float32)
            found = filtered_back_projection(
                noise, geometry, size=(size, size), pixel_mm=pixel, kernel=KERNELS[name]
            )
            power = power + np.abs(np.fft.fft2(np.asarray(found))) ** 2
        radial = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
        frequency = np.arange(len(radial)) / (size * pixel)
        keep = (frequency > 0.05) & (frequency < 0.55)
        expected = frequency * KERNELS[name].window(frequency) ** 2
        a, b = radial[keep] / radial[keep].sum(), expected[keep] / expected[keep].sum()
        assert np.corrcoef(a, b)[0, 1] > 0.99
        spectra[name] = frequency[keep][a.argmax()]
    assert 0.18 < spectra["smooth"] < 0.26
    assert spectra["sharp"] > 1.5 * spectra["smooth"]


def test_cutoff_removes_what_lies_above_it():
    geometry = FanBeam(n_views=120)
    noise = np.random.default_rng(1).normal(size=(120, geometry.n_detectors)).astype(np.float32)
    plain, cut = (
        np.asarray(
            filtered_back_projection(noise, geometry, size=(128, 128), pixel_mm=1.0, kernel=kernel)
        )
        for kernel in (KERNELS["ramp"], Kernel("cut", cutoff_per_mm=0.2))
    )
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    window = np.hanning(128)[:, None] * np.hanning(128)
    high = f > 0.25

    def share(picture):
        return np.abs(np.fft.fft2(picture * window)[high]).mean()

    assert share(cut) < 0.02 * share(plain)


def test_stack_equals_its_slices():
    sinogram = jnp.asarray(integrals(WATER, FAN), jnp.float32)
    stack = jnp.stack([sinogram, 2 * sinogram])
    both = filtered_back_projection(stack, FAN, size=(64, 64), pixel_mm=6.0)
    one = filtered_back_projection(sinogram, FAN, size=(64, 64), pixel_mm=6.0)
    np.testing.assert_allclose(both[0], one, atol=1e-7)
    np.testing.assert_allclose(both[1], 2 * one, atol=1e-6)


def test_misuse_is_one_line():
    sinogram = np.zeros((576, 736), np.float32)
    with pytest.raises(UsageError, match="unknown kernel"):
        rebuild(sinogram, FAN, "B30")
    with pytest.raises(UsageError, match="sinogram is"):
        rebuild(sinogram[:5], FAN)
    with pytest.raises(UsageError, match="cutoff"):
        Kernel("own", 0.5, cutoff_per_mm=-1.0)


def test_jit_and_vmap_over_slices_give_the_slices():
    geometry = FanBeam(n_views=60)
    stack = np.random.default_rng(0).uniform(0, 0.02, (3, 32, 32)).astype(np.float32)

    def there_and_back(mu):
        sinogram = forward_project(mu, geometry, 8.0)
        return filtered_back_projection(sinogram, geometry, size=(32, 32), pixel_mm=8.0)

    mapped = jax.jit(jax.vmap(there_and_back))(stack)
    one_by_one = np.stack([there_and_back(mu) for mu in stack])
    np.testing.assert_allclose(mapped, one_by_one, atol=1e-6)
