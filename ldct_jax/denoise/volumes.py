"""HU volumes that are no DICOM: ``.npy`` arrays and NIfTI files, through a model.

Results are float32 HU under the input's name; a NIfTI keeps its affine and its header. Values
that no tissue has (scanners' "no data" as -2000 or -3024) are shown to the model as air and
restored as they were.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ldct_jax.denoise.models import Denoiser
from ldct_jax.denoise.summary import Result
from ldct_jax.denoise.targets import check_target
from ldct_jax.dicom.derive import Processing
from ldct_jax.dicom.pixels import AIR_HU
from ldct_jax.errors import DataError, LdctError
from ldct_jax.system.files import DAMAGED_ARRAY, sha256, write_whole

ENDINGS = (".npy", ".nii", ".nii.gz")
NO_DATA_BELOW_HU = -1500
MAX_SIDE = 4096
MAX_VOXELS = 2**30
LEAST_HU_RANGE = 10
"""HU without any value beyond this are more likely network units."""


def is_volume(path: Path) -> bool:
    """Whether the file's name ends as one of :data:`ENDINGS`."""
    return path.name.lower().endswith(ENDINGS)


class VolumeJob:
    """One file to be denoised into the folder ``out``; ``root`` is the IN that names are kept of.

    The constructor reads the file once; it raises DataError for what can't be used.
    """

    def __init__(self, path: Path, root: Path, out: Path, *, overwrite: bool = False):
        self.path, self.out, self.overwrite = path, out, overwrite
        relative = path.relative_to(root) if root.is_dir() else Path(path.name)
        self.target, self.name = out / relative, relative.as_posix()
        self.volume = _Npy(path) if path.name.lower().endswith(".npy") else _Nifti(path)
        n, *matrix = self.volume.shape
        self.result = Result(name=self.name, slices=n, matrix=tuple(matrix))
        if not _finite(self.volume.slices()):
            raise DataError(f"{path} holds NaN or infinite values; replace them first")
        if self.volume.largest() < LEAST_HU_RANGE:
            self.result.warnings.append("its values hardly differ from 0: are they HU?")
        self.key = ""

    def plan(self, processing: Processing, finished: dict[str, str]) -> int:
        """How many slices are left to do; ``finished`` maps results to the keys they have.

        Raises LdctError where another file is in the way.
        """
        check_target(self.target, self.out)
        self.key = processing.uid("volume", sha256(self.path))
        if self.target.exists() and not self.overwrite:
            if finished.get(self.name) != self.key:
                raise LdctError(
                    f"{self.target} exists and isn't this result: choose another OUT folder, or "
                    "say --overwrite"
                )
            self.result.kept = self.result.slices
        return self.result.slices - self.result.kept

    def run(
        self, denoiser: Denoiser, processing: Processing, advance: Callable[[], None]
    ) -> Result:
        """Denoise the file a few slices at a time; NumericsError for NaN leaves nothing behind."""
        if self.result.kept:
            return self.result
        began = time.monotonic()

        def results() -> Iterator[np.ndarray]:
            slices = self.volume.slices()
            of_this = denoiser.for_series(lambda i: _filled(slices[i])[0], len(slices))
            for k in range(0, len(slices), denoiser.batch):
                yield self._denoised(slices[k : k + denoiser.batch], of_this, processing.blend)
                advance(len(slices[k : k + denoiser.batch]))

        write_whole(self.target, lambda part: self.volume.write(part, results()))
        self.result.seconds = time.monotonic() - began
        return self.result

    def _denoised(self, hu: np.ndarray, denoiser: Denoiser, blend: float) -> np.ndarray:
        """A few slices (B, H, W) → float32; counts their statistics."""
        before = np.asarray(hu, np.float32)
        filled, inside = _filled(before)
        result = filled + np.float32(blend) * (denoiser.run(filled) - filled)
        after = np.where(inside, result, before)
        self.result.add(before, after, ~inside, slices=len(before))
        if denoiser.window is not None and denoiser.window.clip:
            outside = (before < denoiser.window.low) | (before > denoiser.window.high)
            self.result.cut_by_window += int(np.count_nonzero(outside & inside))
        return after


def _filled(hu) -> tuple[np.ndarray, np.ndarray]:
    """(HU with air where there is no data, where there is): float32 and bool."""
    hu = np.asarray(hu, np.float32)
    inside = hu >= NO_DATA_BELOW_HU
    return np.where(inside, hu, np.float32(AIR_HU)), inside


class _Npy:
    """A mapped array (H, W) or (N, H, W)."""

    def __init__(self, path: Path):
        try:
            self.array = np.lib.format.open_memmap(path, "r")
        except (*DAMAGED_ARRAY, TypeError, OverflowError) as error:
            raise DataError(f"{path} is no usable .npy file: {_line(error)}") from None
        shape = self.array.shape
        self.shape = (1, *shape) if len(shape) == 2 else shape
        _check_array(path, self.shape, self.array.dtype)

    def slices(self) -> np.ndarray:
        """(N, H, W), not yet read."""
        return self.array.reshape(self.shape)

    def largest(self) -> float:
        return max(float(np.abs(image.astype(np.float64)).max()) for image in self.slices())

    def write(self, part: Path, results: Iterator[np.ndarray]) -> None:
        out = np.lib.format.open_memmap(part, "w+", np.float32, self.array.shape)
        _fill(out.reshape(self.shape), results)
        out.flush()


class _Nifti:
    """A NIfTI image (X, Y, Z), cut across the axis that runs along the body."""

    def __init__(self, path: Path):
        try:
            import nibabel
        except ImportError:
            raise DataError(
                f"{path}: NIfTI needs nibabel; install the extra: pip install 'ldct-jax[dicom]'"
            ) from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.image = nibabel.load(path)
                shape, dtype = self.image.shape, self.image.get_data_dtype()
                axes = nibabel.aff2axcodes(self.image.affine)
        except Exception as error:  # a damaged header may raise anything in its reader
            raise DataError(f"{path} is no usable NIfTI file: {_line(error)}") from None
        self.path = path
        if len(shape) != 3:
            raise DataError(f"{path} is {len(shape)}-dimensional: a volume has 3 dimensions")
        # Slices first, then rows (front to back) and columns, as DICOM has them.
        order = [i for codes in ("SI", "AP", "LR") for i, c in enumerate(axes) if c and c in codes]
        if len(order) != 3:
            raise DataError(f"{path}: its affine doesn't tell which axis runs along the body")
        self.order = tuple(order)
        self.shape = tuple(int(shape[i]) for i in self.order)
        _check_array(path, self.shape, dtype)

    def slices(self) -> np.ndarray:
        """(N, H, W) HU, read anew each time: a folder of volumes doesn't pile up in memory."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = np.asanyarray(self.image.dataobj)
        except Exception as error:
            raise DataError(f"{self.path} is no usable NIfTI file: {_line(error)}") from None
        return values.transpose(self.order)

    def largest(self) -> float:
        values = self.slices()
        return max(abs(float(values.max())), abs(float(values.min())))

    def write(self, part: Path, results: Iterator[np.ndarray]) -> None:
        import nibabel

        out = np.empty(self.shape, np.float32)
        _fill(out, results)
        header = self.image.header.copy()
        header.set_data_dtype(np.float32)
        header.set_slope_inter(1, 0)
        result = type(self.image)(out.transpose(np.argsort(self.order)), self.image.affine, header)
        ending = ".nii.gz" if self.path.name.lower().endswith(".gz") else ".nii"
        named = part.with_name(part.name + ending)  # nibabel goes by the name
        try:
            nibabel.save(result, named)
            named.replace(part)
        finally:
            named.unlink(missing_ok=True)


def _fill(out: np.ndarray, results: Iterator[np.ndarray]) -> None:
    at = 0
    for result in results:
        out[at : at + len(result)] = result
        at += len(result)


def _finite(slices: np.ndarray) -> bool:
    return slices.dtype.kind != "f" or all(np.isfinite(image).all() for image in slices)


def _check_array(path: Path, shape: tuple[int, ...], dtype) -> None:
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
