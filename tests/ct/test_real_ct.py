"""The dose physics on real CT: calibrated on a series' own noise it adds sqrt(1/dose − 1)·σ."""

import numpy as np
import pytest

from ldct_jax.ct import checks
from ldct_jax.ct.calibration import n0_from_tags, rotation_mas
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.insertion import Scan
from ldct_jax.dicom.load import read_folder
from ldct_jax.errors import DataError
from tests.ct.bodies import water

SCAN = Scan(5e5, geometry=FanBeam(n_views=384))


def test_added_noise_of_real_series(real_ct):
    folder = sorted(f for f in real_ct.iterdir() if f.is_dir())[-1]
    series = read_folder(folder)[0]
    middle = len(series) // 2
    hu = series.hu[middle : middle + 2]
    # 2x2 means: the test stays short, and the noise stays the series' own.
    hu = hu.reshape(2, 256, 2, 256, 2).mean(axis=(2, 4))
    calibration, rows = checks.series_dose(
        hu, pixel_mm=2 * series.pixel_mm, doses=(0.25, 0.1), scan=SCAN, seed=3
    )
    assert "measured noise" in calibration.how
    assert {row.zone for row in rows} == {"centre", "edge"}
    for dose in (0.25, 0.1):
        ratio = np.mean([row.added[dose] / row.expected(dose) for row in rows])
        assert 0.8 < ratio < 1.25


def test_regions_of_real_series(real_ct):
    named = {}
    for folder in sorted(f for f in real_ct.iterdir() if f.is_dir()):
        if folder.name in ("ACRIN-FLT-001-chest", "TCGA-LIHC-A10W"):
            series = read_folder(folder)[0]
            named[folder.name] = {
                checks.body_region(image, series.pixel_mm) for image in series.hu[::12]
            }
    if len(named) < 2:
        pytest.skip("the folder holds other series")
    assert "chest" in named["ACRIN-FLT-001-chest"]
    assert named["TCGA-LIHC-A10W"] >= {"abdomen", "pelvis"}


@pytest.mark.core
def test_flat_tissue_and_regions_of_a_drawing():
    pixel = 3.0
    body = water(128, pixel, (150, 105)) + 40
    rng = np.random.default_rng(0)
    flat = checks.flat_tissue(body + rng.normal(0, 12, body.shape), pixel)
    assert flat.sum() > 500
    assert not flat[body < 0].any()
    halves = body + np.where(np.arange(128) < 64, 0, 90)
    flat = checks.flat_tissue(halves + rng.normal(0, 12, body.shape), pixel)
    assert flat.sum() > 500 and not flat[:, 62:66].any()  # no window across the border
    _, sd = checks.local_sd(rng.normal(0, 12, (128, 128)), pixel)
    np.testing.assert_allclose(np.sqrt(np.mean(sd**2)), 12, rtol=0.05)
    assert checks.body_region(body, pixel) == "abdomen"
    chest = body.copy()
    chest[45:85, 30:95] = -850
    assert checks.body_region(chest, pixel) == "chest"
    with pytest.raises(DataError, match="no body"):
        checks.body_region(np.full((64, 64), -1000.0), pixel)
    with pytest.raises(DataError, match="too little"):
        checks.series_dose(
            np.full((1, 64, 64), -1000.0), pixel_mm=pixel, doses=(0.25,), scan=SCAN, seed=0
        )


def test_exposure_of_a_rotation():
    assert rotation_mas(150.0, 188.0) == (150.0, "150 mAs")
    # GE writes the exposure of the whole scan.
    mas, how = rotation_mas(7837.0, 440.0)
    assert mas == pytest.approx(352) and "assumed" in how
    assert rotation_mas(float("nan"), 100.0)[0] == 80
    with pytest.raises(DataError, match="neither"):
        rotation_mas(float("nan"), float("nan"))
    assert n0_from_tags(mas=mas, slice_mm=1.25).n0 > 1e5
