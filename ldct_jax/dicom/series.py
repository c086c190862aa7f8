"""DICOM folders → CT series in HU, ordered by geometry.

Two steps, so that large collections can be surveyed without touching pixels: :func:`scan` reads
headers and groups them into :class:`SliceFiles`; :func:`load` turns one group into a
:class:`Series`. File names and InstanceNumber never decide an order: the projection of
ImagePositionPatient on the slice normal does.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ldct_jax.dicom.header import NATIVE, Header, Unusable, looks_like_dicom, read_header
from ldct_jax.dicom.pixels import AIR_HU, read_stored, to_hu, to_int16
from ldct_jax.dicom.trial import Trials
from ldct_jax.errors import DataError

SAME_PLACE_MM = 0.01
"""Slices closer than this lie at one position: one of them is a duplicate."""


@dataclasses.dataclass(frozen=True)
class SliceFiles:
    """The headers of one series, ordered along the normal, duplicates already out.

    A series is one SeriesInstanceUID, orientation, matrix, pixel size and kernel. ``skipped``
    holds notes on what was left out of it.
    """

    headers: tuple[Header, ...] = dataclasses.field(repr=False)
    skipped: tuple[str, ...] = ()

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def folder(self) -> Path:
        return self.first.path.parent

    @property
    def patient_key(self) -> str:
        """The PatientID; where it is empty, the name, then the series itself."""
        first = self.first
        return first.patient_id or first.patient_name or first.series_uid

    @property
    def positions_mm(self) -> np.ndarray:
        return np.array([h.along_mm for h in self.headers])

    @property
    def thickness_mm(self) -> float:
        """SliceThickness; the step where the file doesn't say; NaN for a lone slice without."""
        thickness = self.first.thickness_mm
        return thickness if thickness > 0 else self.step_mm

    @property
    def step_mm(self) -> float:
        """The usual distance of neighbours (median), NaN for a single slice."""
        return step_of(self.positions_mm)

    @property
    def is_axial(self) -> bool:
        """Whether the slices lie across the body; a gantry tilt of up to 30° is allowed."""
        return abs(self.first.normal[2]) > math.cos(math.radians(30.5))


@dataclasses.dataclass(frozen=True)
class Series:
    """One CT series in HU.

    Args:
      hu: (N, H, W) int16, ascending along the normal; padding is AIR_HU.
      padding: (N, H, W) bool, True where the scanner stored "no data"; None where it names no
        padding value.
      pixel_mm: side of a pixel. slice_mm: slice thickness. step_mm: usual distance of slices.
      positions: (N,) mm along the normal. origins: (N, 3) mm, ImagePositionPatient.
      kernel, kvp, manufacturer, modality: as the file says.
      tube_current_ma, exposure: (N,), NaN where unknown; exposure in mAs.
      skipped: notes on left-out files, duplicates and gaps; free of names, UIDs and paths.
      key, patient_key: identify the series and the patient in memory; never write them anywhere.
      files: the slices' headers, for writing derived objects and for pairing.
    """

    hu: np.ndarray = dataclasses.field(repr=False)
    padding: np.ndarray | None = dataclasses.field(repr=False)
    pixel_mm: float
    slice_mm: float
    step_mm: float
    positions: np.ndarray = dataclasses.field(repr=False)
    origins: np.ndarray = dataclasses.field(repr=False)
    kernel: str
    kvp: float
    tube_current_ma: np.ndarray = dataclasses.field(repr=False)
    exposure: np.ndarray = dataclasses.field(repr=False)
    manufacturer: str
    modality: str
    skipped: tuple[str, ...]
    key: str = dataclasses.field(repr=False)
    patient_key: str = dataclasses.field(repr=False)
    files: tuple[Header, ...] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.hu)


@dataclasses.dataclass(frozen=True)
class Scan:
    """Series found, and how many files of which folder were left out for which reason."""

    series: tuple[SliceFiles, ...]
    skipped: dict[tuple[Path, str], int]


def walk(path: Path) -> Iterator[Path]:
    """Regular files below ``path`` in a fixed order; links to folders are not followed."""
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            if not name.startswith(".") and name.upper() != "DICOMDIR" and file.is_file():
                yield file


def scan(path: Path, *, damaged: str = "error") -> Scan:
    """Read the headers of every DICOM file at or below ``path`` and group them.

    Args:
      damaged: what a broken CT file does: ``error`` raises its one line, ``skip`` counts it.

    Raises:
      DataError: no such path, or nothing in it is a CT slice.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} doesn't exist; give a folder of DICOM files")
    if path.is_file():
        return Scan(group([read_header(path)]), {})
    headers, skipped = read_headers(walk(path), damaged=damaged)
    if not headers:
        raise DataError(nothing_found(path, skipped))
    return Scan(group(headers), skipped)


def read_headers(
    files: Iterable[Path], *, damaged: str = "error"
) -> tuple[list[Header], dict[tuple[Path, str], int]]:
    """The headers of the CT slices among ``files``, and the reasons against the other DICOM files.

    Files without the DICM mark are no DICOM files and not worth a word.
    """
    headers, skipped = [], collections.Counter()
    for file in files:
        try:
            if looks_like_dicom(file):
                headers.append(read_header(file))
        except Unusable as error:
            if error.damaged and damaged == "error":
                raise
            skipped[file.parent, error.reason] += 1
    return headers, dict(skipped)


def nothing_found(path: Path, skipped: dict[tuple[Path, str], int]) -> str:
    """The error line for a folder without a usable slice, with the reasons."""
    reasons = collections.Counter()
    for (_, reason), n in skipped.items():
        reasons[reason] += n
    why = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(4))
    found = f"{sum(reasons.values())} DICOM files skipped: {why}" if why else "no DICOM file"
    return f"{path} holds no CT slice ({found}); give a folder with CT images"


def group(headers: Iterable[Header]) -> tuple[SliceFiles, ...]:
    """Headers → series, in order of first appearance; see :class:`SliceFiles`."""
    return tuple(ordered(g) for g in split(headers))


def split(headers: Iterable[Header]) -> list[list[Header]]:
    """The headers of each series, unordered."""
    groups: dict[tuple, list[Header]] = {}
    for header in headers:
        key = (
            header.series_uid,
            header.patient_id,
            tuple(round(v, 3) for v in header.orientation),
            (header.rows, header.columns),
            tuple(round(v, 5) for v in header.pixel_mm),
            header.kernel,
        )
        groups.setdefault(key, []).append(header)
    return list(groups.values())


def ordered(headers: list[Header]) -> SliceFiles:
    """One series' headers sorted along the normal, one a position; Unusable for several phases."""
    headers = sorted(
        headers, key=lambda h: (h.along_mm, h.instance_number, h.instance_uid, str(h.path))
    )
    kept, same, other = [headers[0]], 0, 0
    for header in headers[1:]:
        if header.along_mm - kept[-1].along_mm > SAME_PLACE_MM:
            kept.append(header)
        elif header.instance_uid == kept[-1].instance_uid:
            same += 1
        else:
            other += 1
    if other > len(kept) / 2:
        raise Unusable(
            kept[0].path.parent,
            f"a series with {other + len(kept)} images at {len(kept)} positions (several phases?); "
            "separate them first",
            damaged=True,
        )
    notes = []
    if same:
        notes.append(f"{same} duplicate{'s' * (same > 1)} skipped")
    if other:
        notes.append(f"{other} second image{'s' * (other > 1)} at a taken position skipped")
    return SliceFiles(tuple(kept), tuple(notes) + gaps_of([h.along_mm for h in kept]))


def step_of(positions_mm) -> float:
    """The median distance of neighbours, mm; NaN for fewer than two."""
    return float(np.median(np.diff(positions_mm))) if len(positions_mm) > 1 else math.nan


def gaps_of(positions_mm) -> tuple[str, ...]:
    """Notes on missing slices: distances of 1.5 steps and more, as offsets from the first slice."""
    step = step_of(positions_mm)
    gaps = [
        (a - positions_mm[0], b - a)
        for a, b in itertools.pairwise(positions_mm)
        if b - a > 1.5 * step
    ]
    if not gaps:
        return ()
    missing = sum(round(width / step) - 1 for _, width in gaps)
    where = ", ".join(f"{width:.4g} mm at {at:.4g} mm" for at, width in gaps[:3])
    slices, are = ("slice", "gap") if missing == 1 else ("slices", "gaps")
    more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return (f"about {missing} {slices} missing (usual step {step:.4g} mm): {are} of {where}{more}",)


def load(files: SliceFiles, *, damaged: str = "error") -> Series:
    """Decode one series. Compressed pixels are decoded on trial first, in a process of their own.

    Args:
      damaged: ``error`` raises for a slice whose pixels can't be decoded, ``skip`` leaves it out
        with a note.

    Raises:
      DataError: pixels that are not square, or no slice left.
    """
    first = files.first
    if abs(first.pixel_mm[0] - first.pixel_mm[1]) > 1e-3 * first.pixel_mm[0]:
        raise Unusable(
            files.folder,
            f"pixels of {first.pixel_mm[0]:g} x {first.pixel_mm[1]:g} mm aren't square",
        )
    notes, kept = list(files.skipped), []
    hu = np.empty((len(files.headers), first.rows, first.columns), np.int16)
    padding, cut = np.zeros(hu.shape, bool), 0
    with Trials() as trials:  # its process starts with the first compressed slice, if there is one
        for header in files.headers:
            try:
                if header.transfer_syntax not in NATIVE:
                    trials.check(header)
                values, mask = to_hu(read_stored(header), header)
            except Unusable as error:
                if damaged == "error":
                    raise
                notes.append(f"a slice skipped: {error.reason}")
                continue
            hu[len(kept)], clipped = to_int16(values)
            if mask is not None:
                padding[len(kept)] = mask
            cut += clipped
            kept.append(header)
    if not kept:
        raise DataError(f"{files.folder}: none of its {len(files.headers)} slices can be decoded")
    if cut:
        notes.append(f"{cut} pixels beyond int16 HU were cut")
    if len(kept) < len(files.headers):
        hu, padding = hu[: len(kept)], padding[: len(kept)]
        notes.extend(gaps_of([h.along_mm for h in kept]))
    return Series(
        hu=hu,
        padding=padding if any(h.padding is not None for h in kept) else None,
        pixel_mm=first.pixel_mm[0],
        slice_mm=files.thickness_mm,
        step_mm=step_of([h.along_mm for h in kept]),
        positions=np.array([h.along_mm for h in kept]),
        origins=np.array([h.position for h in kept]),
        kernel=first.kernel,
        kvp=first.kvp,
        tube_current_ma=np.array([h.tube_current_ma for h in kept]),
        exposure=np.array([h.exposure_mas for h in kept]),
        manufacturer=first.manufacturer,
        modality=first.modality,
        skipped=tuple(dict.fromkeys(notes)),
        key=first.series_uid,
        patient_key=files.patient_key,
        files=tuple(kept),
    )


def read_folder(path: Path, *, damaged: str = "error") -> list[Series]:
    """Every CT series at or below ``path``; see :func:`scan` and :func:`load`."""
    found = scan(path, damaged=damaged)
    return [load(files, damaged=damaged) for files in found.series]


def read_series(files: Iterable[Path]) -> Series:
    """The one series that ``files`` are; DataError where they are several or none."""
    groups = group([read_header(Path(file)) for file in files])
    if len(groups) != 1:
        raise DataError(
            f"{len(groups)} series where one was expected; give the files of a single series"
        )
    return load(groups[0])


__all__ = [
    "AIR_HU",
    "Scan",
    "Series",
    "SliceFiles",
    "gaps_of",
    "group",
    "load",
    "ordered",
    "read_folder",
    "read_series",
    "scan",
    "split",
]
