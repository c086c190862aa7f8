"""Enhanced multi-frame CT: each frame is a slice of its own, and a classic image when written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import denoise_path
from ldct_jax.dicom.load import load
from ldct_jax.dicom.survey import found_series, survey
from tests.dicom_fixtures import anatomy, uid

ENHANCED, LEGACY = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"
SLOPES = (1.0, 2.0, 0.5)


def item(**values):
    from pydicom.dataset import Dataset

    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


def write_enhanced(
    path: Path, hu: np.ndarray, stacks=("A",), sop_class=ENHANCED, z0=0.0, **tags
) -> Path:
    """``hu`` (N, H, W) as one file from ``z0`` mm, frames in reverse order, a rescale for each.

    ``stacks``: names of stacks; each holds the same share of the frames, 200 mm apart.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid("enhanced", path.name)
    image = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    values = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"),
        "FrameOfReferenceUID": uid("frame"),
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "PatientID": "P1",
        "PatientName": "P1",
        "SeriesNumber": 7,
        "Rows": hu.shape[1],
        "Columns": hu.shape[2],
        "NumberOfFrames": len(hu),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
    }
    for keyword, value in (values | tags).items():
        setattr(image, keyword, value)
    measures = item(PixelSpacing=[2.0, 2.0], SliceThickness="3")
    details = item(KVP=100.0)
    reconstruction = item(ConvolutionKernel="B30f")
    image.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[measures],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            CTXRayDetailsSequence=[details],
            CTReconstructionSequence=[reconstruction],
        )
    ]
    frames, pixels = [], []
    each = len(hu) // len(stacks)
    for n, k in enumerate(reversed(range(len(hu)))):
        slope = SLOPES[k % 3]
        pixels.append(np.rint((hu[k] + 1024) / slope).astype("<i2"))
        stack, z = stacks[k // each], z0 + 3.0 * (k % each) + 1.5 * (k // each)
        frames.append(
            item(
                FrameContentSequence=[item(StackID=stack, InStackPositionNumber=n + 1)],
                PlanePositionSequence=[item(ImagePositionPatient=[-64, -64, z])],
                PixelValueTransformationSequence=[
                    item(RescaleSlope=str(slope), RescaleIntercept="-1024", RescaleType="HU")
                ],
                CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "AXIAL"])],
                CTExposureSequence=[item(ExposureInmAs=40.0 + k, XRayTubeCurrentInmA=80.0)],
            )
        )
    image.PerFrameFunctionalGroupsSequence = frames
    image.PixelData = np.stack(pixels).tobytes()
    image["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def expected(hu: np.ndarray) -> np.ndarray:
    """HU after the rounding of each frame's stored values."""
    slopes = np.array([SLOPES[k % 3] for k in range(len(hu))])[:, None, None]
    return np.rint((hu + 1024) / slopes) * slopes - 1024


@pytest.mark.core
@pytest.mark.parametrize("sop_class", [ENHANCED, LEGACY])
def test_frames_are_read_with_their_own_geometry_and_rescale(tmp_path, sop_class):
    hu = anatomy(0)
    write_enhanced(tmp_path / "e.dcm", hu, sop_class=sop_class)
    (series,) = found_series(tmp_path).series
    loaded = load(series)
    np.testing.assert_array_equal(loaded.hu, expected(hu))
    np.testing.assert_allclose(loaded.positions, 3.0 * np.arange(6))
    assert (loaded.pixel_mm, loaded.slice_mm, loaded.kernel, loaded.kvp) == (2.0, 3.0, "B30f", 100)
    assert loaded.exposure.tolist() == [40.0 + k for k in range(6)]


def test_two_stacks_in_one_file_are_two_series(tmp_path):
    """Stacks that interleave along the body would be shuffled into each other by position."""
    hu = anatomy(1, n=8)
    write_enhanced(tmp_path / "e.dcm", hu, stacks=("A", "B"))
    found = [load(s).hu for s in found_series(tmp_path).series]
    assert len(found) == 2
    for stack in (expected(hu)[:4], expected(hu)[4:]):
        assert any(np.array_equal(stack, one) for one in found)


def test_the_result_is_a_classic_series(tmp_path):
    import pydicom

    hu = anatomy(0)
    source = write_enhanced(tmp_path / "in" / "e.dcm", hu)
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    images = [pydicom.dcmread(p) for p in sorted((tmp_path / "out").rglob("*.dcm"))]
    assert len(images) == 6
    assert len({i.SOPInstanceUID for i in images}) == 6
    assert len({i.SeriesInstanceUID for i in images}) == 1
    for image in images:
        assert image.SOPClassUID == image.file_meta.MediaStorageSOPClassUID
        assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
        assert "PerFrameFunctionalGroupsSequence" not in image and "NumberOfFrames" not in image
        assert image.ImageType[:3] == ["DERIVED", "SECONDARY", "AXIAL"]
        (reference,) = image.SourceImageSequence
        assert reference.ReferencedSOPClassUID == ENHANCED
        assert reference.ReferencedSOPInstanceUID == uid("enhanced", source.name)
        k = round(image.ImagePositionPatient[2] / 3)
        assert reference.ReferencedFrameNumber == 6 - k
        assert int(image.Exposure) == 40 + k
        values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        np.testing.assert_array_equal(values, expected(hu)[k])


def test_frames_without_geometry_are_left_out_by_name(tmp_path):
    path = write_enhanced(tmp_path / "e.dcm", anatomy(0))
    import pydicom

    image = pydicom.dcmread(path)
    del image.PerFrameFunctionalGroupsSequence
    image.save_as(path)
    (left_out,) = survey(tmp_path).left_out
    assert (left_out.path, left_out.kind) == (path, "failed")
    assert "without the geometry of its frames" in left_out.reason
