"""CT volumes in files that aren't DICOM: ``.npy`` arrays and NIfTI.

:func:`open_volume` looks at a file's header alone; its values are read by ``slices()``, once.
Slices come as DICOM shows them: upwards, rows to the back, columns to the patient's left (an array
has no directions, so it is taken as it is).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldct_jax.ct.no_data import check_slices_first, value_range
from ldct_jax.errors import DataError
from ldct_jax.system.files import DAMAGED_ARRAY

NIFTI = (".nii", ".nii.gz")
ENDINGS = (".npy", *NIFTI)
MAX_SIDE = 4096
MAX_VOXELS = 2**30
_SAME_PLACE_MM = 1.0


def is_volume(path: Path) -> bool:
    """Whether the file's name ends as one of :data:`ENDINGS`."""
    return path.name.lower().endswith(ENDINGS)


def is_nifti(path: Path) -> bool:
    """Whether the file's name ends as a NIfTI file's."""
    return path.name.lower().endswith(NIFTI)


def open_volume(path: Path) -> ArrayFile | NiftiFile:
    """The volume in a ``.npy`` or NIfTI file; raises DataError, which names the file."""
    if not is_nifti(path):
        return ArrayFile(path)
    import nibabel

    with _readable(path, "NIfTI file"):
        image = nibabel.load(path)
    return NiftiFile(image, path)


class ArrayFile:
    """A ``.npy`` array, (H, W) or (N, H, W) HU. ``shape`` is (N, H, W), ``affine`` None."""

    affine = None
    pixel_mm = step_mm = np.nan

    def __init__(self, path: Path):
        try:
            self._array = np.lib.format.open_memmap(path, "r")
        except (*DAMAGED_ARRAY, TypeError, OverflowError) as error:
            raise DataError(f"{path} is not a usable .npy file: {_line(error)}") from None
        shape = self._array.shape
        self.path, self.shape = path, (1, *shape) if len(shape) == 2 else shape
        _check_array(path, self.shape, self._array.dtype)
        if len(shape) == 3:
            check_slices_first(shape, str(path))

    def slices(self) -> np.ndarray:
        """(N, H, W), mapped: a slice is read from the disk when it is used."""
        return self._array.reshape(self.shape)

    def write(self, part: Path, results: Iterator[np.ndarray]) -> None:
        """Write float32 ``results``, a few slices (B, H, W) at a time, in this file's shape."""
        out = np.lib.format.open_memmap(part, "w+", np.float32, self._array.shape)
        _fill(out.reshape(self.shape), results)
        out.flush()


class NiftiFile:
    """A NIfTI image, cut across the axis that runs along the body.

    ``shape`` is (N, H, W), ``affine`` the file's own (4, 4), which is kept on writing; trailing
    axes of 1 as well; ``lps_affine`` is that of the slices (column, row, slice), as they come.
    ``pixel_mm`` is the size of a pixel along its row, ``step_mm`` the distance of slices.
    """

    def __init__(self, image, where: Path | str):
        from nibabel import affines, orientations

        self.path, self._image = where, image
        shape, self.affine = image.shape, image.affine
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise DataError(f"{where} is {len(shape)}-dimensional: a volume has 3 dimensions")
        with _readable(where, "NIfTI file"):
            own = orientations.io_orientation(self.affine)
        if not np.isfinite(own).all():
            raise DataError(f"{where}: its affine doesn't tell which axis runs along the body")
        lps = orientations.axcodes2ornt("LPS")
        self._to_lps = orientations.ornt_transform(own, lps)
        self._from_lps = orientations.ornt_transform(lps, own)
        self.lps_affine = self.affine @ orientations.inv_ornt_aff(self._to_lps, shape)
        columns, rows, slices = (int(i) for i in np.argsort(self._to_lps[:, 0]))
        self.shape = tuple(int(shape[i]) for i in (slices, rows, columns))
        sizes = affines.voxel_sizes(self.affine)
        self.pixel_mm, self.step_mm = float(sizes[columns]), float(sizes[slices])
        _check_array(where, self.shape, image.get_data_dtype())

    def slices(self) -> np.ndarray:
        """(N, H, W), scaled as the header says; reads the file each time it is called."""
        from nibabel.orientations import apply_orientation

        with _readable(self.path, "NIfTI file"):
            values = np.asanyarray(self._image.dataobj)
            values = values.reshape(values.shape[:3])
            return apply_orientation(values, self._to_lps).transpose(2, 1, 0)

    def write(self, part: Path, results: Iterator[np.ndarray]) -> None:
        """Write float32 ``results``, a few slices (B, H, W) at a time, with this file's affine."""
        import nibabel

        out = np.empty(self.shape, np.float32)
        _fill(out, results)
        out = nibabel.orientations.apply_orientation(out.transpose(2, 1, 0), self._from_lps)
        header = self._image.header.copy()
        header.set_data_dtype(np.float32)
        header.set_slope_inter(1, 0)
        result = type(self._image)(out.reshape(self._image.shape), self.affine, header)
        ending = ".nii.gz" if self.path.name.lower().endswith(".gz") else ".nii"
        named = part.with_name(part.name + ending)  # nibabel goes by the name
        try:
            nibabel.save(result, named)
            named.replace(part)
        finally:
            named.unlink(missing_ok=True)


def checked_slices(file: ArrayFile | NiftiFile) -> tuple[np.ndarray, str]:
    """(``file.slices()``, a doubt about their values or ""); DataError for what can't be HU."""
    stack = file.slices()
    if stack.dtype.kind == "f" and not all(np.isfinite(image).all() for image in stack):
        raise DataError(f"{file.path} holds NaN or infinite values; replace them first")
    values = value_range(stack)
    if values.impossible:
        raise DataError(f"{file.path}: {values.impossible}")
    return stack, f"{file.path}: {values.doubt}" if values.doubt else ""


def same_place(a: ArrayFile | NiftiFile, b: ArrayFile | NiftiFile) -> bool:
    """Whether two volumes of one shape show the same place to 1 mm, as far as they say."""
    if a.affine is None or b.affine is None:
        return True
    # Slice beside slice: the two files may hold them in two orientations.
    corners = np.array(np.meshgrid(*((0, n - 1) for n in reversed(a.shape)))).reshape(3, -1)
    apart = (a.lps_affine - b.lps_affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    return a.shape == b.shape and bool((np.abs(apart) < _SAME_PLACE_MM).all())


class _readable:
    """A damaged file may raise anything in its reader, which may warn of it too: one DataError."""

    def __init__(self, where: Path | str, kind: str):
        self._where, self._kind = where, kind
        self._warnings = warnings.catch_warnings()

    def __enter__(self):
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind, error, trace):
        self._warnings.__exit__(kind, error, trace)
        if isinstance(error, Exception) and not isinstance(error, DataError):
            raise DataError(f"{self._where} is not a usable {self._kind}: {_line(error)}") from None


def _fill(out: np.ndarray, results: Iterator[np.ndarray]) -> None:
    at = 0
    for result in results:
        out[at : at + len(result)] = result
        at += len(result)


def _check_array(path: Path | str, shape: tuple[int, ...], dtype) -> None:
    if np.dtype(dtype).kind not in "iuf":
        raise DataError(f"{path} holds {dtype}, not HU")
    if len(shape) != 3:
        raise DataError(f"{path} has the shape {shape}: give (H, W) or (N, H, W)")
    slices, rows, columns = shape
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise DataError(f"{path}: {rows} x {columns} pixels, but 1 to {MAX_SIDE} are possible")
    if slices < 1 or slices * rows * columns > MAX_VOXELS:
        raise DataError(f"{path}: {slices} slices of {rows} x {columns} pixels are not possible")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
