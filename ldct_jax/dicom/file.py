"""One DICOM file, opened once and parsed up to its pixels; nothing is inflated or decoded."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, BinaryIO

from ldct_jax.dicom.left_out import not_dicom
from ldct_jax.dicom.values import Unusable

LONG_VALUE = 64 * 1024
HEAD = 512
"""Bytes by which a file without DICOM's mark is told."""

DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
RLE = "1.2.840.10008.1.2.5"
JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))
JPEG2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A parsed file: pydicom's data set up to the pixels, and where and how long these are.

    ``pixels_at`` is None for a file that has none; ``pixels_length`` is negative for encapsulated
    (compressed) ones.
    """

    data_set: Any
    syntax: str
    size: int
    pixels_tag: int | None = None
    pixels_at: int | None = None
    pixels_length: int = 0


def open_file(path: Path) -> BinaryIO:
    """``path`` opened for reading; Unusable where that fails."""
    try:
        return path.open("rb")
    except OSError as error:
        raise Unusable(path, f"can't be opened: {error.strerror}") from None


def parse(file: BinaryIO, path: Path, *, defer_size: int | None = None) -> Opened:
    """The data set in ``file`` without its pixels; nothing is inflated or decoded.

    Files without preamble and DICM mark are read where they begin like a data set.

    Raises:
      NotDicom: no DICOM file. Unusable: a deflated one.
    """
    from pydicom.filereader import read_dataset, read_partial

    head = file.read(HEAD)
    if head[128:132] != b"DICM" and not _begins_like_a_data_set(head):
        raise NotDicom(path, head)
    file.seek(132 if head[128:132] == b"DICM" else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax in DEFLATED:
        raise Unusable(
            path,
            "deflated transfer syntax is refused (it can hide a bomb); re-save it uncompressed",
        )
    found = {}

    def is_pixels(tag, vr, length) -> bool:
        if tag not in PIXEL_TAGS:
            return False
        found.update(pixels_tag=int(tag), pixels_length=-1 if length == 0xFFFFFFFF else length)
        found["pixels_at"] = file.tell()
        return True

    file.seek(0)
    data_set = read_partial(file, stop_when=is_pixels, defer_size=defer_size, force=True)
    implicit, little = data_set.original_encoding
    if not syntax:
        syntax = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
    return Opened(data_set, syntax, os.fstat(file.fileno()).st_size, **found)


class NotDicom(Unusable):
    """A file that nothing marks as DICOM; ``left_out`` says what it is instead."""

    def __init__(self, path: Path, head: bytes):
        self.left_out = not_dicom(path, head)
        super().__init__(path, self.left_out.reason, kind=self.left_out.kind)


def _begins_like_a_data_set(head: bytes) -> bool:
    """Whether ``head`` starts with an element of group 2 or 8, as bare data sets do."""
    if len(head) < 16 or head[:2] not in (b"\2\0", b"\x08\0") or head[3] != 0:
        return False
    vr, length = head[4:6], int.from_bytes(head[4:8], "little")
    return vr in (b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"LO", b"SH", b"UN") or length < 256
