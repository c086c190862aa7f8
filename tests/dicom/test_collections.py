"""Collections are recognised by themselves, paired by position, and mistakes are said."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ldct_jax.dicom.collections.layouts import survey, survey_plain
from ldct_jax.dicom.collections.pairing import common_positions, correlation, load_pair
from ldct_jax.errors import DataError
from tests.dicom_fixtures import (
    anatomy,
    noisy,
    write_mayo,
    write_mayo_download,
    write_mayo_pair,
    write_series,
    write_slice,
    write_tcia,
)


def pairs_of(found):
    return {(c.patient_key, c.full.first.kernel): c for c in found.candidates}


@pytest.mark.promise("collections")
@pytest.mark.core
def test_mayo_by_patient(tmp_path):
    found = survey(write_mayo(tmp_path))
    assert found.layout == "mayo2016"
    assert set(pairs_of(found)) == {("mayo2016/L067", "B30f"), ("mayo2016/L096", "B30f")}
    for candidate in found.candidates:
        assert candidate.dose == 0.25
        assert "PatientName" in candidate.dose_source
        full, low = load_pair(candidate.full, candidate.low)
        np.testing.assert_array_equal(full.positions, low.positions)
        # In register: the same anatomy, two noises (10 and 25 HU).
        difference = low.hu.astype(int) - full.hu
        inside = np.abs(full.hu - 50) < 40
        assert difference[inside].std() == pytest.approx(np.hypot(10, 25), rel=0.1)


@pytest.mark.promise("collections")
@pytest.mark.core
@pytest.mark.parametrize("top", ["Training_Image_Data", "Traning_Image_Data"])
def test_mayo_as_downloaded_keeps_kernels_apart(tmp_path, top):
    found = survey(write_mayo_download(tmp_path, top=top))
    assert found.layout == "mayo2016"
    assert set(pairs_of(found)) == {
        (f"mayo2016/{p}", k) for p in ("L067", "L096") for k in ("B30f", "D45f")
    }
    for candidate in found.candidates:
        assert candidate.low.first.kernel == candidate.full.first.kernel
        assert "full" in str(candidate.full.folder) and "quarter" in str(candidate.low.folder)


def test_mayo_sharp_is_no_partner_of_smooth_without_kernel_tags(tmp_path):
    for kind in ("", "_sharp"):
        folders = tuple(tmp_path / "L067" / f"{dose}_1mm{kind}" for dose in ("full", "quarter"))
        write_mayo_pair(folders, "L067", 0, tags={"ConvolutionKernel": None})
    assert len(survey(tmp_path).candidates) == 2
    shutil.rmtree(tmp_path / "L067" / "full_1mm")
    shutil.rmtree(tmp_path / "L067" / "quarter_1mm_sharp")
    with pytest.raises(DataError, match="no low-dose series has a normal-dose partner"):
        survey(tmp_path)


def test_mayo_with_folders_named_in_capitals_and_one_patient_given(tmp_path):
    folders = (tmp_path / "L506" / "FULL_3MM_SHARP", tmp_path / "L506" / "Quarter_3mm_sharp")
    write_mayo_pair(folders, "L506", 3)
    found = survey(tmp_path / "L506")
    assert [c.patient_key for c in found.candidates] == ["mayo2016/L506"]


@pytest.mark.core
def test_mayo_traps_become_rows(tmp_path):
    write_mayo(tmp_path, low_n=5, low_z0=1.0)  # the low dose misses the first slice
    full = tmp_path / "L067" / "full_1mm"
    write_slice(
        full / "scout.IMA", anatomy(0)[0], z=0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    write_series(
        full,
        anatomy(0, 3),
        z0=-300.0,
        ConvolutionKernel="D45f",
        PatientName="L067_FD_1",
        name=lambda k: f"sharp{k}.IMA",
    )
    (tmp_path / "L096" / "full_1mm").rename(tmp_path / "L096" / "swap")
    (tmp_path / "L096" / "quarter_1mm").rename(tmp_path / "L096" / "full_1mm")
    (tmp_path / "L096" / "swap").rename(tmp_path / "L096" / "quarter_1mm")
    write_series(tmp_path / "other", anatomy(1))
    found = survey(tmp_path)
    assert [c.patient_key for c in found.candidates] == ["mayo2016/L067"]
    notes = {row.note: row for row in found.rows}
    assert "a localizer" in notes
    assert "no full_… or quarter_… folder" in notes
    assert "no partner: kernel D45f and B30f" in notes
    assert "the folder says full dose, PatientName says low" in notes
    assert "the folder says low dose, PatientName says full" in notes
    (used,) = [row for row in found.rows if row.used]
    assert (used.what, used.slices) == ("pair", 5)
    assert "1 normal-dose and 0 low-dose slices without partner" in used.note


@pytest.mark.promise("collections")
@pytest.mark.core
@pytest.mark.parametrize("windows", [True, False])
def test_tcia_with_its_table(tmp_path, windows):
    write_tcia(tmp_path, windows=windows)
    found = survey(tmp_path)
    assert found.layout == "ldct-pd"
    doses = {c.patient_key: c.dose for c in found.candidates}
    assert doses == {"ldct-pd/L006": 0.25, "ldct-pd/C002": 0.10}
    notes = [row.note for row in found.rows]
    assert "GE: the collection has no low-dose images of it" in notes
    assert "projection data, not images" in notes
    for candidate in found.candidates:
        assert "full" in candidate.full.folder.name.lower()
        load_pair(candidate.full, candidate.low)


def test_tcia_of_another_release(tmp_path):
    # Other case, other dates, the table beside the folder that is given, a folder not downloaded.
    write_tcia(tmp_path, upper=False, date="12-23-2021")
    lost = next((tmp_path / "LDCT-and-Projection-data" / "C002").rglob("*Low dose*"))
    shutil.rmtree(lost)
    extra = next((tmp_path / "LDCT-and-Projection-data" / "L006").rglob("*Low dose images*"))
    next(extra.iterdir()).unlink()
    found = survey(tmp_path / "LDCT-and-Projection-data")
    assert [c.patient_key for c in found.candidates] == ["ldct-pd/L006"]
    notes = " | ".join(row.note for row in found.rows)
    assert "in metadata.csv but not downloaded" in notes
    assert "4 of 5 images of metadata.csv" in notes


def test_tcia_whose_folders_are_named_by_uid(tmp_path):
    write_tcia(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    for k, folder in enumerate(sorted((tmp_path / "LDCT-and-Projection-data").rglob("1.000000*"))):
        folder.rename(folder.with_name(f"1.2.3.{k}"))
    for layout in ("ldct-pd", "auto"):
        found = survey(tmp_path, layout=layout)
        assert {c.patient_key for c in found.candidates} == {"ldct-pd/L006", "ldct-pd/C002"}
        assert found.layout == "ldct-pd" and all(c.low is not None for c in found.candidates)


def test_a_description_alone_doesn_t_make_a_folder_the_archives(tmp_path):
    write_series(tmp_path / "a", anatomy(0), PatientID="P1", SeriesDescription="Low Dose Images")
    assert survey(tmp_path).layout == "plain"


@pytest.mark.core
def test_two_collections_at_once_are_refused(tmp_path):
    write_mayo(tmp_path / "mayo")
    write_tcia(tmp_path / "tcia")
    with pytest.raises(DataError, match="which share patients"):
        survey(tmp_path)


@pytest.mark.promise("collections")
@pytest.mark.core
def test_plain_normal_dose(tmp_path):
    write_series(tmp_path / "a", anatomy(0), PatientID="one")
    write_series(tmp_path / "b", anatomy(1), PatientID="one")
    write_series(tmp_path / "c", anatomy(2), PatientID="two", orientation=(1, 0, 0, 0, 0, -1))
    found = survey(tmp_path)
    assert (found.layout, [c.low for c in found.candidates]) == ("plain", [None, None])
    assert {c.patient_key for c in found.candidates} == {"one"}
    assert any("positions (several phases?)" in r.note or r.note == "not axial" for r in found.rows)


@pytest.mark.promise("collections")
@pytest.mark.parametrize("named", [True, False])
def test_plain_pairs_in_two_folders(tmp_path, named):
    for seed, patient in enumerate(("A", "B")):
        body = anatomy(seed)
        for dose, sd in (("full", 10), ("low", 30)):
            # Anonymised separately: the IDs of the two sides have nothing in common.
            write_series(
                tmp_path / dose / patient, noisy(body, sd, seed + sd), PatientID=f"{dose}{patient}"
            )
    if named:
        found = survey(tmp_path)
    else:
        found = survey_plain(tmp_path / "full", tmp_path / "low", dose=0.1)
        assert {c.dose for c in found.candidates} == {0.1}
    assert {c.patient_key for c in found.candidates} == {"fullA", "fullB"}
    for candidate in found.candidates:
        load_pair(candidate.full, candidate.low)


@pytest.mark.core
def test_a_pair_of_two_patients_is_an_error(tmp_path):
    write_series(tmp_path / "full", anatomy(0), PatientID="x")
    write_series(tmp_path / "low", anatomy(1), PatientID="x")
    (candidate,) = survey(tmp_path).candidates
    with pytest.raises(DataError, match="doesn't correlate with its low dose"):
        load_pair(candidate.full, candidate.low)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"SliceThickness": "3"}, "thickness 1 and 3 mm"),
        ({"spacing": 4.0}, "pixels of 5 and 4 mm"),
        ({"ConvolutionKernel": "B70f"}, "kernel B30f and B70f"),
        ({"z0": 0.5}, "no slice at a common position"),
        ({"origin": (-155.0, -160.0)}, "shifted by 5 mm in their plane"),
    ],
)
def test_what_is_no_pair_and_why(tmp_path, change, reason):
    write_series(tmp_path / "full", anatomy(0))
    write_series(tmp_path / "low", anatomy(0), **change)
    with pytest.raises(DataError, match=f"no low-dose series has a normal-dose partner.*{reason}"):
        survey(tmp_path)


def test_low_dose_alone_and_nothing_at_all(tmp_path):
    write_series(tmp_path / "L067" / "quarter_1mm", anatomy(0), PatientName="L067_QD_1")
    with pytest.raises(DataError, match="low-dose series only"):
        survey(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        survey(tmp_path / "empty")
    with pytest.raises(DataError, match="doesn't exist"):
        survey(tmp_path / "no")


@pytest.mark.core
def test_common_positions():
    full = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    low = np.array([0.95, 2.04, 3.2, 4.0, 5.0])
    at_full, at_low = common_positions(full, low)
    assert at_full.tolist() == [1, 2, 4]
    assert at_low.tolist() == [0, 1, 3]
    dense = np.array([0.0, 0.05, 0.1, 0.15])
    assert common_positions(np.array([0.1]), dense)[1].tolist() == [2]


@pytest.mark.core
def test_correlation_separates_bodies_from_noise():
    a, b = anatomy(0), anatomy(1)
    assert correlation(a, noisy(a, 100, 0)) > 0.97
    assert correlation(a, b) < 0.95
    assert np.isnan(correlation(a, np.zeros_like(a)))
    padded = a.copy()
    padded[0] = -1024
    assert correlation(padded, padded) == pytest.approx(1)
