"""The header of a derived CT image: what stays, what is new, what is dropped.

Elements of the source that aren't named here are copied as the bytes they are, so that odd but
legal spellings survive. Everything follows PS3.3 C.7.6.1 (General Image), C.7.5.1 (General
Equipment), C.8.2.1 (CT Image) and PS3.15 C (no false originals).
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import uuid
from collections.abc import Collection
from typing import Any

from ldct_jax import __version__
from ldct_jax.dicom.enhanced import PER_FRAME, frame_of
from ldct_jax.dicom.header import Header
from ldct_jax.dicom.usable import PRODUCT

WRITER = 2
"""Part of every derived UID: raised when the same pixels would be described in another way."""

MANUFACTURER = "The ldct_jax authors"
IMPLEMENTATION = "2.25.216131735826203415361466905012842375512"
"""ImplementationClassUID of the files this package writes: one random UUID, for ever."""

OVERLAYS = "overlays"
"""The word that keeps overlays on the allow-list; everything else there is a private creator."""

# What describes the source's pixels or bytes and would be wrong here, by PS3.6 tag.
_DROPPED = (
    0x00080001,  # Length to End
    0x00080014,  # Instance Creator UID
    0x00280106,  # Smallest Image Pixel Value, and its relatives
    0x00280107,
    0x00280108,
    0x00280109,
    0x00280110,
    0x00280111,
    0x00287FE0,  # Pixel Data Provider URL
    0x00880200,  # Icon Image Sequence
    0x4FFE0001,  # MAC Parameters Sequence
    0xFFFAFFFA,  # Digital Signatures Sequence
    0xFFFCFFFC,  # Data Set Trailing Padding
    0x7FE00001,  # Extended Offset Table, Lengths, Encapsulated Total Length
    0x7FE00002,
    0x7FE00003,
)
_SMOOTHING = ("113087", "Smoothing")  # CID 7203
_SOURCE_IMAGE = ("121322", "Source image for image processing operation")  # CID 7202
_PROCESSING = ("109102", "Processing Equipment")  # CID 7005


@dataclasses.dataclass(frozen=True)
class Processing:
    """What was done to the images: enough to name it in a header and to derive UIDs from it.

    Args:
      model: a short name, as ``pcn`` or ``gaussian``.
      digest: sha256 (hex) of the model's parameters, or of the artefact or filter.
      trained_on: kernels, thickness and dose of the training images in words, or empty.
      blend: share of the model's result in the output.
      keep: private creators whose elements are kept, and ``overlays``.
    """

    model: str
    digest: str
    trained_on: str = ""
    blend: float = 1.0
    keep: tuple[str, ...] = ()

    def uid(self, kind: str, *source: Any) -> str:
        """A UID under 2.25 that is a function of the source, the model and the parameters.

        ``source`` holds UIDs and numbers that identify what is derived.
        """
        parts = (WRITER, kind, source, self.digest, float(self.blend), tuple(sorted(self.keep)))
        digest = hashlib.sha256(repr(parts).encode()).digest()
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"

    @property
    def description(self) -> str:
        """DerivationDescription: ASCII, at most 1024 characters (ST), the end of which stays."""
        text = f"Denoised by {PRODUCT} {__version__}: model {self.model}, sha256 {self.digest}"
        if self.trained_on:
            text += f"; trained on {self.trained_on}"
        blend = f"{self.blend:g} of the result + {1 - self.blend:g} of the source"
        end = f"; {blend}; research use only"
        return text.encode("ascii", "replace").decode()[: 1024 - len(end)] + end

    @property
    def suffix(self) -> str:
        """What marks the derived SeriesDescription."""
        name = self.model.encode("ascii", "replace").decode().replace("\\", " ")[:24]
        return f" [{PRODUCT} {name} {self.digest[:8]}]"


@dataclasses.dataclass(frozen=True)
class NewSeries:
    """The identity of one output series; ``description`` is the final SeriesDescription."""

    uid: str
    number: int
    description: str


def series_description(old: str, processing: Processing) -> str:
    """The source's description with the mark of the derivation, at most 64 characters (LO)."""
    old = " ".join(old.replace("\\", " ").split())
    return (old[: 64 - len(processing.suffix)].rstrip() + processing.suffix).strip()


def free_number(old: int | None, used: Collection[int]) -> int:
    """A SeriesNumber that no series of ``used`` has: the source's + 1000, or the next free one."""
    number = 1000 + (old if old is not None and 0 <= old < 2**31 - 10_000 else 0)
    while number in used:
        number += 1
    return number


def derive(
    source,
    header: Header,
    *,
    series: NewSeries,
    sop_uid: str,
    processing: Processing,
    now: datetime.datetime,
):
    """The data set of the image derived from one slice, without its pixels.

    What an anonymiser blanked and an image can't be without is filled in from ``header``.

    Args:
      source: pydicom data set of the slice's file, read without pixels; changed in place.
      now: time of creation, with its zone.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian

    source_class = _text(source, "SOPClassUID") or header.sop_class
    is_frame = header.frame is not None and PER_FRAME in source
    image = frame_of(source, header.frame) if is_frame else source
    _drop(image, processing.keep)

    image.Modality = "CT"
    image.SOPClassUID = header.sop_class
    for keyword, uid in (
        ("StudyInstanceUID", header.study_uid),
        ("FrameOfReferenceUID", header.frame_uid),
    ):
        if not _text(image, keyword):
            setattr(image, keyword, uid)
    if "PixelRepresentation" not in image:
        image.PixelRepresentation = int(header.signed)
    image.SOPInstanceUID = sop_uid
    image.SeriesInstanceUID = series.uid
    image.SeriesNumber = series.number
    image.SeriesDescription = series.description
    image.ImageType = ["DERIVED", "SECONDARY", *_third_and_on(image)]
    if header.transfer_syntax in _ALWAYS_LOSSY:
        image.LossyImageCompression = "01"

    derivation = processing.description
    if old := _text(image, "DerivationDescription"):
        derivation = f"{derivation}; source: {old}"[:1024]
    image.DerivationDescription = derivation
    image.DerivationCodeSequence = Sequence(
        [*(image.get("DerivationCodeSequence", None) or []), _code(*_SMOOTHING)]
    )

    reference = Dataset()
    reference.ReferencedSOPClassUID = source_class
    reference.ReferencedSOPInstanceUID = header.source_uid
    if header.frame is not None:
        reference.ReferencedFrameNumber = header.frame + 1
    reference.PurposeOfReferenceCodeSequence = Sequence([_code(*_SOURCE_IMAGE)])
    reference.SpatialLocationsPreserved = "YES"
    image.SourceImageSequence = Sequence([reference])

    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = Sequence([_code(*_PROCESSING)])
    equipment.Manufacturer = MANUFACTURER
    equipment.ManufacturerModelName = PRODUCT
    equipment.SoftwareVersions = __version__
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")
    equipment.ContributionDescription = processing.description
    image.ContributingEquipmentSequence = Sequence(
        [*(image.get("ContributingEquipmentSequence", None) or []), equipment]
    )

    local = now.astimezone(_zone(image, now))
    image.InstanceCreationDate = image.ContentDate = local.strftime("%Y%m%d")
    image.InstanceCreationTime = image.ContentTime = local.strftime("%H%M%S.%f")
    _shorten_rescale(image)

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = header.sop_class
    meta.MediaStorageSOPInstanceUID = sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = f"LDCT_JAX_{__version__}"[:16]
    image.file_meta = meta
    image.preamble = b"\0" * 128
    return image


# JPEG baseline and extended: no decoder can give back what was acquired.
_ALWAYS_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")


def _drop(image, keep: Collection[str]) -> None:
    """Take private elements, overlays and what describes the old pixels out, at every depth."""
    kept_blocks = _kept_blocks(image, keep)
    for tag in list(image.keys()):
        if tag.is_private:
            if (tag.group, _block(tag)) not in kept_blocks:
                del image[tag]
        elif 0x6000 <= tag.group <= 0x60FF:
            # Without data of its own the overlay lies in unused bits of the pixels, which are new.
            if OVERLAYS not in keep or (tag.group << 16 | 0x3000) not in image:
                del image[tag]
        elif tag in _DROPPED or (tag.element == 0 and tag.group > 2):
            del image[tag]
        elif _is_sequence(image, tag):
            for item in image[tag].value or []:
                _drop(item, keep)


def _is_sequence(image, tag) -> bool:
    """Whether ``tag`` holds a sequence, found without converting the element."""
    from pydicom.datadict import dictionary_VR

    vr = image.get_item(tag).VR
    if vr in (None, "UN"):
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            return False
    return vr == "SQ"


def _block(tag) -> int:
    """The block of a private element: (gggg,00bb) reserves (gggg,bb00-bbFF)."""
    return tag.element if tag.element < 0x100 else tag.element >> 8


def _kept_blocks(image, keep: Collection[str]) -> set[tuple[int, int]]:
    creators = [t for t in image.keys() if t.is_private and 0x10 <= t.element <= 0xFF]  # noqa: SIM118
    return {(t.group, t.element) for t in creators if str(image[t].value).strip() in keep}


def _third_and_on(image) -> list[str]:
    """Value 3 and further ones of ImageType; a CT image must say AXIAL in value 3."""
    values = image.get("ImageType", None) or []
    values = [values] if isinstance(values, str) else list(values)
    return values[2:] or ["AXIAL"]


def _text(image, keyword: str) -> str:
    return str(image.get(keyword, None) or "").strip()


def _code(value: str, meaning: str):
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "DCM"
    item.CodeMeaning = meaning
    return item


def _zone(image, now: datetime.datetime) -> datetime.tzinfo | None:
    """The zone of the image's times where it says so, else ours."""
    text = _text(image, "TimezoneOffsetFromUTC")
    try:
        return datetime.datetime.strptime(text, "%z").tzinfo
    except ValueError:
        return now.tzinfo


def _shorten_rescale(image) -> None:
    """Rescale values of more than the 16 characters of a DS, rounded to them."""
    from pydicom.valuerep import DS, format_number_as_ds

    for keyword in ("RescaleSlope", "RescaleIntercept"):
        element = image[keyword]
        text = getattr(element.value, "original_string", None) or str(element.value)
        if len(text.strip()) > 16:
            number = float(str(text).replace(",", "."))
            image[keyword].value = DS(format_number_as_ds(number))
