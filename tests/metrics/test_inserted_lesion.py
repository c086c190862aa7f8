"""A lesion of known contrast: where it is put, and that blurring and noise change its CNR."""

import numpy as np
import pytest

from ldct_jax.metrics.inserted_lesion import Lesion

PIXEL_MM = 1.0
LESION = Lesion(contrast_hu=-40.0, radius_mm=8.0)


def slices(noise_hu: float):
    """A square of 50 HU in air, 60 pixels wide, without and with white noise."""
    full = np.full((96, 96), -1000.0, np.float32)
    full[10:70, 20:80] = 50.0
    noise = np.random.default_rng(3).normal(0, noise_hu, full.shape).astype(np.float32)
    return full + noise / 4, full + noise


@pytest.mark.core
def test_it_lies_in_the_middle_of_the_tissue():
    full, _ = slices(0.0)
    row, column = LESION.place(full, PIXEL_MM)
    assert abs(row - 39.5) <= 2 and abs(column - 49.5) <= 2
    assert LESION.place(full, 0.4) is None
    assert LESION.cnr(lambda hu: hu, full, full, 0.4)["cnr"] is None


def test_its_cnr_is_contrast_over_noise_and_depends_on_the_denoiser():
    full, low = slices(20.0)
    same = LESION.cnr(lambda hu: hu, low, full, PIXEL_MM)
    assert same["cnr"] == pytest.approx(40 / 20, rel=0.15)
    assert same["cnr_normal"] == pytest.approx(40 / 5, rel=0.15)
    halved = LESION.cnr(lambda hu: 50 + (hu - 50) * 0.5, low, full, PIXEL_MM)
    assert halved["cnr"] == pytest.approx(same["cnr"], rel=1e-5)
    erased = LESION.cnr(lambda hu: np.broadcast_to(low, hu.shape), low, full, PIXEL_MM)
    assert erased["cnr"] < 0.3


def test_a_constant_image_has_no_cnr():
    full, low = slices(20.0)
    found = LESION.cnr(lambda hu: np.zeros_like(hu), low, full, PIXEL_MM)
    assert found["cnr"] is None and found["cnr_hrnet"] is None
    assert found["cnr_normal"] is not None
