"""The header of one CT file, read with suspicion, in one opening, without its pixels.

Nothing here trusts the file: the transfer syntax is looked at before the data set is parsed (a
deflated one may inflate a thousandfold), values longer than 64 KiB are skipped, and the size of
the image is judged before anybody allocates it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import BinaryIO

from ldct_jax.dicom.enhanced import CT_IMAGE, ENHANCED, frames_of, uid_of_frame
from ldct_jax.dicom.file import LONG_VALUE, Opened, open_file, parse
from ldct_jax.dicom.usable import (
    check_image,
    check_pixels,
    check_slice,
    from_meta,
    is_ours,
    kinds,
)
from ldct_jax.dicom.values import Unusable, Value, careful

# PS3.6 tags as numbers: looking raw elements up by number never triggers pydicom's conversion.
TAGS = {
    "image_type": 0x00080008,
    "sop_class": 0x00080016,
    "instance_uid": 0x00080018,
    "time": 0x00080032,
    "modality": 0x00080060,
    "manufacturer": 0x00080070,
    "patient_name": 0x00100010,
    "patient_id": 0x00100020,
    "contrast": 0x00180010,
    "thickness": 0x00180050,
    "kvp": 0x00180060,
    "step": 0x00180088,
    "trigger": 0x00181060,
    "current": 0x00181151,
    "exposure": 0x00181152,
    "kernel": 0x00181210,
    "study_uid": 0x0020000D,
    "series_uid": 0x0020000E,
    "series_number": 0x00200011,
    "acquisition": 0x00200012,
    "instance_number": 0x00200013,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "frame_uid": 0x00200052,
    "temporal": 0x00200100,
    "stack": 0x00209056,
    "temporal_index": 0x00209128,
    "cardiac": 0x00209241,
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
PASSES = ("stack", "temporal", "temporal_index", "cardiac", "trigger", "contrast", "acquisition")
"""What tells one pass over the body from another, the most telling first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What the reader needs of one CT slice. Identifying fields never appear in its repr.

    Lengths are mm. ``frame`` is the slice's index in a multi-frame file, else None.
    ``source_uid`` is the SOPInstanceUID of the file, ``instance_uid`` the slice's own in this run.
    UIDs that are blank in the file are derived from its content; ``notes`` say so. ``passes`` are
    the values of :data:`PASSES`. ``padding`` is the inclusive range of stored values that stand for
    "no data", or None. Figures that the file doesn't tell are NaN.
    """

    path: Path = dataclasses.field(repr=False)
    frame: int | None
    patient_id: str = dataclasses.field(repr=False)
    patient_name: str = dataclasses.field(repr=False)
    study_uid: str = dataclasses.field(repr=False)
    frame_uid: str = dataclasses.field(repr=False)
    series_uid: str = dataclasses.field(repr=False)
    source_uid: str = dataclasses.field(repr=False)
    instance_uid: str = dataclasses.field(repr=False)
    description: str = dataclasses.field(repr=False)
    passes: tuple[str, ...] = dataclasses.field(repr=False)
    time: str = dataclasses.field(repr=False)
    sop_class: str
    image_type: tuple[str, ...]
    is_ours: bool
    series_number: int | None
    instance_number: int
    transfer_syntax: str
    manufacturer: str
    kernel: str
    kvp: float
    tube_current_ma: float
    exposure_mas: float
    rows: int
    columns: int
    pixel_mm: tuple[float, float]
    thickness_mm: float
    spacing_mm: float
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    allocated: int
    stored: int
    signed: bool
    padding: tuple[int, int] | None
    slope: float
    intercept: float
    notes: tuple[str, ...] = ()

    @property
    def normal(self) -> tuple[float, float, float]:
        """The unit normal of the slice: row direction x column direction."""
        a, b, c, d, e, f = self.orientation
        return (b * f - c * e, c * d - a * f, a * e - b * d)

    @property
    def is_derived(self) -> bool:
        """Whether the image was computed from others, by its ImageType or by this package."""
        return self.is_ours or self.image_type[:1] == ("DERIVED",)

    @property
    def output_name(self) -> Path:
        """What a derived file is called: as the source, frames in a folder."""
        if self.frame is None:
            return Path(self.path.name)
        return Path(f"{self.path.name}-frames", f"{self.frame + 1:04d}.dcm")


def read_header(path: Path) -> Header:
    """The header of the one slice in ``path``; Unusable where it isn't one CT slice."""
    headers, _ = read_headers(Path(path))
    if len(headers) != 1:
        raise Unusable(path, f"{len(headers)} frames; one slice was expected")
    return headers[0]


def read_headers(path: Path) -> tuple[list[Header], list]:
    """The headers of the slices in ``path`` (several in a multi-frame file), and their data sets.

    Data sets are pydicom's, without pixels and values of more than 64 KiB.

    Raises:
      Unusable: not DICOM, deflated, not CT, a localizer, colour, without geometry or rescale, an
        absurd matrix, or shorter than its pixels.
    """
    with open_file(path) as file, careful(path):
        opened = parse(file, path, defer_size=LONG_VALUE)
        data_set = opened.data_set
        values = _values(data_set, path)
        try:
            check_image(path, values, opened)
            has_frames = values["sop_class"].text() in ENHANCED or values["frames"].number(1) > 1
            images = frames_of(data_set, path) if has_frames else [data_set]
            check_pixels(path, values, opened, len(images))
            source_uid = _instance_uid(values, data_set.file_meta, file)
            headers = []
            for k, image in enumerate(images):
                own = _values(image, path) if has_frames else values
                check_slice(path, own)
                frame = k if has_frames else None
                headers.append(_header(path, own, image, opened, source_uid, frame))
        except Unusable as error:
            error.series_number = _number(values)
            raise
    return headers, images


def _values(data_set, path: Path) -> dict[str, Value]:
    return {name: Value(data_set, tag, path) for name, tag in TAGS.items()}


def _header(
    path: Path,
    values: dict[str, Value],
    image,
    opened: Opened,
    source_uid: str,
    frame: int | None,
) -> Header:
    row_mm, column_mm = values["spacing"].numbers(2)
    if not (0.01 < row_mm < 10 and 0.01 < column_mm < 10):
        raise Unusable(path, f"a pixel of {row_mm:g} x {column_mm:g} mm")
    slope, intercept = values["slope"].number(), values["intercept"].number()
    if slope == 0:
        raise Unusable(path, "RescaleSlope is 0")
    signed = values["signed"].integer(0) == 1
    meta = opened.data_set.file_meta
    return Header(
        path=path,
        frame=frame,
        patient_id=values["patient_id"].text(),
        patient_name=values["patient_name"].text(),
        **_uids(path, values, source_uid, frame),
        description=_description(image),
        passes=tuple(values[name].text() for name in PASSES),
        time=values["time"].text(),
        sop_class=values["sop_class"].text() or from_meta(meta, "SOPClass") or CT_IMAGE,
        image_type=kinds(values),
        is_ours=is_ours(image),
        series_number=_number(values),
        instance_number=int(values["instance_number"].number(0.0)),
        transfer_syntax=opened.syntax,
        manufacturer=values["manufacturer"].text(),
        kernel=" ".join(values["kernel"].text().replace("\\", " ").split()),
        kvp=values["kvp"].number(math.nan),
        tube_current_ma=values["current"].number(math.nan),
        exposure_mas=values["exposure"].number(math.nan),
        rows=values["rows"].integer(),
        columns=values["columns"].integer(),
        pixel_mm=(row_mm, column_mm),
        thickness_mm=values["thickness"].number(math.nan),
        spacing_mm=values["step"].number(math.nan),
        position=values["position"].numbers(3),
        orientation=_unit(path, values["orientation"].numbers(6)),
        allocated=values["allocated"].integer(),
        stored=values["stored"].integer(),
        signed=signed,
        padding=_padding(values, signed),
        slope=slope,
        intercept=intercept,
        notes=_notes(values),
    )


def _instance_uid(values: dict[str, Value], meta, file: BinaryIO) -> str:
    """The SOP instance UID of a file: of the data set, its file meta group, or its bytes."""
    if uid := values["instance_uid"].text() or from_meta(meta, "SOPInstance"):
        return uid
    file.seek(0)
    return made_uid("instance", hashlib.file_digest(file, "sha256").hexdigest())


def _uids(path: Path, values: dict[str, Value], source_uid: str, frame: int | None) -> dict:
    """The slice's UIDs. For blank ones: the series is what lies in one folder, the study what has
    one frame of reference."""
    series, study, reference = (
        values[name].text() for name in ("series_uid", "study_uid", "frame_uid")
    )
    patient = values["patient_id"].text(), values["patient_name"].text()
    series = series or made_uid("series", *patient, study, reference, os.fsencode(path.parent))
    return {
        "source_uid": source_uid,
        "instance_uid": source_uid if frame is None else uid_of_frame(source_uid, frame),
        "series_uid": series,
        "study_uid": study or made_uid("study", *patient, reference or series),
        "frame_uid": reference or made_uid("frame", series),
    }


def _notes(values: dict[str, Value]) -> tuple[str, ...]:
    """A word on UIDs that were blank. A missing frame of reference is common and harmless."""
    names = {"instance_uid": "SOP instance", "series_uid": "series", "study_uid": "study"}
    blank = [text for name, text in names.items() if not values[name].text()]
    return (f"blank UIDs ({', '.join(blank)}) were filled in",) if blank else ()


def made_uid(*parts: str | bytes) -> str:
    """A UID under 2.25 that is a function of ``parts``."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _number(values: dict[str, Value]) -> int | None:
    number = values["series_number"].number(math.nan)
    return int(number) if math.isfinite(number) else None


def _description(image) -> str:
    """SeriesDescription in its own character set, as far as that can be read."""
    try:
        return str(image.get("SeriesDescription", None) or "")
    except (LookupError, ValueError):
        return ""


def _padding(values: dict[str, Value], signed: bool) -> tuple[int, int] | None:
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
        raise Unusable(path, "its orientation is not a pair of unit vectors")
    return tuple(v / lengths[0] for v in row) + tuple(v / lengths[1] for v in column)
