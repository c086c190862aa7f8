"""Score a denoiser on files: low dose in, compared with normal dose, under named protocols."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.denoise.filters import Gaussian
from ldct_jax.denoise.filters import run as run_filter
from ldct_jax.denoise.models import for_series
from ldct_jax.errors import DataError
from ldct_jax.metrics.protocols import Protocol, Summary, concatenate, table
from ldct_jax.system.files import DAMAGED_ARRAY
from ldct_jax.system.progress import Progress


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One method under one protocol: a row a slice, and mean ± SD over patients."""

    method: str
    rows: list[dict]
    summary: Summary


def read_pairs(low: Path, full: Path) -> PairedSlices:
    """Slices of both doses, pair by pair.

    LOW and FULL are two folders of DICOM series or two DICOM files (paired by slice position),
    two NIfTI or ``.npy`` files in HU of one shape, or one store named twice. Raises DataError for
    files that are missing, damaged, of different kinds, or don't belong together.
    """
    for path in (low, full):
        if not path.exists():
            raise DataError(f"{path} doesn't exist; give DICOM, NIfTI, .npy in HU, or a store")
    kinds = _kind(low), _kind(full)
    if kinds[0] != kinds[1]:
        raise DataError(f"{low} is {kinds[0]} and {full} is {kinds[1]}: give two of one kind")
    if kinds[0] == "a store":
        return _store(low, full)
    if kinds[0] == "a folder":
        return _dicom(low, full)
    read = _npy if low.suffix == ".npy" else _nifti if _is_nifti(low) else _dicom_file
    stacks = [_int16(read(path), path) for path in (low, full)]
    if stacks[0].shape != stacks[1].shape:
        raise DataError(
            f"{low} has {stacks[0].shape} pixels and {full} {stacks[1].shape}: they are no pair"
        )
    n = len(stacks[0])
    return PairedSlices(
        low_hu=stacks[0],
        full_hu=stacks[1],
        patients=("files",) * n,
        pixel_mm=np.full(n, np.nan),
        slice_mm=np.full(n, np.nan),
        source="two files",
    )


def compare(
    pairs: PairedSlices,
    model: Callable[[np.ndarray], np.ndarray],
    name: str,
    protocols: Sequence[Protocol],
) -> list[Comparison]:
    """Scores of the low dose as it is, of a Gaussian blur, and of ``model`` (HU → HU).

    A model that treats the slices of a series alike takes those of one patient for a series that
    have one dose, pixel size, thickness and kernel.
    """
    found = []
    series = _series(pairs)
    of_series = {key: _of_series(model, pairs, key, series) for key in dict.fromkeys(series)}
    methods = {
        "undenoised": lambda hu: hu,
        # Stands in every table: PSNR alone can be won by blurring.
        "gaussian blur": lambda hu: run_filter(Gaussian(), hu),
        name: model,
    }
    with Progress("evaluating", len(pairs), "slices") as progress:
        scores: dict[tuple[str, str], list] = {}
        for i in range(len(pairs)):
            low, full = pairs.low_hu[i][None], pairs.full_hu[i][None]
            methods[name] = of_series[series[i]]
            for method, run in methods.items():
                image = run(np.asarray(low, np.float32))
                for protocol in protocols:
                    key = (method, protocol.name)
                    scores.setdefault(key, []).append(protocol.score(image, full))
            progress.advance()
    for protocol in protocols:
        for method in methods:
            whole = concatenate(scores[method, protocol.name])
            rows = [
                {"method": method, "patient": patient, "slice": i, **row}
                for i, (patient, row) in enumerate(zip(pairs.patients, whole, strict=True))
            ]
            found.append(Comparison(method, rows, table(whole, pairs.patients)))
    return found


def _series(pairs: PairedSlices) -> list[tuple]:
    """What tells each slice's series from the others."""
    told = [pairs.patients, pairs.pixel_mm, pairs.slice_mm]
    if pairs.doses is not None:
        told.append(pairs.doses)
    if pairs.acquisition is not None:
        told += [pairs.acquisition.kernels, pairs.acquisition.dose]
    # As words: two unknown doses (NaN) are no two doses.
    return [tuple(map(str, values)) for values in zip(*told, strict=True)]


def _of_series(model: Callable, pairs: PairedSlices, key: tuple, series: list[tuple]) -> Callable:
    at = [i for i, other in enumerate(series) if other == key]
    return for_series(model, lambda k: pairs.low_hu[at[k]], len(at))


def _kind(path: Path) -> str:
    from ldct_jax.data.store import is_store

    if path.is_dir():
        return "a store" if is_store(path) else "a folder"
    return f"a {path.suffix or 'DICOM'} file"


def _store(low: Path, full: Path) -> PairedSlices:
    from ldct_jax.data.store import Store

    if low.resolve() != full.resolve():
        raise DataError("two different stores can't be paired: name one paired store twice")
    return Store.open(low).pairs()


def _dicom(low: Path, full: Path) -> PairedSlices:
    from ldct_jax.data.prepare import prepare

    with tempfile.TemporaryDirectory() as folder:
        store, _ = prepare(None, Path(folder) / "store", full=full, low=low)
        return store.pairs()


def _dicom_file(path: Path) -> np.ndarray:
    from ldct_jax.dicom.series import read_series

    series = read_series([path])
    if len(series) != 1:
        raise DataError(f"{path} is no CT slice")
    return series[0].hu


def _npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except DAMAGED_ARRAY as error:
        raise DataError(f"{path} can't be read as .npy ({error})") from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "iuf" or array.size == 0:
        raise DataError(
            f"{path}: HU as (H, W) or (N, H, W) numbers, not {array.dtype}{array.shape}"
        )
    return array


def _is_nifti(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz"))


def _nifti(path: Path) -> np.ndarray:
    from ldct_jax.data.volumes import read_nifti

    return read_nifti(path.read_bytes()).hu


def _int16(hu: np.ndarray, path: Path) -> np.ndarray:
    if not np.isfinite(hu).all():
        raise DataError(f"{path} holds NaN or infinite values")
    if hu.min() < -32768 or hu.max() > 32767:
        raise DataError(f"{path}: values from {hu.min():g} to {hu.max():g} are no HU")
    return np.rint(hu if hu.ndim == 3 else hu[None]).astype(np.int16)
