"""What is one series: parts kept apart, copies found, acquisitions and patients never mixed."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest

from ldct_jax.data.prepare import Selection, prepare
from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import denoise_path
from ldct_jax.dicom.survey import found_series
from ldct_jax.errors import DataError
from tests.dicom_fixtures import anatomy, noisy, uid, write_mayo_pair, write_series, write_slice

BODY = anatomy(0)
SAME = {"SeriesInstanceUID": uid("one series")}


def lengths(folder) -> list[int]:
    return sorted(len(s.headers) for s in found_series(folder).series)


def stored(store) -> set[bytes]:
    return {image.tobytes() for i in range(len(store.series)) for image in store.full(i)}


@pytest.mark.core
@pytest.mark.parametrize(
    "second",
    [
        {"ConvolutionKernel": "B70f"},
        {"PatientID": "another"},
        {"StudyInstanceUID": uid("another study")},
        {"spacing": 4.0},
        {"orientation": (1, 0, 0, 0, 0.9998, 0.02)},
        {"SliceThickness": "5"},
        {"AcquisitionNumber": "2"},
        {"TemporalPositionIdentifier": "2"},
        {"ContrastBolusAgent": "IODINE"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "VIRTUAL_MONO"]},
        {"KVP": "80"},
        {"origin": (-150.0, -160.0)},
    ],
)
def test_parts_under_one_uid_are_stored_once_each(tmp_path, second):
    first = {"AcquisitionNumber": "1", "TemporalPositionIdentifier": "1"}
    write_series(tmp_path / "in", BODY, **SAME | first)
    other = anatomy(1)
    write_series(tmp_path / "in", other, name=lambda k: f"b{k}", **SAME | first | second)
    series = found_series(tmp_path / "in").series
    assert [len(s.headers) for s in series] == [6, 6]
    assert len({s.identity for s in series}) == len({s.content_identity for s in series}) == 2
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    assert stored(store) == {image.tobytes() for image in (*BODY, *other)}
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    uids = {
        pydicom.dcmread(p).SeriesInstanceUID
        for p in (tmp_path / "out").iterdir()
        if p.suffix != ".json"
    }
    assert len(uids) == 2


@pytest.mark.core
def test_rounding_does_not_split_a_series(tmp_path):
    for k, image in enumerate(BODY):
        turn = -0.260499 if k % 2 else -0.260501
        pixel = 5.0 + 1e-6 * (k % 3)
        write_slice(
            tmp_path / f"{k}",
            image,
            z=5.0 * k,
            orientation=(1, 0, 0, 0, 0.965474, turn),
            spacing=pixel,
            **SAME,
        )
    (series,) = found_series(tmp_path).series
    np.testing.assert_allclose(np.diff(series.positions_mm), 5 * 0.965474, rtol=1e-4)


@pytest.mark.core
def test_acquisitions_that_follow_one_another_are_one_series(tmp_path):
    """A step-and-shoot scan counts its rotations; thin and thick slices of a head follow too."""
    for k, image in enumerate(BODY):
        thick = "1" if k < 3 else "2"
        write_slice(
            tmp_path / f"{k}", image, z=k, AcquisitionNumber=k // 2, SliceThickness=thick, **SAME
        )
    assert lengths(tmp_path) == [6]


@pytest.mark.core
def test_passes_are_told_apart_by_their_times_alone(tmp_path):
    for k, image in enumerate(BODY):
        for i, start in enumerate((100000, 100100)):
            tags = SAME | {"AcquisitionTime": str(start + k)}
            write_slice(tmp_path / f"{i}{k}", noisy(image, 10, i), z=k, **tags)
    series = found_series(tmp_path).series
    assert lengths(tmp_path) == [6, 6]
    for one in series:
        assert len({h.time[:4] for h in one.headers}) == 1


@pytest.mark.core
def test_a_copy_is_skipped_and_a_shared_uid_is_not_a_copy(tmp_path):
    shared = SAME | {"SOPInstanceUID": uid("one for all")}
    paths = write_series(tmp_path / "in", BODY, **shared)
    shutil.copy(paths[3], tmp_path / "in" / "copy")
    (series,) = found_series(tmp_path / "in").series
    assert len(series.headers) == 6
    assert len({h.instance_uid for h in series.headers}) == 6
    assert series.warnings == (
        "1 duplicate skipped",
        "6 slices share their SOP instance UID and get their own",
    )
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    results = [pydicom.dcmread(p) for p in (tmp_path / "out").glob("*.dcm")]
    assert len(results) == len({r.SOPInstanceUID for r in results}) == 6


@pytest.mark.core
def test_one_uid_of_two_patients_gives_two_results(tmp_path):
    shared = {"SOPInstanceUID": uid("x"), **SAME}
    for patient in "AB":
        write_slice(tmp_path / "in" / patient, BODY[0], z=0, PatientID=patient, **shared)
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    a, b = (pydicom.dcmread(tmp_path / "out" / p) for p in "AB")
    assert a.SOPInstanceUID != b.SOPInstanceUID and a.SeriesInstanceUID != b.SeriesInstanceUID


# ---- pairs ---------------------------------------------------------------------------------------


def write_phases(folder, sd: float, order: str, *, one_uid: bool, **tags) -> dict[str, np.ndarray]:
    """Arterial (A) and venous (V) phase of one body, files in ``order``; → their images."""
    found = {}
    for n, phase in enumerate(order):
        body = BODY + np.int16(150 if phase == "A" else 0) * (np.abs(BODY - 50) < 1)
        found[phase] = noisy(body, sd, n)
        own = {key: value[phase] for key, value in tags.items()}
        series = uid(folder.name) if one_uid else uid(folder.name, phase)
        write_series(
            folder,
            found[phase],
            name=lambda k, n=n: f"{n}{k}",
            SeriesInstanceUID=series,
            **own,
        )
    return found


@pytest.mark.core
@pytest.mark.parametrize("one_uid", [True, False])
@pytest.mark.parametrize(
    "tags",
    [
        {"AcquisitionNumber": {"A": "2", "V": "3"}},
        {"TemporalPositionIdentifier": {"A": "1", "V": "2"}},
        {"AcquisitionTime": {"A": "100000", "V": "100100"}},
        {"ContrastBolusAgent": {"A": "ARTERIAL", "V": "VENOUS"}},
    ],
)
def test_phases_are_paired_with_themselves(tmp_path, one_uid, tags):
    full = write_phases(tmp_path / "full", 5, "AV", one_uid=one_uid, **tags)
    low = write_phases(tmp_path / "low", 20, "VA", one_uid=one_uid, **tags)
    store, _ = prepare(None, tmp_path / "s", full=tmp_path / "full", low=tmp_path / "low")
    assert len(store.series) == 2
    pairs = [(store.full(i).tobytes(), store.low(i).tobytes()) for i in range(2)]
    assert set(pairs) == {(full[p].tobytes(), low[p].tobytes()) for p in "AV"}


@pytest.mark.core
def test_phases_that_no_tag_tells_apart_are_refused(tmp_path):
    write_phases(tmp_path / "full", 5, "AV", one_uid=False)
    write_phases(tmp_path / "low", 20, "VA", one_uid=False)
    with pytest.raises(DataError, match="no tag tells which are of one acquisition"):
        prepare(None, tmp_path / "s", full=tmp_path / "full", low=tmp_path / "low")


@pytest.mark.core
def test_slices_of_another_acquisition_are_no_partners(tmp_path):
    """The normal dose's second half is of another phase than the low dose's."""
    first, second = {"AcquisitionNumber": "1"}, {"AcquisitionNumber": "2"}
    write_series(tmp_path / "low", noisy(BODY, 20, 0), **first)
    write_series(tmp_path / "full", BODY[:3], SeriesInstanceUID=uid("f"), **first)
    write_series(
        tmp_path / "full",
        BODY[3:],
        z0=3.0,
        name=lambda k: f"b{k}",
        SeriesInstanceUID=uid("f"),
        **second,
    )
    store, _ = prepare(None, tmp_path / "s", full=tmp_path / "full", low=tmp_path / "low")
    np.testing.assert_array_equal(store.full(0), BODY[:3])


@pytest.mark.core
def test_two_single_files_are_a_pair(tmp_path):
    low = write_slice(tmp_path / "L067_QD.IMA", noisy(BODY[0], 20, 0), z=0)
    full = write_slice(tmp_path / "IM0001", BODY[0], z=0)
    store, _ = prepare(None, tmp_path / "s", full=full, low=low)
    np.testing.assert_array_equal(store.full(0)[0], BODY[0])


# ---- patients ------------------------------------------------------------------------------------


@pytest.mark.core
def test_series_of_one_study_without_ids_are_one_patient(tmp_path):
    blank = {"PatientID": "", "PatientName": ""}
    for study in range(2):
        for recon in range(2):
            tags = blank | {"StudyInstanceUID": uid("study", study)}
            write_series(tmp_path / "in" / f"{study}{recon}", anatomy(2 * study + recon), **tags)
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    labels = [s.patient for s in store.series]
    assert labels[0] == labels[1] != labels[2] == labels[3]


@pytest.mark.core
@pytest.mark.parametrize(
    "blanked",
    [
        {"PatientID": "", "PatientName": ""},
        {"PatientID": ""},
        {"PatientID": "", "PatientName": "", "StudyInstanceUID": uid("another")},
    ],
)
def test_a_series_without_id_belongs_to_the_patient_of_its_study(tmp_path, blanked):
    shared = {"FrameOfReferenceUID": uid("frame"), "PatientID": "P", "PatientName": "N"}
    write_series(tmp_path / "a", anatomy(0), **shared)
    write_series(tmp_path / "b", anatomy(1), **shared | blanked)
    assert {s.patient_key for s in found_series(tmp_path).series} == {"P"}


@pytest.mark.core
def test_one_study_of_two_named_patients_is_two_patients(tmp_path):
    for patient in "AB":
        write_series(tmp_path / patient, anatomy(ord(patient)), PatientID=patient)
    assert {s.patient_key for s in found_series(tmp_path).series} == {"A", "B"}


@pytest.mark.core
def test_equal_images_under_two_patients_are_refused(tmp_path):
    for patient in "AB":
        write_series(tmp_path / "in" / patient, BODY, PatientID=patient)
    with pytest.raises(DataError, match="the same images under two patients"):
        prepare(tmp_path / "in", tmp_path / "store")


@pytest.mark.core
def test_a_mayo_folder_whose_tags_name_another_patient_is_left_out(tmp_path):
    for folder, patient in (("L067", "L096"), ("L096", "L096")):
        folders = tuple(tmp_path / "in" / folder / f"{d}_1mm" for d in ("full", "quarter"))
        write_mayo_pair(folders, patient, ord(folder[-1]))
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    assert len(store.series) == 1
    assert {one.reason for one in survey.left_out} == {
        "the folder says patient L067, the tags say L096"
    }
    assert {one.kind for one in survey.left_out} == {"failed"}


@pytest.mark.core
def test_results_and_derived_images_are_no_normal_dose(tmp_path):
    source = tmp_path / "in" / "scan"
    write_series(source, noisy(BODY, 20, 1))
    denoise_path(source, tmp_path / "in" / "results", find("gaussian"))
    write_series(tmp_path / "in" / "mip", anatomy(2), ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    assert [r.folder for r in survey.rows if r.used] == ["scan"]
    assert len(store.series) == 1
    both, _ = prepare(tmp_path / "in", tmp_path / "derived", selection=Selection(derived=True))
    assert len(both.series) == 2  # never the results
    with pytest.raises(DataError, match="a result of ldct denoise"):
        prepare(tmp_path / "in" / "results", tmp_path / "s")
