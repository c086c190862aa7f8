"""Every file below a folder is done, or told by name and reason; nothing is done twice."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.left_out import incomplete, lines
from ldct_jax.dicom.survey import survey
from ldct_jax.system.names import printable
from tests.dicom_fixtures import anatomy, uid, write_series, write_slice

BODY = anatomy(0)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def left_out(folder: Path) -> dict[str, tuple[str, str]]:
    """File name → (kind, reason)."""
    return {one.path.name: (one.kind, one.reason) for one in survey(folder).left_out}


def slices(folder: Path) -> list[int]:
    return [len(s.headers) for s in survey(folder).series]


def bare(path: Path, *, implicit: bool | None = None) -> None:
    """Take preamble and mark off a file; with ``implicit`` its meta group, too."""
    if implicit is None:
        path.write_bytes(path.read_bytes()[132:])
        return
    data_set = pydicom.Dataset(pydicom.dcmread(path))
    data_set.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)


@pytest.mark.core
@pytest.mark.parametrize("implicit", [None, False, True])
def test_files_without_preamble_are_read_and_denoised(tmp_path, implicit):
    """Planning systems write bare data sets, among others or alone."""
    paths = write_series(tmp_path / "in", BODY)
    for path in paths[1::3]:
        bare(path, implicit=implicit)
    assert slices(tmp_path / "in") == [6] and not left_out(tmp_path / "in")
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    for path in paths:
        result = tmp_path / "out" / path.name
        np.testing.assert_array_equal(
            pydicom.dcmread(result).pixel_array, BODY[int(path.stem)].astype(int) + 1024
        )


@pytest.mark.promise("accounted-for")
@pytest.mark.core
def test_what_was_not_read_is_named(tmp_path):
    write_series(tmp_path, BODY)
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "more.zip").write_bytes(b"PK\3\4" + bytes(50))
    (tmp_path / "v.nrrd").write_bytes(b"NRRD0004\n")
    (tmp_path / "v.mha").write_bytes(b"ObjectType = Image\n")
    (tmp_path / "lfs").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "text.dcm").write_text("hello")
    (tmp_path / "odd").write_bytes(bytes(range(200)))
    (tmp_path / "README.txt").write_text("harmless")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    found = left_out(tmp_path)
    harmless = {"README.txt", "photo.png"}
    assert {name for name, (kind, _) in found.items() if kind == "other"} == harmless
    unread = {name: reason for name, (kind, reason) in found.items() if kind == "unread"}
    assert set(unread) == set(found) - harmless and len(unread) == 9
    assert "zip archive" in unread["more.zip"] and "NRRD" in unread["v.nrrd"]
    assert "MetaImage" in unread["v.mha"] and "git-lfs" in unread["lfs"]
    assert "link to nothing" in unread["gone.dcm"]
    assert incomplete(survey(tmp_path).left_out).startswith("9 files that were not read left out")
    assert slices(tmp_path) == [6]


@pytest.mark.core
def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    write_series(tmp_path / "open", BODY)
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert left_out(tmp_path)["shut"][0] == "unread"
    assert slices(tmp_path) == [6]


@pytest.mark.core
def test_linked_folders_are_followed_once(tmp_path):
    write_series(tmp_path / "real", BODY)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "deep" / "b").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert slices(tmp_path / "in") == [6]


@pytest.mark.core
def test_damaged_images_come_first_in_the_report(tmp_path):
    write_series(tmp_path / "z", BODY, name=lambda k: f"{k}.dcm")
    for k in range(30):
        write_slice(tmp_path / "a" / f"{k:02d}", BODY[0], z=k, Modality="MR")
    path = tmp_path / "z" / "2.dcm"
    path.write_bytes(path.read_bytes()[:3000])
    told = lines(survey(tmp_path).left_out, tmp_path)
    assert len(told) == 2
    assert told[0].startswith("left out: 1 CT image: truncated") and "(z/2.dcm)" in told[0]
    assert told[1] == (
        "left out: 30 other files: modality MR, not CT (a/00, a/01, a/02 and 27 more)"
    )


@pytest.mark.core
@pytest.mark.parametrize(
    "tags",
    [
        {"ImageType": ["DERIVED", "SECONDARY", "REF_SURVIEW"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"]},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "DOSE_INFO"]},
        {"SOPClassUID": SECONDARY_CAPTURE, "ImageType": ["DERIVED", "SECONDARY"]},
        {"Modality": "PT"},
    ],
)
def test_what_is_not_a_ct_slice_is_left_out_without_an_error(tmp_path, tags):
    write_series(tmp_path / "body", BODY)
    write_slice(tmp_path / "x", BODY[0], z=0, **tags)
    assert left_out(tmp_path)["x"][0] == "other"
    assert slices(tmp_path) == [6] and not incomplete(survey(tmp_path).left_out)


@pytest.mark.core
def test_image_types_of_real_slices_are_no_scouts(tmp_path):
    for k, last in enumerate(("CT_SOM5 SPI", "HELIX", "STD", "TOPOLOGY", "LOW DOSE")):
        write_slice(
            tmp_path / f"{k}", BODY[0], z=k, ImageType=["ORIGINAL", "PRIMARY", "AXIAL", last]
        )
    assert not left_out(tmp_path)


@pytest.mark.core
def test_sop_class_and_sign_that_are_missing_are_filled_in(tmp_path):
    """The class stands in the meta group; without PixelRepresentation values are unsigned."""
    paths = write_series(
        tmp_path / "in", BODY, syntax="1.2.840.10008.1.2", PixelPaddingValue=0, SOPClassUID=None
    )
    for path in paths:
        image = pydicom.dcmread(path)
        del image.PixelRepresentation
        image.save_as(path)
    summary = denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    assert not summary.failed and not summary.left_out
    result = pydicom.dcmread(tmp_path / "out" / paths[0].name)
    assert result.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2" and result.PixelRepresentation == 0


@pytest.mark.core
def test_a_header_that_cannot_be_written_costs_one_slice(tmp_path):
    """It is found before anything is computed."""
    paths = write_series(tmp_path, BODY)
    data = paths[2].read_bytes()
    broken = b"\x08\0\x15\x92LO\x04\0text"  # DerivationCodeSequence is a sequence
    at = data.index(b"\x10\0\x10\0PN")
    paths[2].write_bytes(data[:at] + broken + data[at:])
    found = survey(tmp_path, derivable=True)
    assert [one.path.name for one in found.left_out] == [paths[2].name]
    assert [len(s.headers) for s in found.series] == [5]
    assert slices(tmp_path) == [6]  # it can be read, and so be trained on


@pytest.mark.core
def test_a_file_is_opened_once_for_its_header_and_once_for_its_pixels(tmp_path, monkeypatch):
    paths = write_series(tmp_path / "in", BODY)
    counts = dict.fromkeys(paths, 0)
    opening = io.open
    real = Path.open

    def counted(path, *args, **options):
        if path in counts:
            counts[path] += 1
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    monkeypatch.setattr(
        "builtins.open",
        lambda file, *a, **k: (
            counts.update({Path(file): counts[Path(file)] + 1})
            if isinstance(file, str | os.PathLike) and Path(file) in counts
            else None,
            opening(file, *a, **k),
        )[1],
    )
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    assert set(counts.values()) == {2}


@pytest.mark.core
def test_names_of_any_bytes_under_any_locale(tmp_path):
    write_series(tmp_path / "x", BODY)
    odd = tmp_path / os.fsdecode(b"M\xfcller\x1b[31m\n")
    (tmp_path / "x").rename(odd)
    for locale in ("C", "C.UTF-8"):
        out = tmp_path / f"store-{locale}"
        command = [sys.executable, "-m", "ldct_jax", "data", "prepare", str(odd), str(out)]
        done = subprocess.run(command, capture_output=True, env=os.environ | {"LC_ALL": locale})
        assert done.returncode == 0, done.stderr
        assert b"\x1b" not in done.stdout + done.stderr
    assert printable(os.fsdecode(b"M\xfcller\n")) == "M\\xfcller\\n"


@pytest.mark.core
def test_blank_uids_are_filled_in(tmp_path):
    """An anonymiser blanked them: the meta group's, else made ones; one folder is one series."""
    paths = write_series(tmp_path / "in", BODY)
    for k, path in enumerate(paths):
        image = pydicom.dcmread(path)
        for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(image, keyword, "")
        if k % 2:
            del image.file_meta.MediaStorageSOPInstanceUID
        image.save_as(path, enforce_file_format=False)
    (series,) = survey(tmp_path / "in").series
    assert len({h.instance_uid for h in series.headers}) == 6
    assert series.headers[0].instance_uid == uid(str(paths[0]))
    assert "blank UIDs" in series.warnings[0]
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    images = [pydicom.dcmread(p) for p in (tmp_path / "out").glob("*.dcm")]
    assert len({i.SOPInstanceUID for i in images}) == 6
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        (value,) = {i[keyword].value for i in images}
        assert value.startswith("2.25.")


@pytest.mark.core
def test_a_missing_modality_is_that_of_the_sop_class(tmp_path):
    path = write_slice(tmp_path / "a", BODY[0], z=0, Modality=None)
    assert read_header(path).path == path
