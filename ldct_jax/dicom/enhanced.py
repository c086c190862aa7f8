"""Enhanced multi-frame CT, and legacy converted enhanced CT, as the classic slices they hold.

An enhanced image keeps what all frames share and what each has of its own in nested functional
groups (PS3.3 C.7.6.16). Flattened, a frame is a classic CT image with its own geometry and
rescale, and the rest of the reader needs to know no more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ldct_jax.dicom.values import Unusable

ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

SHARED, PER_FRAME = 0x52009229, 0x52009230
# Functional groups whose attributes a classic image has too, or that tell its frames apart.
_GROUPS = (
    0x00209111,  # Frame Content: acquisition number, stack, temporal position
    0x00209113,  # Plane Position
    0x00209116,  # Plane Orientation
    0x00289110,  # Pixel Measures: spacing, thickness
    0x00289132,  # Frame VOI LUT: window
    0x00289145,  # Pixel Value Transformation: rescale
    0x00189304,  # CT Acquisition Details
    0x00189314,  # CT Reconstruction: kernel
    0x00189321,  # CT Exposure
    0x00189325,  # CT X-Ray Details: kVp
    0x00189326,  # CT Position
    0x00189329,  # CT Image Frame Type
    0x00209170,  # Unassigned Shared Converted Attributes
    0x00209171,  # Unassigned Per-Frame Converted Attributes
)
_RENAMED = {
    0x00089007: 0x00080008,  # Frame Type → Image Type
    0x00209156: 0x00200012,  # Frame Acquisition Number → Acquisition Number
    0x00189330: 0x00181151,  # X-Ray Tube Current in mA → X-Ray Tube Current
    0x00189332: 0x00181152,  # Exposure in mAs → Exposure
}
_DROPPED = (
    SHARED,
    PER_FRAME,
    0x00080016,  # SOP class: a classic image has its own
    0x00280008,  # Number of Frames
    0x00209221,  # Dimension Organization Sequence
    0x00209222,  # Dimension Index Sequence
    0x00209311,  # Dimension Organization Type
    0x00209157,  # Dimension Index Values
    0x00209161,  # Concatenation UID and its relatives
    0x00209162,
    0x00209163,
    0x00209228,
    0x00200242,
)
# Type 2 in a classic CT image: there, but maybe empty.
_EXPECTED = ("KVP", "AcquisitionNumber", "PositionReferenceIndicator")


def uid_of_frame(source_uid: str, frame: int) -> str:
    """The SOP instance UID of one frame: a function of the file's."""
    digest = hashlib.sha256(f"frame\0{source_uid}\0{frame}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def frames_of(data_set, path: Path) -> list:
    """The frames of an enhanced data set as classic ones, without pixels.

    Raises:
      Unusable: no functional groups, or another number of them than of frames.
    """
    groups = data_set.get(PER_FRAME, None)
    groups = [] if groups is None else list(groups.value or [])
    if not groups:
        raise Unusable(path, "a multi-frame image without the geometry of its frames")
    frames = int(data_set.get("NumberOfFrames", None) or 1)
    if frames != len(groups):
        raise Unusable(path, f"{frames} frames, but the geometry of {len(groups)}")
    return [frame_of(data_set, k) for k in range(frames)]


def frame_of(data_set, frame: int):
    """One frame as a classic CT data set: the common attributes, then those of its groups.

    The frame's own groups win over shared ones; elements stay the raw bytes they are.
    """
    from pydicom.dataset import FileDataset

    shared = data_set[SHARED].value if SHARED in data_set else []
    groups = [*shared, data_set[PER_FRAME].value[frame]]
    implicit, little = data_set.original_encoding
    image = FileDataset("", {}, None, data_set.file_meta, implicit, little)
    image.set_original_encoding(implicit, little, data_set.original_character_set)
    for tag in data_set.keys():  # noqa: SIM118 - iterating would convert every element
        if tag not in _DROPPED:
            image[tag] = data_set.get_item(tag)
    for group in groups:
        for sequence in _GROUPS:
            if sequence in group and (items := group[sequence].value):
                for tag in items[0].keys():  # noqa: SIM118
                    _take(image, items[0], tag)
    image.SOPClassUID = CT_IMAGE
    image.InstanceNumber = frame + 1
    for keyword in _EXPECTED:
        if keyword not in image:
            setattr(image, keyword, None)
    return image


def _take(image, item, tag) -> None:
    """Put one element of a functional group into ``image``, under its classic name."""
    from pydicom.tag import Tag

    element = item.get_item(tag)
    if tag not in _RENAMED:
        image[tag] = element
        return
    new = Tag(_RENAMED[tag])
    element = element._replace(tag=new)
    if item[tag].VR in ("FD", "US"):  # a number's text in classic images
        text = f"{round(float(item[tag].value))}"
        value = text.encode() + b" " * (len(text) % 2)
        element = element._replace(VR="IS", value=value, length=len(value))
    image[new] = element
