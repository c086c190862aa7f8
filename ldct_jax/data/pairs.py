"""Paired slices in memory: what every feeder, experiment and evaluation starts from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from ldct_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class PairedSlices:
    """Low-dose and normal-dose slices of several patients, pair by pair.

    Args:
      low_hu, full_hu: (N, H, W) int16, HU; all slices of one matrix size.
      patients: N labels, one a slice. They are pseudonyms (``phantom-03``, a salted hash), never
        names or IDs; a patient with two series has one label.
      pixel_mm: (N,) side of a pixel, mm.
      slice_mm: (N,) slice thickness, mm.
      source: what the images are and how the low dose was made, in words for a report.
      attribution: whom to cite where images or figures of them are shown; may be empty.
      dose: low dose as a fraction of the normal dose, or None where the data don't say.
    """

    low_hu: np.ndarray
    full_hu: np.ndarray
    patients: tuple[str, ...]
    pixel_mm: np.ndarray
    slice_mm: np.ndarray
    source: str
    attribution: str = ""
    dose: float | None = None

    def __post_init__(self):
        n = len(self.patients)
        if self.low_hu.shape != self.full_hu.shape or self.low_hu.ndim != 3:
            raise DataError(
                f"low and normal dose must be equal stacks of slices, not {self.low_hu.shape} and "
                f"{self.full_hu.shape}: pair them by position first"
            )
        if n == 0 or len(self.low_hu) != n:
            raise DataError(f"{len(self.low_hu)} slices but {n} patient labels")
        if self.low_hu.dtype != np.int16 or self.full_hu.dtype != np.int16:
            raise DataError(
                f"slices must be int16 HU, not {self.low_hu.dtype} and {self.full_hu.dtype}"
            )

    def digest(self) -> str:
        """sha256 of all pixels, slice by slice, so that stacks on the disk needn't fit memory."""
        found = hashlib.sha256(repr((self.low_hu.shape, self.patients)).encode())
        for stack in (self.low_hu, self.full_hu):
            for i in range(len(stack)):
                found.update(np.ascontiguousarray(stack[i]).data)
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def patient_names(self) -> tuple[str, ...]:
        """The distinct patients in order of first appearance."""
        return tuple(dict.fromkeys(self.patients))

    def take(self, indices: Iterable[int]) -> PairedSlices:
        """The slices at ``indices``, in that order."""
        index = np.asarray(list(indices), dtype=int)
        return dataclasses.replace(
            self,
            low_hu=self.low_hu[index],
            full_hu=self.full_hu[index],
            patients=tuple(self.patients[i] for i in index),
            pixel_mm=self.pixel_mm[index],
            slice_mm=self.slice_mm[index],
        )

    def of(self, patients: Iterable[str]) -> PairedSlices:
        """All slices of the named patients."""
        wanted = set(patients)
        if unknown := wanted - set(self.patients):
            raise DataError(
                f"no such patient: {', '.join(sorted(unknown))}; "
                f"there are {', '.join(self.patient_names)}"
            )
        return self.take(i for i, p in enumerate(self.patients) if p in wanted)

    def sample(self, per_patient: int, seed: int) -> PairedSlices:
        """``per_patient`` random slices of each patient (all, where there are fewer)."""
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for name in self.patient_names:
            own = [i for i, p in enumerate(self.patients) if p == name]
            chosen += sorted(rng.permutation(own)[:per_patient].tolist())
        return self.take(chosen)
