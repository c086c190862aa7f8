"""What there is to denoise below a path: CT series, slice by slice, all checked beforehand.

Every file is judged here, pixels included, so that nothing is computed for a series that can't be
finished. Reading for training (:mod:`ldct_jax.dicom.series`) is stricter: it wants one image a
position and square pixels, which a network that looks at single slices doesn't need.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ldct_jax.dicom.derive import is_derived
from ldct_jax.dicom.header import (
    DEFLATED,
    LONG_VALUE,
    NATIVE,
    Header,
    Unusable,
    careful,
    looks_like_dicom,
    read_header,
    transfer_syntax,
)
from ldct_jax.dicom.pixels import read_stored
from ldct_jax.dicom.series import SAME_PLACE_MM, gaps_of
from ldct_jax.dicom.trial import Trials

BIG_ENDIAN = "1.2.840.10008.1.2.2"


@dataclasses.dataclass(frozen=True)
class InputSeries:
    """The slices of one series, orientation, matrix and pixel size, ordered along the normal.

    ``notes`` tell gaps and duplicates. ``number`` and ``description`` are the source's
    SeriesNumber and SeriesDescription, ``is_derived`` whether this package made it. Exposure
    doesn't split a series: tube current follows the patient.
    """

    headers: tuple[Header, ...] = dataclasses.field(repr=False)
    notes: tuple[str, ...]
    number: int | None
    description: str = dataclasses.field(repr=False)
    is_derived: bool

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def identity(self) -> tuple:
        """What derived UIDs are made of; the same for one of its slices and for all."""
        return _identity(self.first)


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A file that is left out. ``damaged``: a broken CT image, not just something else."""

    path: Path = dataclasses.field(repr=False)
    reason: str
    damaged: bool


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Series in order of first appearance, what was left out, and the SeriesNumbers in use.

    ``others``: how many files were passed over, since nothing marks them as DICOM.
    """

    series: tuple[InputSeries, ...]
    rejected: tuple[Rejected, ...]
    numbers: frozenset[int]
    others: int = 0


def survey(files: Iterable[Path]) -> Inputs:
    """Judge ``files`` and group the CT slices among them; other kinds of file are passed over.

    Raises nothing for a file that can't be used: it is in :attr:`Inputs.rejected`.
    """
    groups: dict[tuple, list[Header]] = {}
    rejected, numbers, others = [], set(), 0
    with Trials() as trials:
        for path in files:
            try:
                if not looks_like_dicom(path):
                    others += 1
                    continue
                header = _checked(path, trials)
            except Unusable as error:
                rejected.append(Rejected(path, error.reason, error.damaged))
                numbers.add(_read_more(path)[0])
                continue
            groups.setdefault(_identity(header), []).append(header)
    series = tuple(_ordered(headers) for headers in groups.values())
    numbers |= {s.number for s in series}
    return Inputs(series, tuple(rejected), frozenset(numbers - {None}), others)


def _checked(path: Path, trials: Trials) -> Header:
    """The header of a slice whose pixels were decoded once; raises Unusable."""
    if transfer_syntax(path) == BIG_ENDIAN:
        raise Unusable(
            path, "big-endian transfer syntax is retired; re-save it as explicit little endian"
        )
    header = read_header(path)
    for name, value in (("SOP instance", header.instance_uid), ("series", header.series_uid)):
        if not value:
            raise Unusable(path, f"its {name} UID is missing", damaged=True)
    if header.transfer_syntax in NATIVE:
        read_stored(header)
    else:
        trials.check(header)
    return header


def _identity(header: Header) -> tuple:
    return (
        header.series_uid,
        tuple(round(v, 3) + 0.0 for v in header.orientation),
        (header.rows, header.columns),
        tuple(round(v, 5) for v in header.pixel_mm),
    )


def _ordered(headers: list[Header]) -> InputSeries:
    """Sorted along the normal; of several files with one SOP instance UID the first is taken."""
    headers = sorted(
        headers, key=lambda h: (h.along_mm, h.instance_number, h.instance_uid, str(h.path))
    )
    unique = {h.instance_uid: h for h in reversed(headers)}
    kept = [h for h in headers if unique[h.instance_uid] is h]
    notes = []
    if same := len(headers) - len(kept):
        notes.append(f"{same} duplicate{'s' * (same > 1)} skipped")
    positions = [kept[0].along_mm]
    for header in kept[1:]:
        if header.along_mm - positions[-1] > SAME_PLACE_MM:
            positions.append(header.along_mm)
    if again := len(kept) - len(positions):
        notes.append(f"{again} more image{'s' * (again > 1)} at a position that has one")
    notes += gaps_of(positions)
    return InputSeries(tuple(kept), tuple(notes), *_read_more(kept[0].path))


def _read_more(path: Path) -> tuple[int | None, str, bool]:
    """SeriesNumber, SeriesDescription and whether this package made the file.

    Of any DICOM file that is safe to parse; (None, "", False) of others.
    """
    import pydicom

    try:
        if transfer_syntax(path) in DEFLATED:
            return None, "", False
        with careful(path):
            image = pydicom.dcmread(str(path), stop_before_pixels=True, defer_size=LONG_VALUE)
            number = image.get("SeriesNumber", None)
            description = image.get("SeriesDescription", None)
            return (
                None if number is None else int(number),
                "" if description is None else str(description),
                is_derived(image),
            )
    except Unusable:
        return None, "", False
