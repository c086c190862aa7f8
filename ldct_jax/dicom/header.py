"""The header of one CT file, read with suspicion and without its pixels.

Nothing here trusts the file: the transfer syntax is looked at before the data set is parsed (a
deflated one may inflate a thousandfold), values longer than 64 KiB are skipped, numbers are read
from their raw bytes (scanners write ``008.000000E+00`` or a wrong VR for signed padding), and the
size of the image is judged before anybody allocates it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import warnings
from pathlib import Path

from ldct_jax.errors import DataError

MAX_SIDE = 4096
"""Larger matrices than this don't exist in CT (2048 do)."""
LONG_VALUE = 64 * 1024

DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
RLE = "1.2.840.10008.1.2.5"
JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))
JPEG2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")

# PS3.6 tags as numbers: looking raw elements up by number never triggers pydicom's conversion.
TAGS = {
    "image_type": 0x00080008,
    "sop_class": 0x00080016,
    "instance_uid": 0x00080018,
    "modality": 0x00080060,
    "manufacturer": 0x00080070,
    "description": 0x0008103E,
    "patient_name": 0x00100010,
    "patient_id": 0x00100020,
    "thickness": 0x00180050,
    "kvp": 0x00180060,
    "current": 0x00181151,
    "exposure": 0x00181152,
    "kernel": 0x00181210,
    "series_uid": 0x0020000E,
    "instance_number": 0x00200013,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "samples": 0x00280002,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "spacing": 0x00280030,
    "allocated": 0x00280100,
    "stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "padding_limit": 0x00280121,
    "intercept": 0x00281052,
    "slope": 0x00281053,
    "rescale_type": 0x00281054,
}


class Unusable(DataError):
    """One file can't be used; ``reason`` says why without naming the file.

    ``damaged`` tells a broken CT image from something that is merely no axial CT slice.
    """

    def __init__(self, path: Path, reason: str, *, damaged: bool = False):
        super().__init__(f"{path}: {reason}")
        self.reason = reason
        self.damaged = damaged


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What the reader needs of one CT slice. Identifying fields never appear in its repr.

    Lengths are mm. ``padding`` is the inclusive range of stored values that stand for "no data",
    or None. ``tube_current_ma`` and ``exposure_mas`` are NaN where the file doesn't say.
    """

    path: Path = dataclasses.field(repr=False)
    patient_id: str = dataclasses.field(repr=False)
    patient_name: str = dataclasses.field(repr=False)
    series_uid: str = dataclasses.field(repr=False)
    instance_uid: str = dataclasses.field(repr=False)
    description: str = dataclasses.field(repr=False)
    instance_number: int
    transfer_syntax: str
    modality: str
    manufacturer: str
    kernel: str
    kvp: float
    tube_current_ma: float
    exposure_mas: float
    rows: int
    columns: int
    pixel_mm: tuple[float, float]
    thickness_mm: float
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    allocated: int
    stored: int
    signed: bool
    padding: tuple[int, int] | None
    slope: float
    intercept: float

    @property
    def normal(self) -> tuple[float, float, float]:
        """The unit normal of the slice: row direction x column direction."""
        a, b, c, d, e, f = self.orientation
        return (b * f - c * e, c * d - a * f, a * e - b * d)

    @property
    def along_mm(self) -> float:
        """Position along the normal, which is what orders the slices of a series."""
        return sum(p * n for p, n in zip(self.position, self.normal, strict=True))


def looks_like_dicom(path: Path) -> bool:
    """Whether the file carries the DICM mark (its name says nothing: ``.IMA``, no extension)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise Unusable(path, f"can't be opened: {error.strerror}", damaged=True) from None


def transfer_syntax(path: Path) -> str:
    """The transfer syntax, from the file meta group alone: nothing is inflated or decoded."""
    from pydicom.filereader import read_file_meta_info

    if not looks_like_dicom(path):
        raise Unusable(path, "not a DICOM file (it has no DICM mark)")
    with careful(path):
        return str(read_file_meta_info(str(path)).get("TransferSyntaxUID", NATIVE[0]))


def read_header(path: Path) -> Header:
    """Read and judge the header of ``path``.

    Raises:
      Unusable: not DICOM, deflated, not CT, a localizer, colour, multi-frame, without geometry or
        rescale, an absurd matrix, or shorter than its pixels.
    """
    import pydicom

    path = Path(path)
    syntax = transfer_syntax(path)
    if syntax in DEFLATED:
        raise Unusable(
            path,
            "deflated transfer syntax is refused (it can hide a bomb); re-save it uncompressed",
        )
    with careful(path):
        data_set = pydicom.dcmread(str(path), stop_before_pixels=True, defer_size=LONG_VALUE)
        values = {name: _Value(data_set, tag, path) for name, tag in TAGS.items()}
    _is_ct_slice(path, values, syntax)
    _is_decodable(path, values, syntax)
    return _header(path, values, syntax)


def _header(path: Path, values: dict[str, _Value], syntax: str) -> Header:
    orientation = _unit(path, values["orientation"].numbers(6))
    row_mm, column_mm = values["spacing"].numbers(2)
    if not (0.01 < row_mm < 10 and 0.01 < column_mm < 10):
        raise Unusable(path, f"a pixel of {row_mm:g} x {column_mm:g} mm", damaged=True)
    slope, intercept = values["slope"].number(), values["intercept"].number()
    if slope == 0:
        raise Unusable(path, "RescaleSlope is 0", damaged=True)
    signed = values["signed"].integer(0) == 1
    return Header(
        path=path,
        patient_id=values["patient_id"].text(),
        patient_name=values["patient_name"].text(),
        series_uid=values["series_uid"].text(),
        instance_uid=values["instance_uid"].text(),
        description=values["description"].text(),
        instance_number=int(values["instance_number"].number(0.0)),
        transfer_syntax=syntax,
        modality="CT",
        manufacturer=values["manufacturer"].text(),
        kernel=" ".join(values["kernel"].text().replace("\\", " ").split()),
        kvp=values["kvp"].number(math.nan),
        tube_current_ma=values["current"].number(math.nan),
        exposure_mas=values["exposure"].number(math.nan),
        rows=values["rows"].integer(),
        columns=values["columns"].integer(),
        pixel_mm=(row_mm, column_mm),
        thickness_mm=values["thickness"].number(math.nan),
        position=values["position"].numbers(3),
        orientation=orientation,
        allocated=values["allocated"].integer(),
        stored=values["stored"].integer(),
        signed=signed,
        padding=_padding(values, signed),
        slope=slope,
        intercept=intercept,
    )


def _is_ct_slice(path: Path, values: dict[str, _Value], syntax: str) -> None:
    if (modality := values["modality"].text()) != "CT":
        raise Unusable(path, f"modality {modality or 'missing'}, not CT")
    kinds = values["image_type"].text().upper().split("\\")
    if "LOCALIZER" in kinds:
        raise Unusable(path, "a localizer")
    if values["sop_class"].text() in ENHANCED or values["frames"].number(1.0) > 1:
        raise Unusable(
            path, "enhanced multi-frame CT isn't supported; convert it to single-slice CT images"
        )
    if values["samples"].integer(1) != 1:
        raise Unusable(path, "a colour image (a screenshot or a dose report), not HU")
    for name, what in (("position", "ImagePositionPatient"), ("orientation", "its orientation")):
        if not values[name].raw:
            raise Unusable(path, f"{what} is missing, so it can't be ordered")
    for name in ("slope", "intercept"):
        if not values[name].raw:
            raise Unusable(path, "no rescale to HU")
    if (kind := values["rescale_type"].text().upper()) not in ("", "HU", "US"):
        raise Unusable(path, f"its values are {kind}, not HU")


def _is_decodable(path: Path, values: dict[str, _Value], syntax: str) -> None:
    rows, columns = values["rows"].integer(0), values["columns"].integer(0)
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise Unusable(
            path,
            f"{rows} x {columns} pixels, but 1 to {MAX_SIDE} a side are possible",
            damaged=True,
        )
    allocated, stored = values["allocated"].integer(0), values["stored"].integer(0)
    if allocated != 16 or not 1 <= stored <= 16:
        raise Unusable(path, f"{stored} of {allocated} bits a pixel; CT has up to 16 of 16")
    if values["high_bit"].integer(stored - 1) != stored - 1:
        raise Unusable(path, "its pixel bits don't start at bit 0 (HighBit)")
    if syntax in NATIVE:
        if path.stat().st_size < rows * columns * 2:
            raise Unusable(path, "truncated: the file is shorter than its image", damaged=True)
    elif syntax != RLE and syntax not in JPEG + JPEG2000:
        raise Unusable(path, f"transfer syntax {syntax} is not one of still CT images")


def _padding(values: dict[str, _Value], signed: bool) -> tuple[int, int] | None:
    first = values["padding"].word(signed)
    if first is None:
        return None
    limit = values["padding_limit"].word(signed)
    second = first if limit is None else limit
    return (min(first, second), max(first, second))


def _unit(path: Path, orientation: tuple[float, ...]) -> tuple[float, ...]:
    """Row and column direction as orthogonal unit vectors, or Unusable."""
    row, column = orientation[:3], orientation[3:]
    lengths = [math.hypot(*row), math.hypot(*column)]
    across = sum(r * c for r, c in zip(row, column, strict=True))
    if any(abs(length - 1) > 0.01 for length in lengths) or abs(across) > 0.01:
        raise Unusable(path, "its orientation is not a pair of unit vectors", damaged=True)
    return tuple(v / lengths[0] for v in row) + tuple(v / lengths[1] for v in column)


class _Value:
    """One raw element: bytes that are read as the standard means them, whatever the VR says."""

    def __init__(self, data_set, tag: int, path: Path):
        from pydicom.dataelem import RawDataElement

        element = data_set.get_item(tag) if tag in data_set else None
        self.tag, self.path = tag, path
        self.raw, self.big = b"", False
        if isinstance(element, RawDataElement) and element.value is not None:
            self.raw, self.big = bytes(element.value), not element.is_little_endian

    def text(self) -> str:
        # Interned: thousands of slices of a series say the same.
        return sys.intern(self.raw.decode("latin-1").strip(" \0"))

    def numbers(self, count: int) -> tuple[float, ...]:
        """``count`` finite numbers of a DS or IS, or Unusable."""
        try:
            # A decimal comma breaks the standard but is met; thousands have no mark in a DS.
            values = tuple(float(v.strip(" \0").replace(",", ".")) for v in self.text().split("\\"))
        except ValueError:
            values = ()
        if len(values) != count or not all(math.isfinite(v) for v in values):
            raise self._wrong(f"{count} number{'s' * (count > 1)}")
        return values

    def number(self, missing: float | None = None) -> float:
        """One number; ``missing`` (if given) where the element is absent, empty or nonsense."""
        if missing is None:
            return self.numbers(1)[0]
        try:
            return self.numbers(1)[0] if self.raw else missing
        except Unusable:
            return missing

    def word(self, signed: bool) -> int | None:
        """The first 16-bit word. Its sign is PixelRepresentation's: the VR is often wrong."""
        if len(self.raw) < 2:
            return None
        return int.from_bytes(self.raw[:2], "big" if self.big else "little", signed=signed)

    def integer(self, missing: int | None = None) -> int:
        value = self.word(False)
        if value is None:
            if missing is None:
                raise self._wrong("a whole number")
            return missing
        return value

    def _wrong(self, needed: str) -> Unusable:
        group, element = divmod(self.tag, 0x10000)
        return Unusable(
            self.path, f"({group:04x},{element:04x}) is missing or is not {needed}", damaged=True
        )


class careful:
    """pydicom is hushed, and whatever it stumbles over becomes one line.

    Its warnings and log lines quote values, so they could carry names and UIDs to a terminal or a
    log. A bit-flipped file can raise anything from struct.error to RecursionError inside a parser,
    so everything but an interrupt is caught here.
    """

    def __init__(self, path: Path):
        self.path = path
        self._warnings = warnings.catch_warnings()
        self._logger = logging.getLogger("pydicom")

    def __enter__(self):
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL + 1)
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind, error, trace):
        self._warnings.__exit__(kind, error, trace)
        self._logger.setLevel(self._level)
        if isinstance(error, Exception) and not isinstance(error, DataError):
            if isinstance(error, OSError) and error.strerror:
                why = error.strerror
            else:
                why = f"{kind.__name__} while it was read"
            raise Unusable(self.path, f"damaged or not DICOM: {why}", damaged=True) from None
