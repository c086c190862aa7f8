"""The pages on the physics: whole, and right where the numbers are known."""

import numpy as np
import pytest

from experiments import physics
from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.errors import DataError
from tests.dicom_fixtures import write_series

SMALL = {"size": 96, "views": 90, "slices": 2}


@pytest.mark.long
@pytest.mark.parametrize("real", [False, True], ids=["phantoms", "dicom"])
def test_the_dose_table_is_near_what_is_expected(real, tmp_path, monkeypatch):
    if real:
        patient = random_patient(3, n_slices=4, size=96, pixel_mm=3.95).hu
        noisy = patient + sample_noise(patient.shape, 12.0, 3.95, 1)
        write_series(tmp_path / "ct", noisy.round().astype("int16"), spacing=3.95)
        monkeypatch.setattr(physics, "mayo_table", lambda *a: None)  # the same without data
    by_region, photons, mayo = physics.dose_table(tmp_path / "ct" if real else None, **SMALL)
    assert by_region.rows and photons.rows
    for row in by_region.rows:
        for expected, measured in (row[5:7], row[7:9]):
            assert 0.8 < measured / expected < 1.25  # few windows hold 96 pixels
    if not real:
        assert all(abs(row[3] / row[1] - 1) < 0.2 for row in mayo.rows)


@pytest.mark.core
def test_body_regions_of_drawings():
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    body = np.where(np.hypot(x / 0.8, y / 0.55) < 1, 40.0, -1000.0)
    assert physics.body_region(body) == "abdomen"
    chest = body.copy()
    chest[45:85, 30:95] = -850
    assert physics.body_region(chest) == "chest"
    with pytest.raises(DataError, match="no body"):
        physics.body_region(np.full((64, 64), -1000.0))
    zones = physics.zones(body)
    assert zones["centre"][64, 64] and zones["edge"][64, 20] and not zones["edge"][64, 64]


@pytest.mark.core
def test_the_page_of_phantoms_is_written(tmp_path, capsys):
    command = ["phantoms", str(tmp_path), "--patients", "1", "--size", "96"]
    assert physics.main(command) == 0
    assert "slices a minute" in capsys.readouterr().out
    assert len((tmp_path / "phantoms.csv").read_text().splitlines()) >= 1 + 3
    pictures = {f"phantoms_{name}.png" for name in ("abdomen", "thorax", "thorax_lung", "pelvis")}
    assert {p.name for p in tmp_path.glob("*.png")} == pictures


def test_a_folder_without_series_is_one_line(tmp_path, capsys):
    assert physics.main(["dose", str(tmp_path), "--data", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
