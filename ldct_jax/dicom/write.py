"""Denoised HU → stored values → the bytes of a DICOM file.

The change in HU is added to the source's stored values, never the HU converted back: where the
model changes nothing, nothing changes, whatever the rescale. Padding is restored from the source,
and no other pixel may come to look like padding.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
from pathlib import Path

import numpy as np

from ldct_jax.dicom.derive import NewSeries, Processing, derive
from ldct_jax.dicom.header import Header
from ldct_jax.dicom.pixels import Slice
from ldct_jax.dicom.values import careful
from ldct_jax.errors import NumericsError


@dataclasses.dataclass(frozen=True)
class Stored:
    """New stored values (H, W) int32, and how many of them could not be what the model said.

    ``clipped``: cut to the range of BitsStored. ``moved``: taken off the padding value.
    """

    values: np.ndarray = dataclasses.field(repr=False)
    clipped: int
    moved: int


def value_range(header: Header) -> tuple[int, int]:
    """The least and the greatest value that BitsStored and PixelRepresentation allow."""
    if header.signed:
        return -(1 << (header.stored - 1)), (1 << (header.stored - 1)) - 1
    return 0, (1 << header.stored) - 1


def to_stored(
    stored: np.ndarray, change_hu: np.ndarray, padding: np.ndarray | None, header: Header
) -> Stored:
    """The source's stored values (H, W) changed by ``change_hu`` (H, W).

    Rounded half to even and cut to the legal range; pixels of ``padding`` keep their value.

    Raises:
      NumericsError: a change that is NaN or infinite outside the padding.
    """
    new = np.asarray(change_hu, np.float64) / header.slope
    new += stored
    np.rint(new, out=new)
    if padding is not None:
        new[padding] = stored[padding]
    low, high = value_range(header)
    lowest, highest = new.min(), new.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise NumericsError("the model's result holds NaN or infinite values")
    clipped = 0
    if lowest < low or highest > high:
        outside = (new < low) | (new > high)
        if padding is not None:
            outside &= ~padding
        clipped = int(np.count_nonzero(outside))
        np.clip(new, low, high, out=new)
    new, moved = new.astype(np.int32), 0
    if header.padding is not None:
        taken = (new >= header.padding[0]) & (new <= header.padding[1])
        if padding is not None:
            taken &= ~padding
        moved = int(np.count_nonzero(taken))
        new[taken] = _off_padding(new[taken], header)
    return Stored(new, clipped, moved)


def _off_padding(values: np.ndarray, header: Header) -> np.ndarray:
    """The nearest legal values outside the padding's range."""
    low, high = value_range(header)
    below, above = header.padding[0] - 1, header.padding[1] + 1
    if below < low:
        return np.full_like(values, min(above, high))
    if above > high:
        return np.full_like(values, below)
    return np.where(values - below < above - values, below, above)


def encode(
    source: Slice,
    stored: np.ndarray,
    *,
    series: NewSeries,
    sop_uid: str,
    processing: Processing,
    now: datetime.datetime,
) -> bytes:
    """The complete DICOM file of the image derived from ``source``, whose data set is used up.

    Raises:
      Unusable: elements of the source that can't be read, and so can't be carried over.
    """
    header = source.header
    with careful(header.path):
        image = derive(
            source.source, header, series=series, sop_uid=sop_uid, processing=processing, now=now
        )
        image.HighBit = header.stored - 1
        image.PixelData = stored.astype("<i2" if header.signed else "<u2").tobytes()
        image["PixelData"].VR = "OW"
        return _written(image)


def encode_header(header: Header, data_set, **derivation) -> None:
    """Derive and write a header on trial, to nowhere; ``data_set`` as read_headers gives it.

    Raises:
      Unusable: see :func:`encode`.
    """
    with careful(header.path):
        for tag in list(data_set.keys()):
            element = data_set.get_item(tag)
            if element.is_raw and element.value is None and element.length:  # was too long to read
                del data_set[tag]
        _written(derive(data_set, header, **derivation))


def _written(image) -> bytes:
    if image.original_encoding[0]:
        _make_explicit(image)
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _make_explicit(image) -> None:
    """Give every element of an implicit-VR data set its VR, and keep its bytes.

    pydicom would decode and encode each of them, and so tidy up the patient's name or fail at a
    number that nobody looks at.
    """
    from pydicom.filewriter import correct_ambiguous_vr

    _name_vrs(image)
    correct_ambiguous_vr(image, True)


def _name_vrs(image) -> None:
    from pydicom.datadict import dictionary_VR

    for tag in list(image.keys()):
        element = image.get_item(tag)
        vr = element.VR
        if vr is None:
            try:
                vr = dictionary_VR(tag)
            except KeyError:
                vr = "UN"
        if vr == "SQ":
            for item in image[tag].value or []:
                _name_vrs(item)
        elif len(vr) > 2:
            image[tag]  # "US or SS": decoded here, settled by pydicom
        elif element.is_raw:
            image[tag] = element._replace(VR=vr, is_implicit_VR=False)
    image.set_original_encoding(False, True, image.original_character_set)


def instance_uid(path: Path) -> str | None:
    """The SOP instance UID in the meta group of ``path``; None where there is none to be read."""
    from pydicom.filereader import read_file_meta_info

    try:
        with careful(path):
            return str(read_file_meta_info(str(path)).MediaStorageSOPInstanceUID)
    except Exception:
        return None
