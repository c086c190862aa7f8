"""HU volumes that aren't DICOM, ``.npy`` arrays and NIfTI files, through a model.

Results are float32 HU under the input's name; a NIfTI keeps its affine and its header. What holds
no data is shown to the model as air and comes out as it went in.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ldct_jax.ct.no_data import Range, air_filled, no_data
from ldct_jax.data.volumes import open_volume
from ldct_jax.denoise.models import Denoiser
from ldct_jax.denoise.summary import Result
from ldct_jax.denoise.targets import is_finished
from ldct_jax.dicom.derive import Processing
from ldct_jax.errors import DataError
from ldct_jax.system.files import write_whole
from ldct_jax.system.names import shown


class VolumeJob:
    """One file to be denoised into the folder ``out``; ``root`` is the IN that names are kept of.

    The constructor looks at the header alone; it raises DataError for what can't be used.
    """

    def __init__(
        self, path: Path, root: Path, out: Path, processing: Processing, *, overwrite: bool = False
    ):
        self.path, self.out, self.overwrite = path, out, overwrite
        self.processing = processing
        self.target = out / (path.relative_to(root) if root.is_dir() else path.name)
        self.name = shown(path, root)
        self.volume = open_volume(path)
        n, *matrix = self.volume.shape
        self.result = Result(name=self.name, slices=n, matrix=tuple(matrix))
        self.key = ""

    def plan(self, finished: dict[str, str]) -> int:
        """How many slices are left to do; ``finished`` maps results to the keys they have.

        Raises LdctError where another file is in the way.
        """

        def is_result() -> bool:
            digest, _ = _checked(self.volume.slices(), self.path)
            return finished.get(self.name) == self.processing.uid("volume", digest)

        if is_finished(self.target, self.out, is_result, overwrite=self.overwrite):
            self.result.kept = self.result.slices
        return self.result.slices - self.result.kept

    def run(
        self,
        denoiser: Denoiser,
        advance: Callable[[], None],
        doubt: Callable[[Result, str], None],
    ) -> Result:
        """Denoise the file a few slices at a time, read once; NumericsError leaves nothing behind.

        ``doubt`` is called where the values can't be HU, before anything is computed, and where
        the result can't be right; what it raises leaves nothing behind either.
        """
        if self.result.kept:
            return self.result
        began = time.monotonic()
        slices = self.volume.slices()
        digest, values = _checked(slices, self.path)
        self.key = self.processing.uid("volume", digest)
        if values.doubt:
            doubt(self.result, values.doubt)

        def results() -> Iterator[np.ndarray]:
            of_this = denoiser.for_series(lambda i: air_filled(slices[i])[0], len(slices))
            for k in range(0, len(slices), denoiser.batch):
                part = slices[k : k + denoiser.batch]
                yield self._denoised(part, of_this)
                advance(len(part))
            if self.result.doubt:
                doubt(self.result, self.result.doubt)

        write_whole(self.target, lambda part: self.volume.write(part, results()))
        self.result.seconds = time.monotonic() - began
        return self.result

    def _denoised(self, hu: np.ndarray, denoiser: Denoiser) -> np.ndarray:
        """A few slices (B, H, W) → float32; counts their statistics."""
        before = np.asarray(hu, np.float32)
        air, empty = air_filled(before)
        result = air + np.float32(self.processing.blend) * (denoiser.run(air) - air)
        after = result if empty is None else np.where(empty, before, result)
        masks = [None] * len(before) if empty is None else empty
        for one, other, mask in zip(before, after, masks, strict=True):
            self.result.add(one, other - one, mask)
            self.result.cut_by_window += denoiser.cut(one, mask)
        return after


def _checked(slices: np.ndarray, path: Path) -> tuple[str, Range]:
    """(sha256, range) of the values (N, H, W); raises DataError for NaN."""
    digest, values = hashlib.sha256(repr((slices.shape, slices.dtype.str)).encode()), Range()
    for image in slices:
        image = np.ascontiguousarray(image)
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise DataError(f"{path} holds NaN or infinite values; replace them first")
        digest.update(image.data)
        values.add(image, no_data(image))
    return digest.hexdigest(), values
