"""CT images in every encoding that is read, for the tests of what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.dicom_fixtures import anatomy, noisy, write_slice

HU = noisy(anatomy(3, n=1), 20, 3)[0]
OUTSIDE = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) > 1
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"


def slice_of(path: Path, **tags) -> Path:
    """A slice with what a real one has beside the essentials."""
    return write_slice(
        path,
        tags.pop("hu", HU),
        z=tags.pop("z", 12.5),
        **{
            "PatientName": "Doe^Jane",
            "PatientBirthDate": "19600102",
            "PatientSex": "F",
            "StudyTime": "101112",
            "StudyID": "S1",
            "AccessionNumber": "A1",
            "ReferringPhysicianName": "",
            "FrameOfReferenceUID": "1.2.3.4",
            "PositionReferenceIndicator": "",
            "PatientPosition": "HFS",
            "AcquisitionNumber": 1,
            "AcquisitionDate": "20150413",
            "AcquisitionTime": "101113",
            "ContentDate": "20150413",
            "ContentTime": "101114",
            "SeriesDate": "20150413",
            "SeriesTime": "101112",
            "SeriesNumber": 4,
            "SeriesDescription": "Abdomen 1.0 B30f",
            "WindowCenter": "40",
            "WindowWidth": "400",
        }
        | tags,
    )


def plain(**tags) -> Callable[[Path], Path]:
    return lambda path: slice_of(path, **tags)


def stored(values: np.ndarray, **tags) -> Callable[[Path], Path]:
    """An image given by its stored values."""
    kind = "<i2" if tags.get("signed") else "<u2"
    return lambda path: slice_of(path, PixelData=values.astype(kind).tobytes(), **tags)


def compressed(encode: Callable[[Path], None], **tags) -> Callable[[Path], Path]:
    """``plain(**tags)`` compressed in place by ``encode``."""

    def build(path: Path) -> Path:
        encode(slice_of(path, **tags))
        return path

    return build


def by_pydicom(syntax: str, plugin: str = "") -> Callable[[Path], None]:
    def encode(path: Path) -> None:
        import pydicom

        image = pydicom.dcmread(path)
        image.compress(syntax, encoding_plugin=plugin)
        # Compression gives a new SOP instance UID, a random one.
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.3.5"
        image.save_as(path)

    return encode


def by_gdcm(syntax: str) -> Callable[[Path], None]:
    """Transfer syntaxes by gdcm's names."""

    def encode(path: Path) -> None:
        import gdcm

        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()

    return encode


_RANDOM = np.random.default_rng(0)
_WORDS = _RANDOM.integers(0, 1 << 16, HU.shape)

IDENTITY = {
    "unsigned 12 bit": plain(),
    "unsigned 16 bit": stored(_WORDS, bits=16, RescaleIntercept="-32768"),
    "signed 12 bit": stored(_WORDS % 4096 - 2048, signed=True, RescaleIntercept="0"),
    "signed 16 bit": stored(_WORDS - 32768, bits=16, signed=True, RescaleIntercept="0"),
    "signed, padding -2000": plain(
        bits=16, signed=True, padding=-2000, padded=OUTSIDE, RescaleIntercept="-1024"
    ),
    "unsigned, padding 0": plain(padding=0, padded=OUTSIDE, hu=np.maximum(HU, -1023)),
    "padding range": stored(
        np.where(OUTSIDE, _WORDS % 10, 10 + _WORDS % 4000),
        PixelPaddingValue=0,
        PixelPaddingRangeLimit=9,
    ),
    "half a HU": stored(_WORDS % 4096, RescaleSlope="0.5", RescaleIntercept="-1000.5"),
    "a tiny slope": stored(_WORDS, bits=16, RescaleSlope="0.00012345", RescaleIntercept="-1024"),
    "a steep slope": stored(_WORDS % 4096, RescaleSlope="3.7", RescaleIntercept="-1024.25"),
    "a falling slope": stored(_WORDS % 4096, RescaleSlope="-1", RescaleIntercept="3071"),
    "odd numbers": plain(RescaleSlope="001.000000E+00", RescaleIntercept="-01.024000E+03"),
    "MONOCHROME1": plain(PhotometricInterpretation="MONOCHROME1"),
    "bits above BitsStored": stored(_WORDS, bits=12),
    "implicit VR": plain(syntax=IMPLICIT, padding=0, padded=OUTSIDE, hu=np.maximum(HU, -1023)),
    "gantry tilt": plain(orientation=(1, 0, 0, 0, 0.9781476, -0.2079117)),
    "RLE": compressed(by_pydicom("1.2.840.10008.1.2.5")),
    "RLE, signed": compressed(
        by_pydicom("1.2.840.10008.1.2.5"), signed=True, bits=16, RescaleIntercept="0"
    ),
    "JPEG 2000": compressed(by_gdcm("JPEG2000Lossless")),
    "JPEG 2000, signed": compressed(
        by_gdcm("JPEG2000Lossless"),
        signed=True,
        bits=16,
        padding=-2000,
        padded=OUTSIDE,
        RescaleIntercept="0",
    ),
    "JPEG-LS": compressed(by_pydicom("1.2.840.10008.1.2.4.80", "pyjpegls")),
    "JPEG lossless": compressed(by_gdcm("JPEGLosslessProcess14_1")),
}
