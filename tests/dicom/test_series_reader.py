"""Series from DICOM files: geometry decides, pixels are exact, nothing odd passes silently."""

from __future__ import annotations

import numpy as np
import pytest

from ldct_jax.dicom.load import read_folder
from ldct_jax.dicom.survey import found_series
from ldct_jax.errors import DataError
from tests.dicom_fixtures import anatomy, read_series, uid, write_series, write_slice

BODY = anatomy(0)


@pytest.mark.core
def test_a_series_is_read_in_hu_and_ordered_by_position(tmp_path):
    # Names, numbers and the direction of writing run against the positions; extensions vary.
    names = ["c", "b.IMA", "a.dcm", "z", "y.ima", "x.DCM"]
    write_series(tmp_path, BODY[::-1], z0=5.0, step=-1.0, name=lambda k: names[k])
    (series,) = read_folder(tmp_path)
    assert series.hu.dtype == np.int16
    np.testing.assert_array_equal(series.hu, BODY)
    np.testing.assert_allclose(series.positions, np.arange(6))
    assert series.padding is None
    assert (series.pixel_mm, series.slice_mm, series.step_mm) == (5.0, 1.0, 1.0)
    assert (series.kernel, series.kvp) == ("B30f", 120.0)
    assert series.tube_current_ma.tolist() == [200.0] * 6
    assert series.skipped == ()


@pytest.mark.core
def test_names_of_patients_are_kept_out_of_the_repr(tmp_path):
    write_series(tmp_path, BODY, PatientName="CANARY^NAME", PatientID="CANARY-ID")
    (series,) = read_folder(tmp_path)
    assert series.patient_key == "CANARY-ID"
    text = repr(series) + repr(series.files) + repr(found_series(tmp_path))
    assert "CANARY" not in text
    assert uid("series", str(tmp_path)) not in text


@pytest.mark.core
@pytest.mark.parametrize("signed", [False, True])
def test_padding_is_masked_on_stored_values(tmp_path, signed):
    padded = np.zeros(BODY[0].shape, bool)
    padded[:8] = True
    stored = -2000 if signed else 4095
    options = {"signed": signed, "bits": 16, "padding": stored, "padded": padded}
    write_series(tmp_path, BODY, **options)
    (series,) = read_folder(tmp_path)
    assert series.padding.shape == BODY.shape
    np.testing.assert_array_equal(series.padding[0], padded)
    assert (series.hu[:, :8] == -1024).all()
    np.testing.assert_array_equal(series.hu[:, 8:], BODY[:, 8:])


@pytest.mark.core
def test_slope_and_intercept_are_those_of_each_file(tmp_path):
    files = [
        write_slice(tmp_path / "a", BODY[0], z=0),
        write_slice(tmp_path / "b", BODY[1], z=1, bits=16, signed=True, RescaleIntercept="-1000"),
        write_slice(tmp_path / "c", BODY[2], z=2, RescaleSlope="2"),
        write_slice(tmp_path / "d", BODY[3], z=3, RescaleSlope="0.5"),
    ]
    hu = read_series(files).hu.astype(int)
    np.testing.assert_array_equal(hu[0], BODY[0])
    np.testing.assert_array_equal(hu[1], BODY[1])
    stored = BODY.astype(int) + 1024
    np.testing.assert_array_equal(hu[2], stored[2] * 2 - 1024)
    np.testing.assert_array_equal(hu[3], np.rint(stored[3] * 0.5) - 1024)


@pytest.mark.core
def test_high_stored_values_do_not_wrap(tmp_path):
    # uint16 minus 1024 would wrap at the low end, int16 at the high one.
    image = np.full((64, 64), -1024, np.int32)
    image[0, 0] = 31000
    write_slice(tmp_path / "a", image, z=0, bits=16)
    (series,) = read_folder(tmp_path)
    assert series.hu[0, 0, 0] == 31000
    assert series.hu[0, 1, 1] == -1024


def test_odd_decimal_strings(tmp_path):
    write_series(
        tmp_path,
        BODY,
        SliceThickness="008.000000E+00",
        RescaleSlope="001.000000E+00",
        RescaleIntercept="-01.024000E+03",
        KVP="000120",
        ConvolutionKernel="59 .10.AB50",
    )
    (series,) = read_folder(tmp_path)
    assert (series.slice_mm, series.kvp, series.kernel) == (8.0, 120.0, "59 .10.AB50")
    np.testing.assert_array_equal(series.hu, BODY)


def test_a_decimal_comma_is_read(tmp_path):
    path = write_slice(tmp_path / "a", BODY[0], z=0, SliceThickness="2.5")
    path.write_bytes(path.read_bytes().replace(b"2.5 ", b"2,5 "))
    assert read_folder(tmp_path)[0].slice_mm == 2.5


def test_overlay_bits_above_the_stored_ones_are_dropped(tmp_path):
    stored = (BODY[0].astype(int) + 1024).astype("<u2")
    stored |= 0xA000
    write_slice(tmp_path / "a", BODY[0], z=0, PixelData=stored.tobytes())
    np.testing.assert_array_equal(read_folder(tmp_path)[0].hu[0], BODY[0])


@pytest.mark.core
def test_gaps_duplicates_localizers_and_other_kernels(tmp_path):
    write_series(tmp_path, BODY, name=lambda k: f"{k}.dcm")
    (tmp_path / "2.dcm").unlink()
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "4.dcm").read_bytes())
    series_uid = uid("series", str(tmp_path))
    write_slice(tmp_path / "again.dcm", BODY[5], z=5.0, number=99, SeriesInstanceUID=series_uid)
    write_slice(tmp_path / "scout", BODY[0], z=0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slice(tmp_path / "mr", BODY[0], z=0, Modality="MR")
    for k in range(3):
        write_slice(
            tmp_path / f"sharp{k}",
            BODY[k],
            z=k,
            ConvolutionKernel="B70f",
            SeriesInstanceUID=series_uid,
        )
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "notes.txt").write_text("not DICOM")
    found = found_series(tmp_path)
    assert {(one.path.name, one.kind, one.reason) for one in found.left_out} == {
        ("scout", "other", "a localizer"),
        ("mr", "other", "modality MR, not CT"),
        ("notes.txt", "other", "a text"),
    }
    series = {s.kernel: s for s in read_folder(tmp_path)}
    assert set(series) == {"B30f", "B70f"}
    assert series["B30f"].skipped == (
        "1 duplicate skipped",
        "1 second image with the same pixels skipped",
        "about 1 slice missing (usual step 1 mm): gap of 2 mm at 1 mm",
    )
    np.testing.assert_array_equal(series["B30f"].hu, BODY[[0, 1, 3, 4, 5]])


@pytest.mark.core
def test_series_are_kept_apart_by_uid_orientation_matrix_and_spacing(tmp_path):
    same = {"SeriesInstanceUID": uid("one")}
    write_series(tmp_path / "a", BODY, **same)
    coronal = {"orientation": (1, 0, 0, 0, 0, -1), **same}
    for k in range(3):
        write_slice(tmp_path / f"b{k}", BODY[k], z=0, origin=(-160.0, float(k)), **coronal)
    write_series(tmp_path / "c", anatomy(1, size=32), **same)
    write_series(tmp_path / "d", BODY, spacing=4.0, **same)
    write_series(tmp_path / "e", BODY, SeriesInstanceUID=uid("two"))
    assert len(found_series(tmp_path).series) == 5
    # … but not by exposure: tube current modulation makes it differ in every slice.
    for k in range(3):
        write_slice(tmp_path / f"f{k}", BODY[k], z=k, Exposure=str(k), **same | {"PatientID": "x"})
    assert len(found_series(tmp_path).series) == 6


def test_a_tilted_gantry_orders_along_the_normal(tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    for k in range(4):
        # The table moves along z; in-plane offsets run the other way and must not matter.
        write_slice(
            tmp_path / f"{9 - k}",
            BODY[k],
            z=10.0 + 2 * k,
            origin=(-100.0 + 7 * k, -160.0),
            orientation=(1, 0, 0, 0, c, s),
            SeriesInstanceUID=uid("tilt"),
        )
    (series,) = read_folder(tmp_path)
    np.testing.assert_array_equal(series.hu, BODY[:4])
    assert series.step_mm == pytest.approx(2 * c)


def test_several_phases_in_one_series_are_refused(tmp_path):
    same = {"SeriesInstanceUID": uid("phases")}
    write_series(tmp_path / "a", BODY, **same)
    write_series(tmp_path / "b", anatomy(1), **same)
    with pytest.raises(DataError, match="12 different images at 6 positions"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "tags, reason",
    [
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"PixelSpacing": [0, 0]}, "a pixel of 0 x 0 mm"),
        ({"RescaleSlope": None}, "no rescale to HU"),
        ({"RescaleSlope": "0"}, "RescaleSlope is 0"),
        ({"RescaleType": "OD"}, "its values are OD, not HU"),
        ({"orientation": (1, 0, 0, 1, 0, 0)}, "orientation is not"),
        ({"Modality": "OT"}, "modality OT"),
        ({"PixelSpacing": [0.7, 0.9]}, "aren't square"),
        ({"HighBit": 15}, "HighBit"),
        ({"NumberOfFrames": "5"}, "multi-frame"),
    ],
)
def test_what_no_ct_slice_is_gets_one_line(tmp_path, tags, reason):
    path = write_slice(tmp_path / "a.dcm", BODY[0], z=0, **tags)
    with pytest.raises(DataError, match=reason) as error:
        read_series([path])
    assert "\n" not in str(error.value)


def test_an_empty_or_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="doesn't exist"):
        read_folder(tmp_path / "no")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"can be used \(1 x a text\)"):
        read_folder(tmp_path)
    write_slice(tmp_path / "b", BODY[0], z=0, Modality="PT")
    with pytest.raises(DataError, match="1 x modality PT, not CT"):
        read_folder(tmp_path)


def test_links_to_folders_are_not_followed(tmp_path):
    write_series(tmp_path / "a", BODY)
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (series,) = read_folder(tmp_path)
    assert len(series) == 6


@pytest.mark.core
@pytest.mark.parametrize("name", ["J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm", "CT_small.dcm"])
def test_compressed_files_of_pydicom(name):
    from pydicom.data import get_testdata_file

    (series,) = read_folder(get_testdata_file(name))
    assert series.hu.shape[0] == 1
    assert series.hu.min() < -500 and series.hu.max() > 500


def test_the_real_series_are_read(real_ct):
    found = {s.files[0].path.parent.name: s for s in read_folder(real_ct)}
    assert sum(len(s) for s in found.values()) == 404
    a10w, rider = found["TCGA-LIHC-A10W"], found["RIDER-0117"]
    assert (a10w.slice_mm, a10w.kvp, round(a10w.step_mm, 3)) == (8.0, 120.0, 8.0)
    assert "missing" in " ".join(found["TCGA-LIHC-A10X"].skipped)
    assert rider.padding is not None and rider.padding[:, 0, 0].all()
    for series in found.values():
        assert series.hu.min() == -1024  # padding of -2000 would show as -3024
        assert (np.diff(series.positions) > 0).all()
    current = found["LungDx-A0002"].tube_current_ma
    assert len(np.unique(current)) > 1
