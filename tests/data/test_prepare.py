"""DICOM → store: exact pixels, no identity, resumable; and simulated low dose on top."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import ldct_jax.data.prepare as preparation
from ldct_jax.data.derived import add_low_dose
from ldct_jax.data.prepare import Selection, prepare
from ldct_jax.data.simulate import LowDose, simulate
from ldct_jax.data.store import Store
from ldct_jax.data.table import store_table, survey_table
from ldct_jax.errors import DataError, UsageError
from ldct_jax.record import from_record
from tests.dicom_fixtures import anatomy, uid, write_mayo, write_series, write_slice, write_tcia

CANARIES = {
    "PatientName": "CANARYNAME^ANNA",
    "PatientID": "CANARYID77",
    "PatientBirthDate": "19010203",
    "PatientSex": "O",
    "StudyDate": "20170413",
    "SeriesDate": "20170414",
    "AcquisitionDate": "20170415",
    "ContentDate": "20170416",
    "AccessionNumber": "CANARYACC",
    "InstitutionName": "CANARYHOSPITAL",
    "ReferringPhysicianName": "CANARYDOC",
    "StudyDescription": "CANARYSTUDY",
    "SeriesDescription": "CANARYSERIES",
    "StationName": "CANARYSTATION",
    "StudyInstanceUID": "1.2.3.777777.1",
    "SeriesInstanceUID": "1.2.3.777777.2",
    "FrameOfReferenceUID": "1.2.3.777777.3",
}
SECRETS = ("CANARY", "777777", "19010203", "2017041", "secretfolder", "2.25.")


def leaks(folder, *texts) -> list[str]:
    """Secrets in the bytes or names of all files below ``folder``, or in ``texts``."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in SECRETS:
            if secret.encode() in content or secret.encode("utf-16-le") in content:
                found.append(f"{secret} in {path.name}")
            if secret in str(path.relative_to(folder)):
                found.append(f"{secret} in a file's name")
    return found + [secret for text in texts for secret in SECRETS if secret in text]


def write_secret_series(root, n=3):
    for k in range(n):
        tags = CANARIES | {
            "PatientID": f"CANARYID{k}",
            "SeriesInstanceUID": f"1.2.3.777777.{k + 1}",
        }
        write_series(
            root / f"secretfolder{k}", anatomy(k), name=lambda i: f"CANARYFILE{i}.dcm", **tags
        )


@pytest.mark.core
def test_pixels_and_geometry_arrive_exactly(tmp_path):
    body = anatomy(0)
    write_series(tmp_path / "in", body[::-1], z0=-95.0, step=-2.0, SliceThickness="3")
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    np.testing.assert_array_equal(store.full(0), body)
    record = store.series[0]
    assert record.offsets_mm == (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    assert (record.pixel_mm, record.slice_mm, record.step_mm) == (5.0, 3.0, 2.0)
    assert (record.kernel, record.kvp, record.manufacturer) == ("B30f", 120.0, "SIEMENS")
    assert record.tube_current_ma == (200.0,) * 6
    assert survey.layout == "plain"
    # The same command again opens what is there.
    again, _ = prepare(tmp_path / "in", tmp_path / "store")
    assert again == store
    prepare(tmp_path / "in", tmp_path / "store", attribution="whom to cite")
    assert Store.open(tmp_path / "store").attribution == "whom to cite"


@pytest.mark.core
def test_no_identity_anywhere(tmp_path, monkeypatch, capfd):
    write_secret_series(tmp_path / "in")
    out = tmp_path / "out"
    convert, calls = preparation._convert, []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return convert(*args, **options)

    monkeypatch.setattr(preparation, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "in", out / "store")
    assert len(list(out.rglob("*.npy"))) == 1
    assert leaks(out) == []  # also while it is unfinished
    monkeypatch.setattr(preparation, "_convert", convert)
    store, survey = prepare(tmp_path / "in", out / "store")
    low = add_low_dose(store, out / "low", LowDose(domain="image", added_sd_hu=20.0))
    said = capfd.readouterr()
    texts = [repr(x) for x in (store, low, survey.candidates, survey.rows, low.pairs().patients)]
    assert leaks(out, said.out, said.err, store_table(low), *texts) == []
    assert "secretfolder" in survey_table(survey.rows, store)  # the user's terminal alone
    # The search itself works.
    (out / "probe").write_bytes(b"xxCANARYxx")
    assert leaks(out) == ["CANARY in probe"]


@pytest.mark.core
def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    for k in range(3):
        write_series(tmp_path / "in" / f"{k}", anatomy(k), PatientID=f"P{k % 2}")
    convert, calls = preparation._convert, []

    def counting(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return convert(*args, **options)

    monkeypatch.setattr(preparation, "_convert", counting)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "in", tmp_path / "store")
    with pytest.raises(DataError, match="unfinished"):
        Store.open(tmp_path / "store")
    with pytest.raises(DataError, match="other options"):
        prepare(tmp_path / "in", tmp_path / "store", selection=Selection(thickness_mm=1.0))
    # A finished array is damaged meanwhile: that series alone is made anew.
    first = tmp_path / "store" / "series-0000-full.npy"
    first.write_bytes(first.read_bytes()[:-2])
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    assert len(calls) == 3 + 2
    for i, k in enumerate((0, 2, 1)):  # patient by patient
        np.testing.assert_array_equal(store.full(i), anatomy(k))
    assert store.series[0].patient == store.series[1].patient != store.series[2].patient


@pytest.mark.core
def test_two_series_of_one_patient_share_a_label(tmp_path):
    write_series(tmp_path / "in" / "abdomen", anatomy(0), PatientID="same", PatientName="A")
    write_series(tmp_path / "in" / "chest", anatomy(1), PatientID="same", PatientName="B")
    write_series(tmp_path / "in" / "else", anatomy(2), PatientID="other", PatientName="A")
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    labels = [s.patient for s in store.series]
    assert labels[0] == labels[1] != labels[2]
    assert all(label.startswith("patient-") for label in labels)


@pytest.mark.core
def test_mayo_becomes_pairs(tmp_path):
    write_mayo(tmp_path / "in", low_n=5, low_z0=1.0)
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    pairs = store.pairs()
    assert (len(pairs), len(pairs.patient_names), pairs.dose) == (10, 2, 0.25)
    assert "Mayo 2016" in pairs.source and "quarter dose" in pairs.source
    tissue = np.abs(anatomy(0)[1:] - 50) < 1
    added = (pairs.low_hu[:5].astype(int) - pairs.full_hu[:5])[tissue]
    assert added.std() == pytest.approx(np.hypot(10, 25), rel=0.1)
    assert "1 normal-dose and 0 low-dose slices without partner" in store.series[0].notes[0]
    table = survey_table(survey.rows, store)
    assert table.count("pair") == 2
    assert "quarter dose by folder and PatientName" in table


def test_tcia_becomes_pairs_of_two_doses(tmp_path):
    write_tcia(tmp_path / "in")
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    assert sorted(s.dose for s in store.series) == [0.10, 0.25]
    assert store.pairs().dose is None
    table = survey_table(survey.rows, store)
    assert "skipped: GE: the collection has no low-dose images of it" in table
    assert "10% dose by collection (C###)" in table


@pytest.mark.core
def test_a_foreign_pair_stops_the_preparation(tmp_path):
    write_series(tmp_path / "in" / "full", anatomy(0))
    write_series(tmp_path / "in" / "low", anatomy(1))
    with pytest.raises(DataError, match="doesn't correlate"):
        prepare(tmp_path / "in", tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_selection_by_thickness_and_kernel(tmp_path):
    write_series(tmp_path / "in" / "a", anatomy(0), PatientID="a")
    write_series(tmp_path / "in" / "b", anatomy(1), PatientID="b", SliceThickness="3")
    write_series(tmp_path / "in" / "c", anatomy(2), PatientID="c", ConvolutionKernel="B70f")
    picked = Selection(thickness_mm=1.0, kernel="b30F")
    store, survey = prepare(tmp_path / "in", tmp_path / "store", selection=picked)
    assert len(store.series) == 1
    assert [r.note for r in survey.rows if not r.used] == ["not 1 mm", "not kernel b30F"]
    with pytest.raises(DataError, match="there are 1 mm B30f, 1 mm B70f, 3 mm B30f"):
        prepare(tmp_path / "in", tmp_path / "s2", selection=Selection(thickness_mm=7))


@pytest.mark.core
@pytest.mark.parametrize("wanted", ["Br40f", "br40f", "Br40f\\3", "Br40f 3"])
def test_a_kernel_is_chosen_without_the_strength_of_its_iterations(tmp_path, wanted):
    write_series(tmp_path / "in" / "a", anatomy(0), ConvolutionKernel=["Br40f", "3"])
    write_series(tmp_path / "in" / "b", anatomy(1), ConvolutionKernel=["Br44f", "3"])
    store, _ = prepare(tmp_path / "in", tmp_path / "s", selection=Selection(kernel=wanted))
    assert [s.kernel for s in store.series] == ["Br40f 3"]


@pytest.mark.core
def test_values_that_cannot_be_hu_are_not_stored(tmp_path):
    """Negative numbers wrapped into unsigned ones, network units; a missing intercept is told."""
    good, body = tmp_path / "in" / "good", anatomy(0).astype(int)
    write_series(good, anatomy(1), PatientID="good")
    wrapped = {"bits": 16, "RescaleIntercept": "0", "PatientID": "wrapped"}
    for k, image in enumerate(body):
        pixels = np.where(image < 0, image + 65536, image).astype("<u2")
        write_slice(
            tmp_path / "in" / "w" / f"{k}", image, z=k, PixelData=pixels.tobytes(), **wrapped
        )
    write_series(tmp_path / "in" / "zero", body * 0, PatientID="zero")
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    assert len(store.series) == 1 and store.full(0).max() < 4096
    reasons = {one.path.parent.name: one.reason for one in survey.left_out}
    assert set(reasons) == {"w", "zero"} and all("are these HU?" in r for r in reasons.values())
    assert "beyond any CT scale" in survey_table(survey.rows, store)
    write_series(tmp_path / "offset", body + 1024)
    store, _ = prepare(tmp_path / "offset", tmp_path / "s2")
    assert any("are these HU?" in note for note in store.series[0].notes)


@pytest.mark.core
def test_a_series_that_cannot_be_ordered_is_left_out_whole(tmp_path):
    """Two images at a position that nothing tells apart: neither is chosen by chance."""
    write_series(tmp_path / "in" / "good", anatomy(2), PatientID="good")
    for name, body in (("a", anatomy(0)), ("b", anatomy(1))):
        write_series(tmp_path / "in" / name, body, SeriesInstanceUID=uid("mixed"))
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    np.testing.assert_array_equal(store.full(0), anatomy(2))
    assert len(survey.left_out) == 12
    for one in survey.left_out:
        assert one.kind == "failed" and "12 different images at 6 positions" in one.reason


def test_nothing_that_can_be_stored_is_an_error(tmp_path):
    write_series(tmp_path / "in", anatomy(0) * 0)
    with pytest.raises(DataError, match="nothing can be stored: its values hardly differ"):
        prepare(tmp_path / "in", tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_wrong_calls(tmp_path):
    write_series(tmp_path / "in", anatomy(0))
    with pytest.raises(DataError, match="doesn't exist"):
        prepare(tmp_path / "no", tmp_path / "store")
    with pytest.raises(DataError, match="may not lie in its own source"):
        prepare(tmp_path / "in", tmp_path / "in" / "store")
    with pytest.raises(UsageError, match="either one folder"):
        prepare(None, tmp_path / "store", full=tmp_path / "in")
    with pytest.raises(UsageError, match="use one of auto"):
        prepare(tmp_path / "in", tmp_path / "store", selection=Selection(layout="nifti"))
    with pytest.raises(UsageError, match="between 0 and 1"):
        Selection(dose=25)


def test_unnamed_padding_and_damaged_slices_are_noted(tmp_path):
    body = anatomy(0).astype(int)
    body[:, :4] = -3000
    paths = write_series(tmp_path / "in", body, signed=True, bits=16)
    paths[3].write_bytes(paths[3].read_bytes()[:-10])
    write_slice(tmp_path / "in" / "x", anatomy(1)[0], z=50, SeriesInstanceUID=uid("lone"))
    store, survey = prepare(tmp_path / "in", tmp_path / "store")
    assert store.full(0).min() == -1024
    assert f"{5 * 4 * 64} pixels below -1024 HU set to air" in store.series[0].notes
    assert "skipped: truncated" in survey_table(survey.rows, store)
    assert store.series[0].full.shape[0] == 5
    assert store.series[1].step_mm is None
    json.loads((store.folder / "manifest.json").read_text())


@pytest.mark.core
def test_simulated_low_dose_is_reproducible_and_recorded(tmp_path):
    write_series(tmp_path / "in" / "a", anatomy(0, 10), PatientID="a")
    write_series(tmp_path / "in" / "b", anatomy(1, 3), PatientID="b")
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    spec = LowDose(fraction=0.1, domain="image", added_sd_hu=40.0, seed=3)
    low = add_low_dose(store, tmp_path / "low", spec)
    for i, record in enumerate(low.series):
        np.testing.assert_array_equal(low.full(i), store.full(i))
        tissue = low.full(i) > -500
        added = (low.low(i).astype(int) - low.full(i))[tissue]
        assert added.std() == pytest.approx(40, rel=0.05)
        assert abs(added.mean()) < 2
        assert from_record(record.low_dose["spec"]) == spec
        assert record.low_dose["added_sd_hu"] == 40.0
        assert record.dose == 0.1
    # Names, labels and order don't enter the noise; the seed does.
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "z")
    other, _ = prepare(tmp_path / "in", tmp_path / "store2")
    same = add_low_dose(other, tmp_path / "low2", spec)
    np.testing.assert_array_equal(same.low(1), low.low(0))
    np.testing.assert_array_equal(same.low(0), low.low(1))
    changed, _ = simulate(store.full(0), dataclasses.replace(spec, seed=4), pixel_mm=5.0)
    assert (changed != low.low(0)).mean() > 0.5
    with pytest.raises(DataError, match="already holds low-dose"):
        add_low_dose(low, tmp_path / "low3", spec)


def test_the_real_series_become_a_store(tmp_path, real_ct):
    store, survey = prepare(real_ct, tmp_path / "store")
    assert sum(s.full.shape[0] for s in store.series) == 404
    assert (len(store.series), len(store.patients)) == (7, 6)
    folders = [row.folder for row in survey.rows if row.used]
    noise = dict(zip(folders, [s.noise_hu for s in store.series], strict=True))
    # SD of the noise in flat tissue. (The lowest tenth of window SDs, the rule before, read 10.6,
    # 8.2, 13.7, 10.6, 7.4, 9.7 and 13.7 HU, which was too low.)
    table = {
        "TCGA-LIHC-A10W": 11.8,
        "TCGA-LIHC-A10X": 8.8,
        "ACRIN-FLT-001-abdomen": 14.3,
        "ACRIN-FLT-001-chest": 9.6,
        "LungDx-A0001": 9.3,
        "LungDx-A0002": 10.9,
        "RIDER-0117": 17.1,
    }
    for folder, expected in table.items():
        assert noise[folder] == pytest.approx(expected, rel=0.03), folder
