"""`ldct physics`: every report writes its figures, tables and JSON."""

from __future__ import annotations

import itertools
import json

import pytest

from ldct_jax.cli import run
from tests.dicom_fixtures import write_series

SMALL = ["--size", "96", "--views", "90"]


def cells(out, report, table):
    tables = json.loads((out / f"{report}.json").read_text())["tables"]
    rows = next(t for t in tables if t["name"] == table)["rows"]
    return [list(row.values()) for row in rows]


def test_noise(tmp_path, capfd):
    assert run(["physics", "noise", str(tmp_path), *SMALL, "--slices", "1"]) == 0
    assert "measured curve" in capfd.readouterr().out
    rows = cells(tmp_path, "noise", "variance_by_dose")
    assert [r[0] for r in rows] == [1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01]
    assert all(a[3] < b[3] for a, b in itertools.pairwise(rows))
    for name in ("noise_spectrum", "variance_by_dose", "streaks"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_streaks(tmp_path, capfd):
    assert run(["physics", "streaks", str(tmp_path), *SMALL]) == 0
    assert "Streaks between the hips" in capfd.readouterr().out
    rows = cells(tmp_path, "streaks_pelvis", "streaks_pelvis")
    assert {row[0] for row in rows} == {"pelvis", "abdomen", "water disc"}
    for name in ("streaks_pelvis", "streaks_pelvis_noise"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.core
def test_phantoms(tmp_path, capfd):
    assert run(["physics", "phantoms", str(tmp_path), "--patients", "1", "--size", "96"]) == 0
    assert "slices a minute" in capfd.readouterr().out
    assert len(cells(tmp_path, "phantoms", "phantoms")) == 3
    assert (tmp_path / "phantoms_thorax_lung.png").exists()


def test_speed(tmp_path, capfd):
    assert run(["physics", "speed", str(tmp_path), *SMALL, "--repeats", "1"]) == 0
    rows = cells(tmp_path, "speed", "speed")
    assert [r[0] for r in rows][-1] == "quarter dose, whole"
    assert all(r[1] > 0 for r in rows)
    capfd.readouterr()


@pytest.mark.parametrize("real", [False, True], ids=["phantoms", "dicom"])
def test_dose_table(real, tmp_path, capfd):
    command = ["physics", "dose-table", str(tmp_path / "out"), *SMALL, "--slices", "2"]
    if real:
        from ldct_jax.ct.dose import sample_noise
        from ldct_jax.ct.phantom.random_patient import random_patient

        patient = random_patient(3, n_slices=4, size=96, pixel_mm=3.95).hu
        noisy = patient + sample_noise(patient.shape, 12.0, 3.95, 1)
        write_series(tmp_path / "ct", noisy.round().astype("int16"), spacing=3.95)
        command += ["--data", str(tmp_path / "ct")]
    assert run(command) == 0
    assert "Mayo" in capfd.readouterr().out
    rows = cells(tmp_path / "out", "dose_table", "dose_by_region")
    assert rows
    for row in rows:
        assert 0.5 < row[6] / row[5] < 2
    mayo = cells(tmp_path / "out", "dose_table", "mayo_level")
    assert all(abs(row[3] / row[1] - 1) < 0.2 for row in mayo)


def test_mistakes_are_one_line(tmp_path, capfd):
    assert run(["physics", "dose-table", str(tmp_path), "--data", str(tmp_path / "none")]) == 1
    assert "error:" in capfd.readouterr().err
    assert run(["physics", "noise", str(tmp_path), "--n0", "-1"]) == 2
    assert "n0=" in capfd.readouterr().err


def test_sample_page_shows_every_series_of_a_store(tmp_path, capfd):
    store, out = tmp_path / "store", tmp_path / "out"
    small = ["--patients", "2", "--slices", "3", "--size", "64", "--pixel-mm", "6"]
    assert run(["data", "phantom", str(store), *small]) == 0
    assert run(["physics", "sample", str(out), "--data", str(store)]) == 0
    assert sorted(p.name for p in out.glob("*.png")) == ["sample_1.png", "sample_2.png"]
    assert "own noise" in capfd.readouterr().out
