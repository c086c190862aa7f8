"""The two volume files in which public CT travels inside packages: NIfTI-1 and NRRD.

Only what those need: 3-D, int16 or float, gzip or raw, axes along the body's. Users' own NIfTI
files go through nibabel instead.
"""

from __future__ import annotations

import dataclasses
import gzip
import struct

import numpy as np

from ldct_jax.errors import DataError

_NIFTI_TYPES = {4: "i2", 8: "i4", 16: "f4", 64: "f8", 512: "u2"}
_NRRD_TYPES = {
    "short": "i2",
    "int16": "i2",
    "signed short": "i2",
    "ushort": "u2",
    "unsigned short": "u2",
    "int": "i4",
    "float": "f4",
    "double": "f8",
}


@dataclasses.dataclass(frozen=True)
class Volume:
    """``hu`` (N, H, W) int16 as DICOM shows it: slices upwards, rows to the back, columns to the
    patient's left; ``pixel_mm`` and ``step_mm``."""

    hu: np.ndarray
    pixel_mm: float
    step_mm: float


def read_nifti(data: bytes) -> Volume:
    """A NIfTI-1 file (``.nii`` or ``.nii.gz``), 348-byte header, sform or axes as stored."""
    data = _gunzip(data) if data[:2] == b"\x1f\x8b" else data
    if len(data) < 352 or data[344:347] not in (b"n+1",):
        raise DataError("not a single-file NIfTI-1 image")
    order = "<" if struct.unpack("<i", data[:4])[0] == 348 else ">"
    dim = struct.unpack(order + "8h", data[40:56])
    datatype = struct.unpack(order + "h", data[70:72])[0]
    offset, slope, intercept = struct.unpack(order + "3f", data[108:120])
    if dim[0] != 3 or min(dim[1:4]) < 1 or datatype not in _NIFTI_TYPES:
        raise DataError(f"a NIfTI image of {dim[0]} dimensions and type {datatype} isn't supported")
    if struct.unpack(order + "h", data[254:256])[0] <= 0:
        raise DataError("a NIfTI image without an sform isn't supported")
    rows = np.array(struct.unpack(order + "12f", data[280:328])).reshape(3, 4)
    # NIfTI counts to the right and to the front, DICOM to the left and to the back.
    directions = (np.diag([-1, -1, 1]) @ rows[:, :3]).T
    values = _values(data[int(offset) or 352 :], order + _NIFTI_TYPES[datatype], dim[1:4])
    if np.isfinite(slope) and slope != 0:  # 0 or NaN: the header asks for no scaling
        values = values * slope + intercept
    return _volume(values, directions)


def read_nrrd(data: bytes) -> Volume:
    """An NRRD file with its data attached, in left-posterior-superior space."""
    head, _, body = data.partition(b"\n\n")
    if not head.startswith(b"NRRD") or not body:
        raise DataError("not an NRRD file with its data attached")
    fields = {}
    for line in head.decode("latin-1").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[key.strip().lower()] = value.strip()
    kind = _NRRD_TYPES.get(fields.get("type", ""))
    if fields.get("dimension") != "3" or kind is None:
        raise DataError("an NRRD image must be 3-D and of a 16-bit, int or float type")
    if fields.get("space", "").lower() not in ("left-posterior-superior", "lps"):
        raise DataError(f"an NRRD image in space {fields.get('space')!r} isn't supported")
    if fields.get("encoding") in ("gzip", "gz"):
        body = _gunzip(body)
    elif fields.get("encoding") != "raw":
        raise DataError(f"NRRD encoding {fields.get('encoding')!r} isn't supported")
    order = ">" if fields.get("endian") == "big" else "<"
    try:
        sizes = [int(n) for n in fields["sizes"].split()]
        directions = np.array(
            [
                [float(v) for v in d.strip("()").split(",")]
                for d in fields["space directions"].split()
            ]
        )
    except (KeyError, ValueError):
        raise DataError("an NRRD image without sizes or space directions isn't supported") from None
    return _volume(_values(body, order + kind, sizes), directions)


def _gunzip(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise DataError(f"a damaged gzip stream ({error})") from None


def _values(body: bytes, dtype: str, sizes) -> np.ndarray:
    """(k, j, i) from bytes in which i runs fastest."""
    i, j, k = (int(n) for n in sizes)
    count = i * j * k
    if len(body) < count * np.dtype(dtype).itemsize:
        raise DataError("a volume file that is shorter than its header says")
    return np.frombuffer(body, dtype, count=count).reshape(k, j, i)


def _volume(values: np.ndarray, directions: np.ndarray) -> Volume:
    """Turn (k, j, i) so that all axes run along LPS, and round to int16 HU.

    ``directions``: (3, 3), row a is the LPS step of array axis i, j or k.
    """
    sizes = np.abs(np.diag(directions))
    if not np.all(np.isfinite(directions)) or sizes.min() <= 0:
        raise DataError("a volume whose axes aren't those of the body")
    if np.abs(directions - np.diag(np.diag(directions))).max() > 1e-3 * sizes.min():
        raise DataError("a volume whose axes are turned against the body's")
    if abs(sizes[0] - sizes[1]) > 1e-3 * sizes[0]:
        raise DataError(f"pixels of {sizes[0]:g} x {sizes[1]:g} mm aren't square")
    i, j, k = (slice(None, None, -1) if directions[a, a] < 0 else slice(None) for a in range(3))
    hu = np.clip(np.rint(values[k, j, i]), -32768, 32767).astype(np.int16)
    return Volume(hu, float(sizes[0]), float(sizes[2]))
