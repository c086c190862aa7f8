"""Synthetic DICOM series with the tags and names of real collections, written with pydicom."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np

AXIAL = (1, 0, 0, 0, 1, 0)
PIXEL_MM = 5.0  # 64 pixels span a body


def uid(*parts) -> str:
    """A UID that is a function of ``parts``."""
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"2.25.{int(digest[:30], 16)}"


def anatomy(seed: int, n: int = 6, size: int = 64) -> np.ndarray:
    """(n, size, size) int16 HU of an ellipse with organs that differs by seed and slice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    a, b = rng.uniform(0.6, 0.85), rng.uniform(0.45, 0.7)
    hu = np.full((n, size, size), -1000.0)
    hu[:, (x / a) ** 2 + (y / b) ** 2 < 1] = 50.0
    spots = rng.uniform(-0.6, 0.6, (6, 2))
    for k in range(n):
        for i, (cx, cy) in enumerate(spots):
            radius = 0.1 + 0.05 * i + 0.02 * np.sin(k + i)
            inside = (x - cx * a) ** 2 + (y - cy * b) ** 2 < radius**2 / 2
            hu[k][inside] = (900, -800, 120, -90, 60, 300)[i]
    return hu.astype(np.int16)


def read_series(files):
    """The one series that ``files`` are, decoded; raises what is wrong with the first of them."""
    from ldct_jax.dicom.header import read_header
    from ldct_jax.dicom.load import load
    from ldct_jax.dicom.series import group

    (series,) = group([read_header(Path(file)) for file in files])
    return load(series)


def noisy(hu: np.ndarray, sd: float, seed: int) -> np.ndarray:
    """``hu`` with white noise, in the range of 12-bit CT."""
    noise = np.random.default_rng(seed).normal(0, sd, hu.shape)
    return np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)


def write_slice(path: Path, hu: np.ndarray, *, z: float, number: int = 1, **tags) -> Path:
    """One CT image. ``tags`` are options (below) or DICOM keywords that override everything.

    Options: signed, bits, padding (a stored value), padded (bool mask), origin (x, y), spacing,
    orientation, syntax (a transfer syntax UID).
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    signed, bits = tags.pop("signed", False), tags.pop("bits", 12)
    padding, padded = tags.pop("padding", None), tags.pop("padded", None)
    x, y = tags.pop("origin", (-160.0, -160.0))
    syntax = tags.pop("syntax", ExplicitVRLittleEndian)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid(str(path))
    meta.TransferSyntaxUID = syntax
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid(str(path)),
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series", str(path.parent)),
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Manufacturer": "SIEMENS",
        "ConvolutionKernel": "B30f",
        "KVP": "120",
        "XRayTubeCurrent": "200",
        "Exposure": "150",
        "SliceThickness": "1",
        "PatientID": "P1",
        "PatientName": "P1",
        "StudyDate": "20150413",
        "InstanceNumber": number,
        "ImageOrientationPatient": list(tags.pop("orientation", AXIAL)),
        "ImagePositionPatient": [x, y, z],
        "PixelSpacing": [tags.pop("spacing", PIXEL_MM)] * 2,
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
    }
    values |= tags
    stored = np.asarray(hu).astype(np.int32) - int(float(values["RescaleIntercept"] or 0))
    if padding is not None:
        stored = np.where(padded, padding, stored)
        values["PixelPaddingValue"] = padding
    for key, value in values.items():
        if value is not None:
            setattr(image, key, value)
    if "PixelData" not in tags:
        image.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
        image["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path, hu: np.ndarray, *, z0=0.0, step=1.0, name=None, **tags
) -> list[Path]:
    """A series, slice k at z0 + k·step in ``folder/name(k)``; ``tags`` as :func:`write_slice`."""
    name = name or (lambda k: f"{k:03d}.dcm")
    tags.setdefault("SeriesInstanceUID", uid("series", str(folder)))
    return [
        write_slice(Path(folder) / name(k), image, z=z0 + k * step, number=k + 1, **tags)
        for k, image in enumerate(hu)
    ]


def damage_pixels(path: Path) -> None:
    """Compress the image and overwrite what tells a decoder where its pixels are."""
    import pydicom

    image = pydicom.dcmread(path)
    image.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    image.save_as(path)
    data = bytearray(path.read_bytes())
    codestream = data.rindex(b"\xfe\xff\x00\xe0") + 8
    data[codestream] = 9  # segments, of which 16 bits have two
    path.write_bytes(data)


def mayo_name(patient: str, dose: str, k: int) -> str:
    """``L506_FD_1_1.CT.0002.0087.2015….IMA``, the challenge's file names."""
    return f"{patient}_{dose}_1_1.CT.0002.{k + 1:04d}.2015.12.22.20.45.42.541197.358793241.IMA"


def write_mayo_pair(
    folders: tuple[Path, Path], patient: str, seed: int, *, n=6, tags=None, low_n=None, low_z0=0.0
) -> None:
    """A normal- and a quarter-dose series: different UIDs, opposite orders of file names."""
    body = anatomy(seed, n)
    low_n = n if low_n is None else low_n
    for folder, dose, sd, count, z0 in (
        (folders[0], "FD", 10, n, 0.0),
        (folders[1], "QD", 25, low_n, low_z0),
    ):
        start = round(z0)
        images = noisy(body, sd, seed + sd)[start : start + count]
        reverse = dose == "QD"  # file names and numbers must not matter
        order = list(range(len(images)))[:: -1 if reverse else 1]
        common = {
            "PatientID": f"{patient}_{dose}_1",
            "PatientName": f"{patient}_{dose}_1_1",
            "SeriesInstanceUID": uid("mayo", patient, dose, str(folder)),
        } | (tags or {})
        for rank, k in enumerate(order):
            write_slice(
                Path(folder) / mayo_name(patient, dose, rank),
                images[k],
                z=-300.0 + z0 + k,
                number=rank + 1,
                **common,
            )


def write_mayo(root: Path, patients=("L067", "L096"), **options) -> Path:
    """``root/L067/{full,quarter}_1mm/*.IMA``."""
    for seed, patient in enumerate(patients):
        folders = tuple(root / patient / f"{dose}_1mm" for dose in ("full", "quarter"))
        write_mayo_pair(folders, patient, seed, **options)
    return root


def write_mayo_download(root: Path, patients=("L067", "L096"), top="Training_Image_Data") -> Path:
    """``root/top/1mm B30/full_1mm/L067/full_1mm/*.IMA`` and its sharp twin ``1mm D45``."""
    for seed, patient in enumerate(patients):
        for kernel, tag, sharp in (("B30", "B30f", ""), ("D45", "D45f", "_sharp")):
            folders = tuple(
                root / top / f"1mm {kernel}" / f"{d}_1mm{sharp}" / patient / f"{d}_1mm{sharp}"
                for d in ("full", "quarter")
            )
            write_mayo_pair(folders, patient, seed, tags={"ConvolutionKernel": tag})
    return root


def write_tcia(root: Path, subjects=("L006", "C002"), *, ge=("L299",), windows=True, **options):
    """LDCT-and-Projection-data with its metadata.csv; GE subjects have no low dose."""
    rows = []
    for seed, subject in enumerate((*subjects, *ge)):
        is_ge = subject in ge
        body = anatomy(seed, 5)
        for dose, sd, uid_tail in (("Low Dose", 25, "35629"), ("Full Dose", 10, "18130")):
            if is_ge and dose == "Low Dose":
                continue
            if not options.get("upper", True):
                dose = dose.capitalize()  # "Full dose images", as later releases have it
            study = options.get("date", "08-30-2018") + "-NA-NA-42906"
            location = Path("LDCT-and-Projection-data", subject, study)
            location /= f"1.000000-{dose} {'Images' if options.get('upper', True) else 'images'}-"
            location = location.with_name(location.name + uid_tail)
            write_series(
                root / location,
                noisy(body, sd, seed + sd),
                step=3.0,
                name=lambda k: f"1-{k + 1:03d}.dcm",
                PatientID=subject,
                PatientName=subject,
                SliceThickness="3",
                Manufacturer="GE MEDICAL SYSTEMS" if is_ge else "SIEMENS",
                SeriesDescription=f"{dose} Images",
            )
            written = "./" + location.as_posix()
            rows.append(
                {
                    "Series UID": uid("row", subject, dose),
                    "Subject ID": subject,
                    "Manufacturer": "GE MEDICAL SYSTEMS" if is_ge else "SIEMENS",
                    "Series Description": f"{dose} Images",
                    "Number of Images": "5",
                    "File Location": written.replace("/", "\\") if windows else written,
                }
            )
    projections = Path(
        "LDCT-and-Projection-data", subjects[0], study, "2.000000-Low Dose Projections-9"
    )
    (root / projections).mkdir(parents=True)
    (root / projections / "1-0001.dcm").write_bytes(b"\0" * 128 + b"DICMgarbage")
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return root
