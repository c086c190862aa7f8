"""The store: prepared int16 HU in a folder, so that training never touches DICOM.

``manifest.json`` and one plain ``.npy`` a series and dose. It holds geometry, acquisition figures
and patient labels; no name, ID, UID, date or path of the source. A label is a keyed hash of the
patient whose random key is deleted when the store is finished, so that it can't be looked up; all
series of a patient share it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ldct_jax.data.acquisition import Acquisition, joined
from ldct_jax.data.feed.mapped import MappedStack
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.errors import DataError
from ldct_jax.system.files import DAMAGED_ARRAY, json_sha256, sha256
from ldct_jax.system.progress import track

FORMAT, VERSION = "ldct-store", 1
MANIFEST = "manifest.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.npy")
_LONG_VERIFY_BYTES = 4 << 30
_KEYS_WITHOUT_DIGEST = {"format", "version", "source", "attribution", "digest", "series"}


@dataclasses.dataclass(frozen=True)
class ArrayRecord:
    """One array file: its name in the store, SHA-256 and shape (N, H, W); int16 HU."""

    file: str
    sha256: str
    shape: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class SeriesRecord:
    """What the manifest says of one series. Lengths in mm; None where the source didn't say.

    Args:
      patient: label; the same for all series of one patient.
      full, low: the arrays; ``low`` is None for normal dose only.
      offsets_mm: slice positions from the first slice.
      noise_hu: own noise of the normal dose in flat tissue (data/noise_estimate.py).
      low_dose_noise_hu: the same of the low dose; shown beside it, and as a measured dose.
      dose: low dose as a fraction; dose_source: how it is known, or how it was made, in words.
      low_dose: record of the simulation (ldct_jax.record), or None for a scanned low dose.
      notes: gaps, duplicates and what else was left out.
    """

    patient: str
    full: ArrayRecord
    low: ArrayRecord | None
    pixel_mm: float
    slice_mm: float | None
    step_mm: float | None
    offsets_mm: tuple[float, ...]
    kernel: str = ""
    manufacturer: str = ""
    kvp: float | None = None
    tube_current_ma: tuple[float | None, ...] = ()
    exposure_mas: tuple[float | None, ...] = ()
    noise_hu: float | None = None
    low_dose_noise_hu: float | None = None
    dose: float | None = None
    dose_source: str = ""
    low_dose: dict | None = None
    notes: tuple[str, ...] = ()

    @property
    def acquisition(self) -> Acquisition:
        """How the slices were scanned, and their doses; NaN where it isn't known."""
        n, *matrix = self.full.shape
        alike = Acquisition.uniform(
            n,
            kernel=self.kernel,
            field_of_view_mm=self.pixel_mm * max(matrix),
            kvp=_or_nan(self.kvp),
            dose=_or_nan(self.dose),
        )
        drawn = (self.low_dose or {}).get("slices")  # each at a dose of its own: mixed_dose.py
        if drawn is None:
            return alike
        return dataclasses.replace(alike, dose=np.array([one["fraction"] for one in drawn], float))


@dataclasses.dataclass(frozen=True)
class Store:
    """An opened store. ``attribution``: whom to cite with figures; may be empty.

    ``digest`` stands for the files and options it was made from: equal digests, equal stores.
    """

    folder: Path
    source: str
    attribution: str
    series: tuple[SeriesRecord, ...]
    digest: str

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> Store:
        """Open a finished store.

        Args:
          verify: compare every array with its SHA-256; shapes and types are always compared.

        Raises:
          DataError: no store, an unfinished or foreign one, or arrays that were changed.
        """
        folder = Path(folder)
        if not is_store(folder):
            if (folder / STATE).is_dir():
                raise DataError(f"{folder} is unfinished; run the same prepare command again")
            raise DataError(
                f"{folder} is not a store (it has no {MANIFEST}); see `ldct data prepare`"
            )
        store = cls._read(folder)
        arrays = store.array_records()
        if verify and sum(2 * math.prod(a.shape) for a in arrays) > _LONG_VERIFY_BYTES:
            arrays = track(arrays, "checking the store", "arrays")
        for record in arrays:
            check_array(folder, record, verify=verify)
        return store

    @classmethod
    def _read(cls, folder: Path) -> Store:
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            if manifest["format"] != FORMAT:
                raise KeyError("format")
            if manifest["version"] != VERSION:
                raise DataError(
                    f"{folder} is a store of version {manifest['version']}, this program reads "
                    f"version {VERSION}; prepare it again"
                )
            series = tuple(series_from_json(s) for s in manifest["series"])
            source, attribution, digest = (manifest[k] for k in ("source", "attribution", "digest"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / MANIFEST} is damaged or not a store's ({type(error).__name__}: "
                f"{error}); prepare it again"
            ) from None
        if not series:
            raise DataError(f"{folder} holds no series; prepare it again")
        # Manifests had no digest at first.
        sealed = manifest.keys() != _KEYS_WITHOUT_DIGEST
        if sealed and manifest.get("sha256") != manifest_sha256(manifest):
            raise DataError(f"{folder / MANIFEST} was changed (SHA-256 differs); prepare it again")
        return cls(folder, source, attribution, series, digest)

    def array_records(self) -> list[ArrayRecord]:
        """All arrays, series by series, normal dose first."""
        return [a for s in self.series for a in (s.full, s.low) if a is not None]

    @property
    def patients(self) -> tuple[str, ...]:
        """Labels in order of first appearance."""
        return tuple(dict.fromkeys(s.patient for s in self.series))

    @property
    def is_paired(self) -> bool:
        """Whether every series has a low dose."""
        return all(s.low is not None for s in self.series)

    @property
    def matrix(self) -> tuple[int, int]:
        """(height, width) of all slices, pixels.

        DataError where there are several: cropping or padding would change what a network sees at
        the border.
        """
        if len(sizes := {s.full.shape[1:] for s in self.series}) > 1:
            named = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
            raise DataError(
                f"{self.folder}: series of several matrix sizes ({named}); prepare those of one "
                "size as a store of their own"
            )
        return sizes.pop()

    def full(self, series: int) -> np.ndarray:
        """The normal dose of one series, (N, H, W) int16 HU, mapped from the file, read-only."""
        return self._map(self.series[series].full)

    def low(self, series: int) -> np.ndarray:
        """The low dose of one series; DataError where it has none."""
        record = self.series[series].low
        if record is None:
            raise DataError(
                f"{self.folder}: series {series} has no low dose; see `ldct data simulate`"
            )
        return self._map(record)

    def _map(self, record: ArrayRecord) -> np.ndarray:
        return np.load(self.folder / record.file, mmap_mode="r", allow_pickle=False)

    def pairs(self, *, mapped: bool = False) -> PairedSlices:
        """All pairs, series by series, in memory or (``mapped``) left on the disk.

        Args:
          mapped: stacks read slice by slice from the files, for stores larger than memory.

        Raises:
          DataError: series without low dose, or of several matrix sizes.
        """
        records = self.series
        _ = self.matrix  # there has to be one
        if lacking := sum(r.low is None for r in records):
            raise DataError(
                f"{self.folder}: {lacking} of {len(records)} series have normal dose only; "
                "simulate their low dose first (`ldct data simulate`)"
            )
        stack = MappedStack if mapped else np.concatenate
        counts = [r.full.shape[0] for r in records]
        doses = {r.dose for r in records}
        how = "; ".join(dict.fromkeys(r.dose_source for r in records if r.dose_source))
        return PairedSlices(
            low_hu=stack([self.low(i) for i in range(len(records))]),
            full_hu=stack([self.full(i) for i in range(len(records))]),
            patients=tuple(
                r.patient for r, n in zip(records, counts, strict=True) for _ in range(n)
            ),
            pixel_mm=np.repeat([r.pixel_mm for r in records], counts),
            slice_mm=np.repeat([_or_nan(r.slice_mm) for r in records], counts),
            source=f"{self.source}; {how}" if how else self.source,
            attribution=self.attribution,
            dose=doses.pop() if len(doses) == 1 else None,
            acquisition=joined([r.acquisition for r in records]),
        )


STATE = ".unfinished"
"""Subfolder of a store that is being made: the labels' key and the records done so far."""


def is_store(folder: Path) -> bool:
    """Whether ``folder`` holds a finished store."""
    return (Path(folder) / MANIFEST).is_file()


def manifest_sha256(manifest: dict) -> str:
    """Of everything else in the manifest."""
    return json_sha256({k: v for k, v in manifest.items() if k != "sha256"})


def series_from_json(values: dict) -> SeriesRecord:
    """One series of a manifest; TypeError, KeyError or ValueError where it is malformed."""
    values = dict(values)
    for key in ("full", "low"):
        if values.get(key) is not None:
            array = values[key]
            if not _FILE_NAME.fullmatch(array["file"]):
                raise ValueError(f"file name {array['file']!r}")
            shape = tuple(int(n) for n in array["shape"])
            if len(shape) != 3 or min(shape) < 1:
                raise ValueError(f"shape {shape}")
            values[key] = ArrayRecord(array["file"], str(array["sha256"]), shape)
    for key in ("offsets_mm", "tube_current_ma", "exposure_mas", "notes"):
        values[key] = tuple(values[key])
    if values["low"] is not None and values["low"].shape != values["full"].shape:
        raise ValueError("low and normal dose of different shapes")
    return SeriesRecord(**values)


def check_array(folder: Path, record: ArrayRecord, *, verify: bool) -> None:
    """DataError unless the file is there, has its shape and type and, to verify, its SHA-256."""
    path = folder / record.file
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED_ARRAY:
        raise DataError(f"{path} is missing or damaged; prepare the store again") from None
    if array.dtype != np.int16 or array.shape != record.shape:
        raise DataError(f"{path} is {array.shape} {array.dtype}, its manifest says {record.shape}")
    if verify and sha256(path) != record.sha256:
        raise DataError(f"{path} was changed (SHA-256 differs); prepare the store again")


def none_if_nan(values: Iterable[float]) -> tuple[float | None, ...]:
    """JSON has no NaN: unknown is None."""
    return tuple(float(v) if np.isfinite(v) else None for v in values)


def rounded(value: float | None) -> float | None:
    """A measured figure to three digits, as manifests hold it."""
    return None if value is None else round(value, 3)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
