"""Paired slices in memory: what every feed, experiment and evaluation starts from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from ldct_jax.data.acquisition import Acquisition, joined, span
from ldct_jax.data.feed.mapped import MappedStack
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
      doses: (N,) the low dose of each slice, where several doses stand together; else None.
      acquisition: how each slice was scanned; None where nothing is known of it.
    """

    low_hu: np.ndarray
    full_hu: np.ndarray
    patients: tuple[str, ...]
    pixel_mm: np.ndarray
    slice_mm: np.ndarray
    source: str
    attribution: str = ""
    dose: float | None = None
    doses: np.ndarray | None = None
    acquisition: Acquisition | None = None

    def __post_init__(self):
        n = len(self.patients)
        if self.low_hu.shape != self.full_hu.shape or self.low_hu.ndim != 3:
            raise DataError(
                f"low and normal dose must be equal stacks of slices, not {self.low_hu.shape} and "
                f"{self.full_hu.shape}: pair them by position first"
            )
        if n == 0 or len(self.low_hu) != n:
            raise DataError(f"{len(self.low_hu)} slices but {n} patient labels")
        if self.doses is not None and self.doses.shape != (n,):
            raise DataError(f"{n} slices but {self.doses.shape} doses: one a slice is needed")
        if self.acquisition is not None and len(self.acquisition) != n:
            raise DataError(f"{n} slices but {len(self.acquisition)} acquisitions: one a slice")
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
            doses=None if self.doses is None else self.doses[index],
            acquisition=None if self.acquisition is None else self.acquisition.take(index),
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

    def central(self, height: int, width: int) -> PairedSlices:
        """The central ``height`` x ``width`` pixels of every slice, in memory."""
        h, w = self.low_hu.shape[1:]
        if height > h or width > w:
            raise DataError(f"{height}x{width} pixels can't be cut from slices of {h}x{w}")
        top, left = (h - height) // 2, (w - width) // 2
        place = np.s_[:, top : top + height, left : left + width]
        low, full = (
            np.ascontiguousarray(np.asarray(s)[place]) for s in (self.low_hu, self.full_hu)
        )
        return dataclasses.replace(self, low_hu=low, full_hu=full)

    @property
    def dose_levels(self) -> tuple[float | None, ...]:
        """The distinct low doses in order of first appearance; one, where all slices have it."""
        return (self.dose,) if self.doses is None else tuple(dict.fromkeys(self.doses.tolist()))

    def at(self, dose: float | None) -> PairedSlices:
        """The slices of one of :attr:`dose_levels`."""
        if dose not in self.dose_levels:
            raise DataError(f"no slices at dose {dose}; there are {self.dose_levels}")
        if self.doses is None:
            return self
        return dataclasses.replace(
            self.take(np.flatnonzero(self.doses == dose)), dose=dose, doses=None
        )

    def _doses_of_slices(self) -> np.ndarray:
        """(N,) the dose of each slice, NaN where the data don't say."""
        if self.doses is not None:
            return self.doses
        return np.full(len(self), np.nan if self.dose is None else self.dose)

    def trained_on(self, patients: Iterable[str], doses: Sequence[float] = ()) -> dict | None:
        """The range of some patients' slices, as a checkpoint records what it was trained on.

        Args:
          patients: the training patients.
          doses: those trained on, of several; empty for all.

        Returns: JSON that :class:`ldct_jax.data.acquisition.Trained` reads; None where nothing is
          known of how the slices were scanned.
        """
        if self.acquisition is None:
            return None
        found = self.acquisition
        dose = self._doses_of_slices()
        chosen = np.isin(self.patients, list(patients))
        if len(doses):
            chosen &= np.isin(dose, doses)
        kernels = {k for k, used in zip(found.kernels, chosen, strict=True) if used and k}
        return {
            "kernels": sorted(kernels),
            "thickness_mm": span(self.slice_mm[chosen]),
            "field_of_view_mm": span(found.field_of_view_mm[chosen]),
            "kvp": span(found.kvp[chosen]),
            "dose": span(np.where(np.isnan(dose), found.dose, dose)[chosen]),
        }

    def sample(self, per_patient: int, seed: int) -> PairedSlices:
        """``per_patient`` random slices of each patient (all, where there are fewer).

        Where there are several doses: the same slices at every dose.
        """
        if self.doses is not None:
            return concatenate([self.at(d).sample(per_patient, seed) for d in self.dose_levels])
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for name in self.patient_names:
            own = [i for i, p in enumerate(self.patients) if p == name]
            chosen += sorted(rng.permutation(own)[:per_patient].tolist())
        return self.take(chosen)


def concatenate(parts: Sequence[PairedSlices]) -> PairedSlices:
    """The slices of several stacks, one stack after the other; every slice keeps its dose.

    Words and attribution are those of the first. Stacks on the disk stay there.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if len({p.low_hu.shape[1:] for p in parts}) > 1:
        raise DataError("only slices of one matrix size can be put together")
    on_disk = any(isinstance(p.low_hu, MappedStack) for p in parts)
    stack = MappedStack if on_disk else np.concatenate
    doses = np.concatenate([p._doses_of_slices() for p in parts])
    scanned = [p.acquisition for p in parts]
    if any(a is not None for a in scanned):
        scanned = [
            Acquisition.uniform(len(p)) if a is None else a
            for p, a in zip(parts, scanned, strict=True)
        ]
    one = len(set(doses.tolist())) == 1 or np.isnan(doses).all()
    return dataclasses.replace(
        first,
        low_hu=stack([p.low_hu for p in parts]),
        full_hu=stack([p.full_hu for p in parts]),
        patients=tuple(name for p in parts for name in p.patients),
        pixel_mm=np.concatenate([p.pixel_mm for p in parts]),
        slice_mm=np.concatenate([p.slice_mm for p in parts]),
        dose=first.dose if one else None,
        doses=None if one else doses,
        acquisition=None if scanned[0] is None else joined(scanned),
    )
