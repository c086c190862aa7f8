"""What the node needs to know of one instance, and what it can take."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from ldct_jax.dicom.enhanced import CT_IMAGE, ENHANCED
from ldct_jax.dicom.file import (
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG2000,
    LONG_VALUE,
    RLE,
    open_file,
    parse,
)
from ldct_jax.dicom.values import Unusable, Value, careful

_TAGS = {
    "sop_class": 0x00080016,
    "sop_uid": 0x00080018,
    "modality": 0x00080060,
    "description": 0x0008103E,
    "body_part": 0x00180015,
    "kernel": 0x00181210,
    "series_uid": 0x0020000E,
    "expected": 0x00201209,
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of one instance; ``expected`` is NumberOfSeriesRelatedInstances, 0 where nobody says."""

    sop_class: str
    sop_uid: str = dataclasses.field(repr=False)
    series_uid: str = dataclasses.field(repr=False)
    modality: str
    description: str = dataclasses.field(repr=False)
    body_part: str
    kernel: str
    expected: int

    @property
    def is_ct(self) -> bool:
        return self.sop_class in (CT_IMAGE, *ENHANCED) or self.modality == "CT"


def read_facts(path: Path) -> Facts:
    """The facts of a DICOM file.

    Raises:
      Unusable: it can't be parsed, or has no SOP instance or series UID.
    """
    with open_file(path) as file, careful(path):
        data_set = parse(file, path, defer_size=LONG_VALUE).data_set
        values = {name: Value(data_set, tag, path) for name, tag in _TAGS.items()}
        texts = {name: " ".join(values[name].text().split()) for name in _TAGS}
        if not texts["sop_uid"] or not texts["series_uid"]:
            raise Unusable(path, "it has no SOP instance or series UID")
        expected = int(values["expected"].number(0))
        return Facts(**texts | {"expected": max(expected, 0)})


def short(uid: str) -> str:
    """A name for a UID that tells nobody whose it is: 16 hex digits of its sha256."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def transfer_syntaxes() -> list[str]:
    """What can be decoded here, in the order in which it is preferred."""
    from pydicom.pixels import get_decoder

    compressed = (*JPEG, *JPEG2000, RLE)
    return [EXPLICIT, IMPLICIT, *(uid for uid in compressed if get_decoder(uid).is_available)]
