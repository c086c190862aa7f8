"""Projection-domain low dose: its law of variance, spectrum, place, limits and calibration."""

import dataclasses
import json

import numpy as np
import pytest

from ldct_jax.ct.add_noise_to_projections import (
    MU_WATER,
    Scan,
    insert_projection_domain,
    line_integrals,
    noise_sd,
    simulate_scan,
)
from ldct_jax.ct.calibration import n0_from_added_sd, n0_from_tags, rotation_mas
from ldct_jax.ct.fbp import Kernel, filtered_back_projection
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.errors import DataError, UsageError
from tests.ct.bodies import reconstruct_scan
from tests.ct.ellipses import Ellipse, image

SIZE, PIXEL = 112, 3.2
FAN = FanBeam(n_detectors=368, detector_mm=2.5716, n_views=180)
KERNEL = Kernel("cut", 0.38, cutoff_per_mm=0.15)
SCAN = Scan(1e5, electronic_variance=0.0, kernel=KERNEL, geometry=FAN)


def body(width=150.0, depth=105.0, bones=()):
    """One slice of a water ellipse with bones at x = ±``bones``, HU."""
    parts = [Ellipse(0, 0, width, depth, 0, 1000.0)]
    parts += [Ellipse(x, 0, 22, 22, 0, 900.0) for x in bones]
    return image(parts, SIZE, PIXEL)[None] - 1000


BODY = body()
AXIS = (np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL
RADIUS = np.hypot(AXIS[None, :], AXIS[:, None])
CENTRE = (RADIUS < 40)[None]


def added(hu, dose, scan=SCAN, seed=5, **kwargs):
    return (
        insert_projection_domain(hu, seed=seed, dose=dose, scan=scan, pixel_mm=PIXEL, **kwargs) - hu
    )


def sd(noise, mask=CENTRE):
    return float(noise[np.broadcast_to(mask, noise.shape)].std())


STACK = np.repeat(BODY, 4, axis=0)


@pytest.mark.core
def test_added_variance_is_proportional_to_one_over_dose_minus_one():
    rich = dataclasses.replace(SCAN, n0=1e6)  # few photons would bend the law
    found = {dose: sd(added(STACK, dose, rich)) ** 2 for dose in (0.5, 0.25, 0.1, 0.05)}
    for dose, variance in found.items():
        np.testing.assert_allclose(variance / found[0.5], 1 / dose - 1, rtol=0.02)


@pytest.mark.long
def test_variance_of_a_whole_scan_is_proportional_to_one_over_dose():
    exact = reconstruct_scan(STACK, scan=SCAN, pixel_mm=PIXEL)
    found = {}
    for dose in (1.0, 0.5, 0.25):
        scan = simulate_scan(STACK, seed=2, dose=dose, scan=SCAN, pixel_mm=PIXEL)
        found[dose] = sd(scan - exact) ** 2
        assert abs((scan - exact)[np.broadcast_to(CENTRE, exact.shape)].mean()) < 3
    for dose, variance in found.items():
        # Different random numbers in each: about 2000 independent values.
        np.testing.assert_allclose(variance * dose / found[1.0], 1, rtol=0.12)
    # Insertion at half dose adds what the normal dose has.
    np.testing.assert_allclose(sd(added(STACK, 0.5)) ** 2 / found[1.0], 1, rtol=0.12)


def test_the_formula_at_the_detector():
    p, n0, electrons = 5.0, 2e4, 10.0

    def variance(dose):  # of −ln of (Poisson + electronic) / (dose·N0), to first order
        photons = dose * n0 * np.exp(-p)
        return (photons + electrons) / photons**2

    for dose in (0.5, 0.1):
        expected = variance(dose) - variance(1.0)
        found = float(noise_sd(p, dose, n0, electrons)) ** 2
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(noise_sd(p, 1.0, n0, electrons)) == 0


def test_noise_power_spectrum_follows_the_measured_curve():
    # MTF = exp(−ln2 (f/0.38)^2.5) and power f·MTF², measured on B30f at 0.74 mm.
    pixel, size = 0.74, 160
    scan = Scan(1e5, geometry=FanBeam(n_views=576))
    water = np.zeros((4, size, size), np.float32)
    noise = insert_projection_domain(water, seed=1, dose=0.25, scan=scan, pixel_mm=pixel)
    rois = noise[:, 32:128, 32:128].reshape(-1, 96, 96)
    n = rois.shape[1]
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(n, pixel), np.fft.fftfreq(n, pixel)))
    ring = np.rint(f * n * pixel).astype(int).ravel()
    power = (np.abs(np.fft.fft2(rois)) ** 2).mean(axis=0).ravel()
    radial = np.bincount(ring, power) / np.bincount(ring)
    frequency = np.arange(len(radial)) / (n * pixel)
    expected = frequency * np.exp(-2 * np.log(2) * (frequency / 0.38) ** 2.5)
    keep = (frequency > 0.05) & (frequency < 0.6)
    a, b = radial[keep] / radial[keep].sum(), expected[keep] / expected[keep].sum()
    assert np.corrcoef(a, b)[0, 1] > 0.98
    assert abs((frequency[keep] * a).sum() / (frequency[keep] * b).sum() - 1) < 0.05


@pytest.mark.core
def test_noise_is_larger_at_the_centre_of_a_large_patient():
    small, large = added(body(110, 80), 0.25), added(body(165, 120), 0.25)
    assert sd(large) > 1.8 * sd(small)
    edge = (RADIUS > 85) & (RADIUS < 105) & (np.abs(AXIS[:, None]) < 40)
    assert sd(large) > 1.15 * sd(large, edge[None])


def test_streaks_run_through_shoulders_at_low_dose():
    shoulders = body(165, 80, bones=(-110, 110))
    noise = np.concatenate([added(shoulders, 0.05, seed=s) for s in range(4)])
    plain = np.concatenate([added(body(165, 80), 0.05, seed=s) for s in range(4)])
    band = (np.abs(AXIS[:, None]) < 18) & (np.abs(AXIS[None, :]) < 60)

    def along(field, axis):
        shifted = np.roll(field, 3, axis=axis)
        return np.corrcoef(field[:, band].ravel(), shifted[:, band].ravel())[0, 1]

    # A streak: correlated along x, across it not; stronger with bones than without.
    assert along(noise, 2) > along(noise, 1) + 0.3
    assert along(noise, 2) > along(plain, 2) + 0.05
    assert sd(noise, band[None]) > 1.2 * sd(plain, band[None])


@pytest.mark.core
def test_reproducible_from_seed_and_slice():
    stack = np.concatenate([BODY, body(120, 90), BODY])
    noise = added(stack, 0.25, seed=3)
    np.testing.assert_array_equal(noise, added(stack, 0.25, seed=3))
    alone = added(stack[1:2], 0.25, seed=3, first_slice=1)
    np.testing.assert_allclose(noise[1:2], alone, atol=1e-3)
    assert np.abs(noise - added(stack, 0.25, seed=4)).max() > 10
    assert np.abs(noise[0] - noise[2]).max() > 10  # equal pixels, another slice
    one = insert_projection_domain(BODY[0], seed=3, dose=0.25, scan=SCAN, pixel_mm=PIXEL)
    assert one.shape == BODY[0].shape and one.dtype == np.float32


def test_dose_one_changes_nothing_and_one_hundredth_is_finite():
    np.testing.assert_array_equal(added(BODY, 1.0), 0)
    starving = dataclasses.replace(SCAN, n0=3e3, electronic_variance=10.0)
    noise = added(BODY, 0.01, starving)
    assert np.isfinite(noise).all()
    # A ray reports at least one photon, so it saturates; unbounded Gaussians would add far more.
    assert sd(noise) < 0.7 * sd(unbounded(BODY, 0.01, starving))


def unbounded(hu, dose, scan):
    """Noise as the first-order formula has it, reconstructed: no ray saturates."""
    p = np.asarray(line_integrals(hu[0], scan.geometry, PIXEL))
    sigma = np.asarray(noise_sd(p, dose, scan.n0, scan.electronic_variance))
    sinogram = sigma * np.random.default_rng(0).standard_normal(p.shape)
    how = {"size": hu[0].shape, "pixel_mm": PIXEL, "kernel": scan.kernel}
    mu = filtered_back_projection(sinogram, scan.geometry, **how)
    return 1000 / MU_WATER * np.asarray(mu)[None]


def test_electronic_noise_matters_where_photons_are_few():
    noisy = dataclasses.replace(SCAN, electronic_variance=100.0)
    gain = {dose: sd(added(BODY, dose, noisy)) / sd(added(BODY, dose)) for dose in (0.5, 0.05)}
    assert gain[0.5] > 1.0005
    assert gain[0.05] > 1.05 and gain[0.05] > 2 * gain[0.5] - 1


def test_line_integrals_are_of_true_millimetres_and_air_is_nothing():
    p = np.asarray(line_integrals(BODY[0], FAN, PIXEL))
    np.testing.assert_allclose(p.max(), 300 * 0.019, rtol=0.01)
    padded = np.where(BODY[0] < -900, -2000, BODY[0]).astype(np.float32)
    assert np.asarray(line_integrals(padded, FAN, PIXEL)).min() >= 0


def test_calibration_reaches_its_target():
    region = np.broadcast_to(CENTRE, BODY.shape)
    start = dataclasses.replace(SCAN, n0=1e6, electronic_variance=10.0)
    found = n0_from_added_sd(BODY, region, 40.0, dose=0.25, scan=start, pixel_mm=PIXEL)
    scan = dataclasses.replace(start, n0=found.n0)
    # Computed, not drawn: a region holds few independent values, so its SD scatters.
    drawn = added(STACK, 0.25, scan, seed=0)
    np.testing.assert_allclose(sd(drawn, np.broadcast_to(CENTRE, STACK.shape)), 40, rtol=0.06)
    assert found.n0 < 1e6 and "adds 40 HU" in found.how
    # Half the dose adds as much as the series has itself.
    own = n0_from_added_sd(BODY, region, 12.0, dose=0.5, scan=start, pixel_mm=PIXEL)
    scan = dataclasses.replace(start, n0=own.n0)
    # Other random numbers than the calibration's: expected sqrt(1/dose − 1)·σ within a few %.
    np.testing.assert_allclose(
        sd(added(STACK, 0.25, scan, seed=77), np.broadcast_to(CENTRE, STACK.shape)),
        12 * 3**0.5,
        rtol=0.1,
    )
    with pytest.raises(DataError, match="too few"):
        nowhere = np.zeros(BODY.shape, bool)
        n0_from_added_sd(BODY, nowhere, 12.0, dose=0.5, scan=start, pixel_mm=PIXEL)


def test_tags_give_photons_in_proportion():
    base = n0_from_tags(mas=200, slice_mm=1.0)
    assert 1e5 < base.n0 < 1e6 and "200 mAs" in base.how
    np.testing.assert_allclose(n0_from_tags(mas=100, slice_mm=3.0).n0 / base.n0, 1.5)
    assert n0_from_tags(mas=200, slice_mm=1.0, kvp=100).n0 < base.n0
    with pytest.raises(UsageError, match="positive"):
        n0_from_tags(mas=0, slice_mm=1.0)


def test_exposure_of_a_rotation():
    assert rotation_mas(150.0, 188.0) == (150.0, "150 mAs")
    # GE writes the exposure of the whole scan.
    mas, how = rotation_mas(7837.0, 440.0)
    assert mas == pytest.approx(352) and "assumed" in how
    assert rotation_mas(float("nan"), 100.0)[0] == 80
    with pytest.raises(DataError, match="neither"):
        rotation_mas(float("nan"), float("nan"))
    assert n0_from_tags(mas=mas, slice_mm=1.25).n0 > 1e5


def test_the_record_says_everything_and_is_json():
    record = json.loads(json.dumps(SCAN.record(dose=0.25, seed=9)))
    for key in ("dose", "n0", "electronic_sd", "kernel", "seed", "geometry.n_views"):
        assert key in record
    assert record["kernel"]["cutoff_per_mm"] == 0.15


def test_misuse_is_one_line():
    with pytest.raises(UsageError, match="n0="):
        Scan(0.0)
    with pytest.raises(UsageError, match="electronic_variance="):
        Scan(1e5, electronic_variance=-1.0)
    with pytest.raises(UsageError, match="dose="):
        added(BODY, 0.0)
    with pytest.raises(UsageError, match="a slice"):
        insert_projection_domain(np.zeros(5), seed=0, dose=0.5, scan=SCAN, pixel_mm=1.0)
