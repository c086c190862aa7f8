"""Whether a file is a CT image at all, and whether its slices can be read: by headers alone."""

from __future__ import annotations

import re
from pathlib import Path

from ldct_jax.dicom.enhanced import CT_IMAGE, ENHANCED
from ldct_jax.dicom.file import JPEG, JPEG2000, NATIVE, PIXEL_TAGS, RLE, Opened
from ldct_jax.dicom.values import Unusable, Value
from ldct_jax.system.names import printable

PRODUCT = "ldct_jax"
"""What this package calls itself among the contributing equipment of the images it writes."""
MAX_SIDE = 4096
"""Larger matrices than this don't exist in CT (2048 do)."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LOCALIZERS = {"LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM", "TOP", "SCANO", "SCANOGRAM"}
SCREENS = {"SCREEN", "SCREENSAVE", "SCREENSHOT", "PROT", "PROTOCOL", "SUMMARY"}
"""Words in ImageType by which scanners tell localizers and pictures of their screen."""


def check_image(path: Path, values: dict[str, Value], opened: Opened) -> None:
    """Whether the file as a whole is a CT image: modality, SOP class, kind, colour."""
    sop_class = values["sop_class"].text() or from_meta(opened.data_set.file_meta, "SOPClass")
    is_ct_class = sop_class in (CT_IMAGE, *ENHANCED)
    modality = values["modality"].text() or ("CT" if is_ct_class else "missing")
    if modality != "CT":
        raise Unusable(path, f"modality {modality}, not CT", kind="other")
    _is_no_scout(path, values)
    if sop_class.startswith(SECONDARY_CAPTURE) and "AXIAL" not in kinds(values):
        raise Unusable(path, "a secondary capture, not an axial CT image", kind="other")
    if values["samples"].integer(1) != 1:
        raise Unusable(path, "a colour image (a screenshot or a dose report), not HU", kind="other")
    if not (is_ct_class or sop_class.startswith(SECONDARY_CAPTURE) or not sop_class):
        if not values["rows"].raw:
            raise Unusable(path, "not an image", kind="other")
        raise Unusable(path, f"its SOP class {printable(sop_class)} is not one of CT images")


def _is_no_scout(path: Path, values: dict[str, Value]) -> None:
    for kind in kinds(values):
        words = set(re.split(r"[ _-]", kind))
        if words & LOCALIZERS:
            raise Unusable(path, "a localizer", kind="other")
        if words & SCREENS or ("DOSE" in words and words & {"INFO", "REPORT", "RECORD"}):
            raise Unusable(path, "a picture of the scanner's screen", kind="other")


def check_slice(path: Path, values: dict[str, Value]) -> None:
    """Whether one slice has what HU and order need."""
    _is_no_scout(path, values)
    for name, what in (("position", "ImagePositionPatient"), ("orientation", "its orientation")):
        if not values[name].raw:
            raise Unusable(path, f"{what} is missing, so it can't be ordered")
    for name in ("slope", "intercept"):
        if not values[name].raw:
            raise Unusable(path, "no rescale to HU")
    if (kind := values["rescale_type"].text().upper()) not in ("", "HU", "US"):
        raise Unusable(path, f"its values are {printable(kind)}, not HU", kind="other")


def check_pixels(path: Path, values: dict[str, Value], opened: Opened, frames: int) -> None:
    rows, columns = values["rows"].integer(0), values["columns"].integer(0)
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise Unusable(path, f"{rows} x {columns} pixels, but 1 to {MAX_SIDE} a side are possible")
    allocated, stored = values["allocated"].integer(0), values["stored"].integer(0)
    if allocated != 16 or not 1 <= stored <= 16:
        raise Unusable(path, f"{stored} of {allocated} bits a pixel; CT has up to 16 of 16")
    if values["high_bit"].integer(stored - 1) != stored - 1:
        raise Unusable(path, "its pixel bits don't start at bit 0 (HighBit)")
    needed = rows * columns * 2 * frames
    if opened.syntax in NATIVE:
        if opened.size < needed:
            raise Unusable(path, "truncated: the file is shorter than its image")
    elif opened.syntax != RLE and opened.syntax not in JPEG + JPEG2000:
        raise Unusable(path, f"transfer syntax {opened.syntax} is not one of still CT images")
    if opened.pixels_tag != PIXEL_TAGS[-1]:
        raise Unusable(path, "no integer pixel data (missing or float)")
    if opened.syntax in NATIVE:
        there = min(opened.pixels_length, opened.size - opened.pixels_at)
        if there < needed:
            raise Unusable(path, f"truncated: {max(there, 0)} of {needed} bytes of pixels")


def kinds(values: dict[str, Value]) -> tuple[str, ...]:
    return tuple(k.strip() for k in values["image_type"].text().upper().split("\\"))


def from_meta(meta, what: str) -> str:
    """``SOPClass`` or ``SOPInstance`` as the file meta group has it; "" where it doesn't."""
    return str(meta.get(f"MediaStorage{what}UID", None) or "").strip()


def is_ours(image) -> bool:
    """Whether this package wrote ``image``: it names itself among the contributing equipment."""
    for item in image.get("ContributingEquipmentSequence", None) or []:
        if item.get("ManufacturerModelName", None) == PRODUCT:
            return True
    return False
