"""Noise spectra, edge response, contrast and bias against closed forms."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import erf

from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics import contrast, noise, resolution

PIXEL = 0.7


def white(n, size, sd=20.0, seed=0):
    return sd * np.random.default_rng(seed).standard_normal((n, size, size))


@pytest.mark.core
def test_white_noise_has_a_flat_spectrum_of_known_height():
    spectrum = noise.power_spectrum(white(200, 64), PIXEL)
    assert spectrum.nps == pytest.approx(20**2 * PIXEL**2, rel=0.1)
    assert spectrum.nps.mean() == pytest.approx(20**2 * PIXEL**2, rel=0.01)
    assert spectrum.variance == pytest.approx(400, rel=0.01)
    assert spectrum.mean_per_mm == pytest.approx(0.25 / PIXEL, rel=0.03)
    assert spectrum.frequency_per_mm[-1] == pytest.approx(0.5 / PIXEL)


def test_blurred_noise_has_the_filters_spectrum():
    s = 1.2
    rois = ndimage.gaussian_filter(white(300, 64), (0, s, s), mode="wrap")
    spectrum = noise.power_spectrum(rois, PIXEL)
    f = spectrum.frequency_per_mm
    wanted = 20**2 * PIXEL**2 * np.exp(-4 * (np.pi * s * PIXEL * f) ** 2)
    clear = wanted > 0.02 * wanted[0]
    assert spectrum.nps[clear] == pytest.approx(wanted[clear], rel=0.12)
    assert spectrum.mean_per_mm == pytest.approx((f * wanted).sum() / wanted.sum(), rel=0.03)
    assert spectrum.mean_per_mm < 0.5 * noise.power_spectrum(white(9, 64), PIXEL).mean_per_mm


def test_the_peak_is_where_band_pass_noise_has_it():
    rois = white(100, 64)
    kept = noise.band_mask((64, 64), (0.55 * np.pi, 0.65 * np.pi))
    spectrum = noise.power_spectrum(noise.band_pass(rois, kept), PIXEL)
    assert spectrum.peak_per_mm == pytest.approx(0.3 / PIXEL, rel=0.1)
    assert spectrum.variance == pytest.approx(400 * kept.mean(), rel=0.03)


def test_what_a_spectrum_refuses():
    with pytest.raises(DataError, match="squares"):
        noise.power_spectrum(np.zeros((3, 16, 20)), PIXEL)
    with pytest.raises(DataError, match="no noise"):
        noise.power_spectrum(np.ones((3, 16, 16)), PIXEL)
    with pytest.raises(UsageError, match="pixel size"):
        noise.power_spectrum(white(3, 16), 0.0)
    with pytest.raises(DataError, match="NaN"):
        noise.power_spectrum(np.full((3, 16, 16), np.nan), PIXEL)


def test_flat_tissue_keeps_clear_of_edges():
    reference = np.full((3, 80, 80), 50.0)
    reference[:, :, 40:] = -100.0
    mask = noise.flat_mask(reference, 0, 100, size=9)
    assert mask[:, 4:-4, 4:36].all() and not mask[:, :, 36:].any() and not mask[:, :4].any()


def test_noise_analysis_finds_the_parts_that_were_removed():
    target, added = white(4, 128, 10, seed=1), white(4, 128, 30, seed=2)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    smooth = 200 * np.exp(-(x**2 + y**2) / 0.1)
    full = smooth + target
    low = full + added
    result = noise.noise_analysis(low, low - 0.8 * added - 0.5 * target, full)
    a, t = 0.8 * 30, 0.5 * 10
    assert result.projection_added == pytest.approx(0.8, abs=0.01)
    assert result.projection_target == pytest.approx(0.5, abs=0.05)
    assert result.cos_added_target == pytest.approx(0, abs=0.02)
    assert result.cos_removed_added == pytest.approx(a / np.hypot(a, t), abs=0.01)
    assert result.cos_removed_target == pytest.approx(t / np.hypot(a, t), abs=0.02)
    assert result.rest_energy < 0.01
    # A third part of the same size as the added one is the rest.
    other = white(4, 128, 24, seed=3)
    result = noise.noise_analysis(low, low - 0.8 * added - other, full)
    assert result.rest_energy == pytest.approx(0.5, abs=0.03)


def test_the_band_is_the_papers():
    mask = noise.band_mask((512, 512))
    assert not mask[0, 149] and mask[0, 150] and mask[0, 256] and mask[150, 0] and mask[-150, 0]
    assert mask[120, 120] and not mask[256, 256]
    smooth = np.cos(2 * np.pi * 20 * np.arange(512) / 512)[None, None] * np.ones((1, 512, 1))
    assert np.abs(noise.band_pass(smooth, mask)).max() < 1e-9


def test_noise_analysis_without_noise_is_refused():
    image = white(1, 64)
    with pytest.raises(DataError, match="no removed noise"):
        noise.noise_analysis(image, image, image + 1)
    with pytest.raises(DataError, match="one shape"):
        noise.noise_analysis(image, image[:, :32], image)


def disc(blur_px, contrast_hu=100.0, size=128, radius=25.0, centre=(63.3, 64.1)):
    """A disc whose edge is a straight edge's Gaussian blur: exact for radius >> blur."""
    rows, columns = np.indices((size, size))
    r = np.hypot(rows - centre[0], columns - centre[1])
    return 40 + contrast_hu * 0.5 * (1 - erf((r - radius) / (2**0.5 * blur_px)))


@pytest.mark.core
@pytest.mark.parametrize("blur", [0.8, 1.5])
@pytest.mark.parametrize("contrast_hu", [100.0, -300.0])
def test_the_edge_response_of_a_gaussian_blur(blur, contrast_hu):
    image = disc(blur, contrast_hu)[None]
    result = resolution.disc_transfer(image, (63.3, 64.1), 25.0, PIXEL)
    f = result.frequency_per_mm
    wanted = np.exp(-2 * (np.pi * blur * PIXEL * f) ** 2)
    assert np.abs(result.ttf - wanted).max() < 0.02
    assert result.f50_per_mm == pytest.approx((np.log(2) / 2) ** 0.5 / (np.pi * blur * PIXEL), 0.02)
    f10 = (np.log(10) / 2) ** 0.5 / (np.pi * blur * PIXEL)
    assert result.f10_per_mm == pytest.approx(f10, rel=0.03)
    assert result.contrast_hu == pytest.approx(contrast_hu, rel=0.01)


def test_the_edge_response_survives_noise_and_counts_blur():
    images = disc(0.8)[None] + white(30, 128, 20)
    sharp = resolution.disc_transfer(images, (63.3, 64.1), 25.0, PIXEL)
    blurred = ndimage.gaussian_filter(images, (0, 1, 1))
    soft = resolution.disc_transfer(blurred, (63.3, 64.1), 25.0, PIXEL)
    wanted = (np.log(2) / 2) ** 0.5 / (np.pi * PIXEL)
    assert sharp.f50_per_mm == pytest.approx(wanted / 0.8, rel=0.06)
    assert soft.f50_per_mm == pytest.approx(wanted / np.hypot(0.8, 1), rel=0.06)


def test_coarse_bins_are_corrected_for(monkeypatch):
    monkeypatch.setattr(resolution, "STEP", 0.5)
    result = resolution.disc_transfer(disc(0.8)[None], (63.3, 64.1), 25.0, PIXEL)
    wanted = np.exp(-2 * (np.pi * 0.8 * PIXEL * result.frequency_per_mm) ** 2)
    assert np.abs(result.ttf - wanted).max() < 0.02


def test_the_flat_ends_noise_is_kept_out():
    errors = []
    for seed in range(20):
        images = disc(0.8)[None] + white(10, 128, 20, seed)
        result = resolution.disc_transfer(images, (63.3, 64.1), 25.0, PIXEL)
        wanted = np.exp(-2 * (np.pi * 0.8 * PIXEL * result.frequency_per_mm) ** 2)
        errors.append(np.mean((result.ttf - wanted) ** 2))
    assert np.mean(errors) ** 0.5 < 0.03, "0.037 without a taper"


def test_an_edge_sharper_than_the_pixels_has_no_f10():
    rows, columns = np.indices((128, 128))
    image = 100.0 * (np.hypot(rows - 63.3, columns - 64.1) < 25)
    result = resolution.disc_transfer(image[None], (63.3, 64.1), 25.0, PIXEL)
    assert result.f10_per_mm is None


def test_what_the_edge_response_refuses():
    image = disc(1.0)[None]
    with pytest.raises(DataError, match="leaves the image"):
        resolution.disc_transfer(image, (20, 64), 25.0, PIXEL)
    with pytest.raises(DataError, match="no edge"):
        resolution.disc_transfer(np.full_like(image, 40.0), (63.3, 64.1), 25.0, PIXEL)
    with pytest.raises(DataError, match="radius is wrong"):
        resolution.disc_transfer(image, (63.3, 64.1), 16.0, PIXEL)
    with pytest.raises(UsageError, match="at least"):
        resolution.disc_transfer(image, (63.3, 64.1), 3.0, PIXEL)
    with pytest.raises(DataError, match="finite stack"):
        resolution.disc_transfer(image[0], (63.3, 64.1), 25.0, PIXEL)


def test_cnr_and_hrnets_cnr():
    rng = np.random.default_rng(0)
    fg, bg = 80 + 10 * rng.standard_normal(10**5), 50 + 20 * rng.standard_normal(10**5)
    assert contrast.cnr(fg, bg) == pytest.approx(30 / ((100 + 400) / 2) ** 0.5, rel=0.02)
    assert contrast.cnr_hrnet(fg, bg) == pytest.approx(2 * 30 / 10, rel=0.03)
    with pytest.raises(DataError, match="divides by their difference"):
        contrast.cnr_hrnet(np.arange(9.0), np.arange(9.0) + 5)
    with pytest.raises(DataError, match="constant"):
        contrast.cnr(np.ones(5), np.zeros(5))
    with pytest.raises(DataError, match="two finite pixels"):
        contrast.cnr([1.0], [1.0, 2.0])


def test_bias_is_found_in_its_tissue_alone():
    reference = np.full((2, 60, 60), -1000.0)
    reference[:, 10:50, 10:50] = 50.0
    reference[:, 30:50, 10:50] = -100.0
    prediction = reference + white(2, 60, 5)
    prediction[:, 10:30, 10:50] += 12.0
    bias = contrast.hu_bias(prediction, reference)
    assert bias["soft tissue"] == pytest.approx(12, abs=0.5)
    assert bias["fat"] == pytest.approx(0, abs=0.5)
    assert bias["bone"] is None and bias["lung"] is None
    with pytest.raises(DataError, match="one shape"):
        contrast.hu_bias(prediction[:1], reference)
