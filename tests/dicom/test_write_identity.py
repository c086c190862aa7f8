"""The identity model gives every stored value back, and independent tools agree with the result."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import Options, denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored, to_hu
from ldct_jax.errors import DataError
from tests.conftest import require
from tests.derived_fixtures import BIG_ENDIAN, IDENTITY, OUTSIDE, slice_of
from tests.dicom_fixtures import anatomy, noisy, write_series

PYDICOM_CT = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")


def tool(name: str) -> str:
    path = shutil.which(name)
    require(path is not None, f"{name} is missing: apt-get install dicom3tools dcmtk")
    return path


def identity(source: Path, out: Path) -> Path:
    summary = denoise_path(source, out, find("identity"))
    assert not summary.left_out and not summary.failed
    return out / source.name if source.is_file() else out


def assert_same_pixels(source: Path, result: Path) -> None:
    """Stored values by our reader, and by pydicom's decoders alone."""
    import pydicom

    a, b = read_header(source), read_header(result)
    np.testing.assert_array_equal(read_stored(a), read_stored(b))
    np.testing.assert_array_equal(to_hu(read_stored(a), a)[0], to_hu(read_stored(b), b)[0])
    bits = (1 << a.stored) - 1
    theirs = [pydicom.dcmread(p).pixel_array.astype(np.int64) & bits for p in (source, result)]
    np.testing.assert_array_equal(*theirs)
    assert a.instance_uid != b.instance_uid


def new_errors(source: Path, result: Path) -> set[str]:
    """What dciodvfy finds wrong with the result and not with the source."""

    def errors(path):
        done = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True)
        return {x for x in (done.stdout + done.stderr).splitlines() if x.startswith("Error")}

    return errors(result) - errors(source)


def entity_complaints(paths) -> str:
    command = [tool("dcentvfy"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.core
@pytest.mark.parametrize("name", IDENTITY)
def test_the_identity_returns_every_stored_value(name, tmp_path):
    source = IDENTITY[name](tmp_path / "in" / "a.dcm")
    result = identity(source, tmp_path / "out")
    assert_same_pixels(source, result)


@pytest.mark.promise("derived")
@pytest.mark.parametrize("name", ["unsigned 12 bit", "implicit VR", "JPEG-LS", "MONOCHROME1"])
def test_dicom3tools_find_nothing_that_the_source_had_not(name, tmp_path):
    source = IDENTITY[name](tmp_path / "in" / "a.dcm")
    result = identity(source, tmp_path / "out")
    assert not new_errors(source, result)
    assert entity_complaints([source, result]) == ""


def test_the_validators_do_see_errors(tmp_path):
    """dciodvfy and dcentvfy complain of a result whose type 1 value or patient is broken."""
    import pydicom

    source = IDENTITY["unsigned 12 bit"](tmp_path / "in" / "a.dcm")
    result = identity(source, tmp_path / "out")
    image = pydicom.dcmread(result)
    image.ImageType = ["DERIVED"]
    image.PatientSex = "M"
    image.save_as(result)
    assert new_errors(source, result)
    assert "PatientSex" in entity_complaints([source, result])


@pytest.mark.parametrize("name", PYDICOM_CT)
def test_real_images_that_come_with_pydicom(name, tmp_path):
    from pydicom.data import get_testdata_file

    source = Path(get_testdata_file(name, download=False))
    result = identity(source, tmp_path)
    assert_same_pixels(source, result)
    assert not new_errors(source, result)


@pytest.mark.core
def test_big_endian_is_refused(tmp_path):
    import pydicom

    source = slice_of(tmp_path / "in" / "a.dcm")
    image = pydicom.dcmread(source)
    image.file_meta.TransferSyntaxUID = BIG_ENDIAN
    pydicom.dcmwrite(source, image, implicit_vr=False, little_endian=False, force_encoding=True)
    with pytest.raises(DataError, match="big-endian transfer syntax is retired"):
        denoise_path(source, tmp_path / "out", find("identity"))


def every(folder: Path, n: int, links: Path) -> Path:
    """Links to every n-th slice of every series below ``folder``."""
    for series in sorted(p for p in folder.iterdir() if p.is_dir()):
        (links / series.name).mkdir(parents=True)
        for path in sorted(series.glob("*.dcm"))[::n]:
            (links / series.name / path.name).symlink_to(path)
    return links


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
def test_the_seven_real_series(real_ct, tmp_path, step):
    source = every(real_ct, step, tmp_path / "in")
    out = identity(source, tmp_path / "out")
    results = sorted(out.rglob("*.dcm"))
    assert len({p.parent for p in results}) == 7
    assert len(results) == len(list(source.rglob("*.dcm")))
    seen = set()
    for result in results:
        original = source / result.relative_to(out)
        assert_same_pixels(original, result)
        if result.parent not in seen:
            assert not new_errors(original, result)
        seen.add(result.parent)
    for folder in seen:
        pair = [*folder.glob("*.dcm"), *(source / folder.name).glob("*.dcm")]
        assert entity_complaints(pair) == ""


# ---- dcmtk as an independent reader --------------------------------------------------------------


def dcmtk_slice(path: Path, scratch: Path) -> dict:
    """Geometry and HU as dcmtk reads them: header by dcmdump, pixels by dcmdump +W."""
    scratch.mkdir(parents=True, exist_ok=True)
    command = [tool("dcmdump"), "+L", "+W", str(scratch), str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in text.splitlines() if line.startswith("(")]

    def value(tag: str) -> str:
        (line,) = [x for x in lines if x.startswith(f"({tag})")]
        found = re.search(r"\[(.*?)\]", line)
        return found[1] if found else line.split()[2]

    def numbers(tag: str) -> list[float]:
        return [float(v) for v in value(tag).split("\\")]

    (raw,) = scratch.glob("*.raw")
    words = np.frombuffer(raw.read_bytes(), "<u2").astype(np.int64)
    bits, signed = int(value("0028,0101")), value("0028,0103") == "1"
    words &= (1 << bits) - 1
    if signed:
        words = np.where(words >= 1 << (bits - 1), words - (1 << bits), words)
    shape = int(value("0028,0010")), int(value("0028,0011"))
    (slope,), (intercept,) = numbers("0028,1053"), numbers("0028,1052")
    raw.unlink()
    return {
        "hu": words.reshape(shape) * slope + intercept,
        "position": numbers("0020,0032"),
        "orientation": numbers("0020,0037"),
        "spacing": numbers("0028,0030"),
        "frame": value("0020,0052"),
        "padding": next((x for x in lines if x.startswith("(0028,0120)")), None),
    }


def assert_dcmtk_agrees(source: Path, result: Path, scratch: Path, hu=None) -> None:
    a, b = (dcmtk_slice(p, scratch / k) for p, k in ((source, "a"), (result, "b")))
    hu = a["hu"] if hu is None else hu
    np.testing.assert_allclose(b["hu"], hu, atol=1e-9)
    assert {k: v for k, v in a.items() if k != "hu"} == {k: v for k, v in b.items() if k != "hu"}


@pytest.mark.parametrize("name", ["signed, padding -2000", "half a HU", "gantry tilt"])
def test_dcmtk_sees_the_same_geometry_and_hu(name, tmp_path):
    source = IDENTITY[name](tmp_path / "in" / "a.dcm")
    assert_dcmtk_agrees(source, identity(source, tmp_path / "out"), tmp_path)


def test_dcmtk_sees_the_same_geometry_and_hu_in_real_series(real_ct, tmp_path):
    for folder in sorted(p for p in real_ct.iterdir() if p.is_dir()):
        source = sorted(folder.glob("*.dcm"))[5]
        result = identity(source, tmp_path / folder.name)
        assert_dcmtk_agrees(source, result, tmp_path / "scratch" / folder.name)


def test_dcmtk_sees_the_denoised_hu(tmp_path):
    """Not the identity: a Gaussian filter, computed here, half of it."""
    from scipy.ndimage import gaussian_filter

    source = slice_of(
        tmp_path / "in" / "a.dcm",
        signed=True,
        bits=16,
        padding=-2000,
        padded=OUTSIDE,
        RescaleIntercept="0",
    )
    denoise_path(source, tmp_path / "out", find("gaussian"), Options(blend=0.5))
    header = read_header(source)
    hu, padding = to_hu(read_stored(header), header)
    assert padding.any() and not padding.all()
    blurred = gaussian_filter(hu.astype(np.float32), 1.0, mode="reflect")
    expected = np.where(padding, -2000, np.rint(0.5 * hu + 0.5 * blurred))
    found = dcmtk_slice(tmp_path / "out" / "a.dcm", tmp_path / "x")["hu"]
    assert np.abs(found - expected).max() <= 1  # a half may fall to either side in float32
    assert np.count_nonzero(found != expected) < 3
    assert np.count_nonzero(found != hu) > 100


# ---- dcm2niix as another one: a whole series as one volume ---------------------------------------


def dcm2niix_volume(folder: Path, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """HU (X, Y, Z) and affine of the one series in ``folder`` as dcm2niix reads them."""
    there = importlib.util.find_spec("dcm2niix") is not None
    require(there, "dcm2niix is missing: pip install dcm2niix")
    import dcm2niix
    import nibabel

    scratch.mkdir()
    command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "series", "-o", str(scratch), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    image = nibabel.load(scratch / "series.nii")
    return np.asarray(image.dataobj), image.affine


def test_dcm2niix_sees_the_same_volume(tmp_path):
    write_series(tmp_path / "in", noisy(anatomy(0), 20, 0), SeriesNumber=3, PatientSex="M")
    hu, affine = dcm2niix_volume(tmp_path / "in", tmp_path / "a")
    same, same_affine = dcm2niix_volume(identity(tmp_path / "in", tmp_path / "out"), tmp_path / "b")
    np.testing.assert_array_equal(same_affine, affine)
    np.testing.assert_array_equal(same, hu)
    assert hu.shape == (64, 64, 6) and hu.min() == -1024
    denoise_path(tmp_path / "in", tmp_path / "median", find("median"))
    changed, changed_affine = dcm2niix_volume(tmp_path / "median", tmp_path / "c")
    np.testing.assert_array_equal(changed_affine, affine)
    assert (changed != hu).mean() > 0.3


@pytest.mark.long
def test_dcm2niix_sees_the_same_volume_of_real_series(real_ct, tmp_path):
    for name in ("TCGA-LIHC-A10W", "RIDER-0117"):  # one without and one with padding
        result = identity(real_ct / name, tmp_path / name)
        hu, affine = dcm2niix_volume(real_ct / name, tmp_path / f"{name}-a")
        same, same_affine = dcm2niix_volume(result, tmp_path / f"{name}-b")
        np.testing.assert_array_equal(same_affine, affine)
        np.testing.assert_array_equal(same, hu)


def test_a_whole_series_is_clean_for_dcentvfy(tmp_path):
    paths = write_series(
        tmp_path / "in",
        noisy(anatomy(0), 20, 0),
        SeriesNumber=3,
        SeriesDescription="Thorax",
        PatientSex="M",
    )
    denoise_path(tmp_path / "in", tmp_path / "out", find("median"))
    results = [tmp_path / "out" / p.name for p in paths]
    assert entity_complaints([*paths, *results]) == ""
