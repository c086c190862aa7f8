"""Stored values of one CT slice and their way to HU.

Stored values are what the file holds, sign-extended from its BitsStored; padding is defined on
them and taken out before the rescale. The writer of derived series starts from the same two
functions, so that an identity network gives the stored values back bit for bit.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from typing import Any, BinaryIO

import numpy as np

from ldct_jax.ct.no_data import AIR_HU
from ldct_jax.dicom.file import BIG_ENDIAN, JPEG, JPEG2000, NATIVE, Opened, open_file, parse
from ldct_jax.dicom.header import Header
from ldct_jax.dicom.values import Unusable, careful

# This decoder makes an image even of a codestream whose end was lost. It is asked only where no
# other one can decode, that is for high-throughput JPEG 2000.
_FORGIVING = "pylibjpeg"


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice as its file has it: stored values (rows, columns) int32, and the data set.

    ``source`` is pydicom's data set of the file (of all its frames), without pixels.
    """

    header: Header
    stored: np.ndarray = dataclasses.field(repr=False)
    source: Any = dataclasses.field(repr=False)


def read_slice(header: Header) -> Slice:
    """Pixels and data set of one slice, in one opening of its file.

    MONOCHROME1 is not inverted: the rescale to HU is defined on stored values either way.

    Raises:
      Unusable: pixel data that are missing, float, shorter than the matrix or not decodable.
    """
    with open_file(header.path) as file, careful(header.path):
        opened = parse(file, header.path)
        stored = _stored(header, opened, file)
    return Slice(header, stored, opened.data_set)


def read_stored(header: Header) -> np.ndarray:
    """The stored values (rows, columns), int32; see :func:`read_slice`."""
    return read_slice(header).stored


def same_pixels(a: Header, b: Header) -> bool:
    """Whether two slices hold the same bytes of pixels; False where one can't be read."""
    if (a.rows, a.columns, a.transfer_syntax) != (b.rows, b.columns, b.transfer_syntax):
        return False
    try:
        return _raw(a) == _raw(b)
    except Unusable:
        return False


def _raw(header: Header) -> bytes:
    with open_file(header.path) as file, careful(header.path):
        opened = parse(file, header.path)
        return _frame(header, opened, file)


def _stored(header: Header, opened: Opened, file: BinaryIO) -> np.ndarray:
    data = _frame(header, opened, file)
    if opened.syntax in NATIVE:
        order = ">" if opened.syntax == BIG_ENDIAN else "<"
        image = np.frombuffer(data, f"{order}u2").reshape(header.rows, header.columns)
    else:
        _claims_its_size(header, data)
        image = _decode(header, data, opened.data_set)
    return _sign_extend(image, header.stored, header.signed)


def _frame(header: Header, opened: Opened, file: BinaryIO) -> bytes:
    """The bytes of one slice: little- or big-endian words, or its codestream."""
    if opened.pixels_at is None or opened.syntax != header.transfer_syntax:
        raise Unusable(header.path, "no integer pixel data (missing or float)")
    file.seek(opened.pixels_at)
    frame = header.frame or 0
    if opened.syntax not in NATIVE:
        from pydicom.encaps import get_frame

        frames = int(opened.data_set.get("NumberOfFrames", None) or 1)
        try:
            return get_frame(file, frame, number_of_frames=frames)
        except (ValueError, EOFError, IndexError):
            raise Unusable(header.path, "damaged: its compressed pixels can't be read") from None
    size = header.rows * header.columns * 2
    there = min(opened.pixels_length - frame * size, size)
    file.seek(frame * size, 1)
    data = file.read(max(there, 0))
    if len(data) < size:
        raise Unusable(header.path, f"truncated: {len(data)} of {size} bytes of pixels")
    return data


def to_hu(stored: np.ndarray, header: Header) -> tuple[np.ndarray, np.ndarray | None]:
    """Stored values → (HU float64 or int32, padding mask or None); padding becomes AIR_HU.

    Integers stay exact: with a whole slope and intercept no float is involved.
    """
    padding = None
    if header.padding is not None:
        padding = (stored >= header.padding[0]) & (stored <= header.padding[1])
    if float(header.slope).is_integer() and float(header.intercept).is_integer():
        hu = stored * int(header.slope) + int(header.intercept)
    else:
        hu = stored * header.slope + header.intercept
    if padding is not None:
        hu = np.where(padding, AIR_HU, hu)
    return hu, padding


def to_int16(hu: np.ndarray) -> tuple[np.ndarray, int]:
    """HU rounded half to even as int16, and how many pixels had to be cut to its range."""
    rounded = np.rint(hu) if hu.dtype.kind == "f" else hu
    cut = np.clip(rounded, -32768, 32767)
    return cut.astype(np.int16), int(np.count_nonzero(cut != rounded))


def _decode(header: Header, codestream: bytes, data_set) -> np.ndarray:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    # Asked beforehand: what a failed decoding raises names missing and failing decoders alike.
    decoder = get_decoder(header.transfer_syntax)
    plugins = decoder.available_plugins
    if not plugins:
        raise Unusable(
            header.path,
            f"compressed ({header.transfer_syntax}) and no decoder is installed; "
            "install the extra: pip install 'ldct-jax[dicom]'",
        )
    description = {
        "rows": header.rows,
        "columns": header.columns,
        "bits_allocated": header.allocated,
        "bits_stored": header.stored,
        "pixel_representation": int(header.signed),
        "photometric_interpretation": str(data_set.get("PhotometricInterpretation", "")).strip()
        or "MONOCHROME2",
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    stored = None
    for plugin in [p for p in plugins if p != _FORGIVING] or plugins:
        buffer = io.BytesIO(encapsulate([codestream], has_bot=False))
        try:
            stored, _ = decoder.as_array(
                buffer, index=0, raw=True, decoding_plugin=plugin, **description
            )
            break
        except (RuntimeError, NotImplementedError, AttributeError, ImportError):
            continue
    if stored is None:
        raise Unusable(header.path, "damaged: its compressed pixels can't be decoded")
    if stored.shape != (header.rows, header.columns):
        raise Unusable(
            header.path,
            f"its pixels are {stored.shape}, its header says {header.rows} x {header.columns}",
        )
    return stored


def _claims_its_size(header: Header, data: bytes) -> None:
    """Refuse a codestream whose own size differs from the header's: a decoder trusts the former."""
    if header.transfer_syntax in JPEG2000:
        size = _jpeg2000_size(data)
    elif header.transfer_syntax in JPEG:
        size = _jpeg_size(data)
    else:  # RLE has no size of its own; pydicom checks the lengths of its segments
        return
    if size != (header.rows, header.columns):
        raise Unusable(
            header.path,
            f"its codestream claims {size or 'no size'}, its header {header.rows} x "
            f"{header.columns}",
        )


def _jpeg2000_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) of the SIZ segment, which follows SOC at once (ISO 15444-1, A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or len(data) < start + 24:
        return None
    width, height, left, top = struct.unpack(">4I", data[start + 8 : start + 24])
    return (height - top, width - left)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) of the first frame header SOFn (ISO 10918-1, B.2.2; JPEG-LS: SOF55)."""
    at = data.find(b"\xff\xd8", 0, 4096) + 2
    while 2 <= at <= len(data) - 9:
        if data[at] != 0xFF:
            return None
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack(">2H", data[at + 5 : at + 9])
        at += 2 + max(length, 2)
    return None


def _sign_extend(stored: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Keep the low ``bits`` bits (overlays may sit above them) and extend their sign."""
    low = stored.astype(np.int32) & ((1 << bits) - 1)
    if signed:
        sign = 1 << (bits - 1)
        low = (low ^ sign) - sign
    return low
