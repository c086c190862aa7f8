"""What is measured of the shipped model: how much noise to keep, and texture."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from experiments.shipped import kept, texture


def test_the_error_of_a_share_is_that_of_the_mixed_image():
    rng = np.random.default_rng(0)
    full, noise = rng.normal(50, 10, (1, 64, 64)), rng.normal(0, 20, (1, 64, 64))
    full[:, :8] = -900  # outside the abdominal window: doesn't count
    low = full + noise
    free = full + 0.2 * noise + rng.normal(0, 4, noise.shape)
    error = kept.Error.of(low, full, free)
    at = full > -160
    for share in (0.0, 0.15, 1.0):
        mixed = free + share * (low - free)
        assert error.at(share) == pytest.approx(np.mean((mixed - full)[at] ** 2))
    assert all(error.at(error.best) < error.at(error.best + d) for d in (-0.02, 0.02))
    assert error.lost_db(error.best) == pytest.approx(0) and error.lost_db(1.0) > 3


def series(patient, half, thickness, noise, training=True):
    error = kept.Error(added=900.0, removed=880.0, both=790.0)
    low = {dose.name: (noise / dose.fraction**0.5, error) for dose in kept.DOSES}
    return kept.Measured(patient, training, "k", half, thickness, noise, low)


def test_a_routine_noise_by_kernel_and_thickness_is_that_of_other_patients():
    def noise(half, thickness):
        return 30.0 * half**0.8 * thickness**-0.5

    every = [
        series(f"p{i}", half, thickness, noise(half, thickness))
        for i, (half, thickness) in enumerate(
            [(0.2, 5.0), (0.3, 3.0), (0.4, 1.25), (0.5, 2.5), (0.3, 8.0), (0.45, 5.0)]
        )
    ]
    odd = series("odd", 0.35, 2.0, 100.0)
    assert kept.expected_noise(odd, [*every, odd]) == pytest.approx(noise(0.35, 2.0))
    tested = series("v", 0.35, 2.0, 100.0, training=False)
    assert kept.expected_noise(every[0], [*every, tested]) == pytest.approx(every[0].noise_hu)
    # A quarter of the dose of what is expected has twice its noise: a share of a quarter.
    right = kept.lost((None, 2.0, 0.0), every[0], "25%", every)
    assert right == pytest.approx(every[0].doses["25%"][1].lost_db(0.25))
    assert kept.lost((1e-3, 2.0, 0.3), every[0], "25%", every) == pytest.approx(
        every[0].doses["25%"][1].lost_db(0.3)
    )


@pytest.fixture(scope="module")
def low(module_patch):
    few = dataclasses.replace(texture.PHANTOM, size=256, realisations=8)
    module_patch.setattr(texture, "PHANTOM", few)
    return texture.images(texture.KERNELS[1])


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_less_noise_of_the_same_kind_changes_no_texture(low):
    before = texture.measure(low)
    assert before.sd_hu == pytest.approx(texture.LOW_DOSE_HU, rel=0.05)
    mean = low.mean(axis=0)
    row = texture.compared(before, texture.measure(mean + 0.55 * (low - mean)))
    assert row[0] == pytest.approx(0.45) and row[1] == pytest.approx(1)
    assert row[2:6] == pytest.approx([1] * 4) and abs(row[6]) < 1
    assert texture.missed(row) == []
    assert texture.missed(texture.compared(before, before)) == ["noise"]


def test_a_blur_is_told_in_spectrum_and_edges(low):
    before = texture.measure(low)
    row = texture.compared(before, texture.measure(gaussian_filter(low, (0, 1.2, 1.2)) + 2.0))
    assert texture.missed(row) == ["NPS", "TTF", "bias"]
    assert row[2] < 0.9 and row[4] < 0.9
