"""HU volumes that are no DICOM: ``.npy`` arrays and NIfTI files, through a model.

Results are float32 HU under the input's name; a NIfTI keeps its affine and its header. Values
that no tissue has (scanners' "no data" as -2000 or -3024) are shown to the model as air and
restored as they were.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ldct_jax.denoise.denoisers import Denoiser
from ldct_jax.denoise.files import check_target, sha256_of, write_whole
from ldct_jax.denoise.summary import Result
from ldct_jax.dicom.derive import Processing
from ldct_jax.errors import DataError, LdctError

ENDINGS = (".npy", ".nii", ".nii.gz")
NO_DATA_BELOW_HU = -1500
AIR_HU = -1024.0
MAX_SIDE = 4096
MAX_SLICES = 20_000


def is_volume(path: Path) -> bool:
    """Whether the file's name ends as one of :data:`ENDINGS`."""
    return path.name.lower().endswith(ENDINGS)


class VolumeJob:
    """One file to be denoised into ``out``. ``finished`` maps results to the keys they have.

    The constructor checks the file (raises DataError); ``plan`` and ``run`` are those of a series.
    """

    def __init__(
        self,
        path: Path,
        root: Path,
        out: Path,
        *,
        overwrite: bool = False,
    ):
        self.path, self.out, self.overwrite = path, out, overwrite
        relative = path.relative_to(root) if root.is_dir() else Path(path.name)
        self.target = out / relative
        self.name = relative.as_posix()
        self.volume = _Npy(path) if path.suffix == ".npy" else _Nifti(path)
        n, *matrix = self.volume.shape
        self.result = Result(name=self.name, slices=n, matrix=tuple(matrix))
        self.key = ""

    def plan(self, processing: Processing, finished: dict[str, str]) -> int:
        """How many slices are left to do; raises LdctError where another file is in the way."""
        check_target(self.target, self.out)
        self.key = processing.uid("volume", sha256_of(self.path))
        if self.target.exists() and not self.overwrite:
            if finished.get(self.name) != self.key:
                raise LdctError(
                    f"{self.target} exists and isn't this result: choose another OUT folder, or "
                    "say --overwrite"
                )
            self.result.kept = self.result.slices
            return 0
        return self.result.slices

    def run(
        self, denoiser: Denoiser, processing: Processing, advance: Callable[[], None]
    ) -> Result:
        """Denoise the file slice by slice; NumericsError for NaN leaves nothing behind."""
        if self.result.kept:
            return self.result
        began = time.monotonic()

        def write(part: Path) -> None:
            self.volume.write(part, lambda hu: self._slices(hu, denoiser, processing, advance))

        write_whole(self.target, write)
        self.result.seconds = time.monotonic() - began
        return self.result

    def _slices(self, hu: np.ndarray, denoiser: Denoiser, processing, advance) -> np.ndarray:
        """A few slices (B, H, W) → float32; counts their statistics."""
        before = np.asarray(hu, np.float32)
        if not np.isfinite(before).all():
            raise DataError(f"{self.path} holds NaN or infinite values; replace them first")
        inside = before >= NO_DATA_BELOW_HU
        filled = np.where(inside, before, np.float32(AIR_HU))
        result = filled + np.float32(processing.blend) * (denoiser.run(filled) - filled)
        after = np.where(inside, result, before)
        for b, a, i in zip(before, after, inside, strict=True):
            self.result.add(b, a, i)
            if denoiser.window is not None and denoiser.window.clip:
                outside = (b < denoiser.window.low) | (b > denoiser.window.high)
                self.result.cut_by_window += int(np.count_nonzero(outside & i))
            advance()
        return after

    def batch(self, denoiser: Denoiser) -> int:
        return denoiser.batch


class _Npy:
    """A mapped array (H, W) or (N, H, W)."""

    def __init__(self, path: Path):
        try:
            self.array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError) as error:
            raise DataError(f"{path} is no usable .npy file: {_line(error)}") from None
        _check_array(path, self.array.shape, self.array.dtype)
        h, w = self.array.shape[-2:]
        self.shape = (1 if self.array.ndim == 2 else len(self.array), h, w)

    def write(self, part: Path, denoise: Callable[[np.ndarray], np.ndarray], batch=1) -> None:
        out = np.lib.format.open_memmap(part, "w+", np.float32, self.array.shape)
        slices, results = self.array.reshape(self.shape), out.reshape(self.shape)
        for k in range(0, len(slices), batch):
            results[k : k + batch] = denoise(slices[k : k + batch])
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
        along = [i for i, code in enumerate(axes) if code in ("S", "I")]
        if len(along) != 1:
            raise DataError(f"{path}: its affine doesn't tell which axis runs along the body")
        # Slices first, then rows (back to front) and columns (right to left), as DICOM has them.
        rows = [i for i, code in enumerate(axes) if code in ("A", "P")]
        columns = [i for i, code in enumerate(axes) if code in ("L", "R")]
        self.order = (*along, *rows, *columns)
        self.shape = tuple(int(shape[i]) for i in self.order)
        _check_array(path, self.shape, dtype)

    def write(self, part: Path, denoise: Callable[[np.ndarray], np.ndarray], batch=1) -> None:
        import nibabel

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = np.asanyarray(self.image.dataobj).transpose(self.order)
        except Exception as error:
            raise DataError(f"{self.path} is no usable NIfTI file: {_line(error)}") from None
        out = np.empty(self.shape, np.float32)
        for k in range(0, len(values), batch):
            out[k : k + batch] = denoise(values[k : k + batch])
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


def _check_array(path: Path, shape: tuple[int, ...], dtype) -> None:
    if np.dtype(dtype).kind not in "iuf":
        raise DataError(f"{path} holds {dtype}, not HU")
    if len(shape) not in (2, 3):
        raise DataError(f"{path} has the shape {shape}: give (H, W) or (N, H, W)")
    if not all(1 <= side <= MAX_SIDE for side in shape[-2:]):
        raise DataError(f"{path}: {shape[-2]} x {shape[-1]} pixels, but 1 to {MAX_SIDE} are possible")
    if len(shape) == 3 and not 1 <= shape[0] <= MAX_SLICES:
        raise DataError(f"{path}: {shape[0]} slices, but 1 to {MAX_SLICES} are possible")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
