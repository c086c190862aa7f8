"""Stored values of one CT slice and their way to HU.

Stored values are what the file holds, sign-extended from its BitsStored; padding is defined on
them and taken out before the rescale. The writer of derived series starts from the same two
functions, so that an identity network gives the stored values back bit for bit.
"""

from __future__ import annotations

import struct

import numpy as np

from ldct_jax.dicom.header import JPEG, JPEG2000, NATIVE, Header, Unusable, careful

AIR_HU = -1024
"""What stands for padding in HU arrays: the least value of 12-bit CT, plain air for a network."""

# This decoder makes an image even of a codestream whose end was lost. It is asked only where no
# other one can decode, that is for high-throughput JPEG 2000.
_FORGIVING = "pylibjpeg"

# All that decoding needs: with `specific_tags` pydicom seeks past everything else.
_DECODING = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "PixelData",
)


def read_stored(header: Header) -> np.ndarray:
    """The stored values (rows, columns), int32.

    MONOCHROME1 is not inverted: the rescale to HU is defined on stored values either way.

    Raises:
      Unusable: pixel data that are missing, float, shorter than the matrix or not decodable.
    """
    import pydicom

    with careful(header.path):
        data_set = pydicom.dcmread(str(header.path), specific_tags=list(_DECODING))
        if "PixelData" not in data_set:
            raise Unusable(header.path, "no integer pixel data (missing or float)", damaged=True)
        data = data_set.PixelData
        if header.transfer_syntax in NATIVE:
            stored = _native(header, data)
        else:
            _claims_its_size(header, data)
            stored = _decode(header, data_set)
    return _sign_extend(stored, header.stored, header.signed)


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


def _native(header: Header, data: bytes) -> np.ndarray:
    needed = header.rows * header.columns * 2
    if len(data) < needed:
        raise Unusable(
            header.path, f"truncated: {len(data)} of {needed} bytes of pixels", damaged=True
        )
    order = ">" if header.transfer_syntax == NATIVE[2] else "<"
    flat = np.frombuffer(data, f"{order}u2", count=header.rows * header.columns)
    return flat.reshape(header.rows, header.columns)


def _decode(header: Header, data_set) -> np.ndarray:
    from pydicom.pixels import get_decoder

    # Asked beforehand: what a failed decoding raises names missing and failing decoders alike.
    plugins = get_decoder(header.transfer_syntax).available_plugins
    if not plugins:
        raise Unusable(
            header.path,
            f"compressed ({header.transfer_syntax}) and no decoder is installed; "
            "install the extra: pip install 'ldct-jax[dicom]'",
        )
    stored = None
    for plugin in [p for p in plugins if p != _FORGIVING] or plugins:
        try:
            data_set.pixel_array_options(decoding_plugin=plugin)
            stored = data_set.pixel_array
            break
        except (RuntimeError, NotImplementedError, AttributeError, ImportError):
            continue
    if stored is None:
        raise Unusable(header.path, "damaged: its compressed pixels can't be decoded", damaged=True)
    if stored.shape != (header.rows, header.columns):
        raise Unusable(
            header.path,
            f"its pixels are {stored.shape}, its header says {header.rows} x {header.columns}",
            damaged=True,
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
            damaged=True,
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
