"""How each slice was scanned: what a trained model must know to say what it has not seen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from ldct_jax.errors import DataError

PHANTOMS = "phantoms"
"""Stands for the kernel of images that no scanner made."""


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """One entry a slice; empty or NaN where the source didn't say.

    Args:
      kernels: N names of the reconstruction kernel.
      field_of_view_mm: (N,) side of the reconstructed square, mm; a crop doesn't change it.
      kvp: (N,) tube voltage, kV.
      dose: (N,) low dose as a fraction, where each slice has one of its own; NaN where the pairs'
        ``dose`` or ``doses`` tells it.
    """

    kernels: tuple[str, ...]
    field_of_view_mm: np.ndarray
    kvp: np.ndarray
    dose: np.ndarray

    def __post_init__(self):
        n = len(self.kernels)
        for name in ("field_of_view_mm", "kvp", "dose"):
            if np.shape(getattr(self, name)) != (n,):
                raise DataError(f"{n} kernels but {name} of shape {np.shape(getattr(self, name))}")

    @classmethod
    def uniform(
        cls,
        n: int,
        *,
        kernel: str = "",
        field_of_view_mm: float = np.nan,
        kvp: float = np.nan,
        dose: float = np.nan,
    ) -> Acquisition:
        """``n`` slices scanned alike; without values, unknown ones."""
        values = (np.full(n, v, float) for v in (field_of_view_mm, kvp, dose))
        return cls((kernel,) * n, *values)

    def __len__(self) -> int:
        return len(self.kernels)

    def take(self, index: np.ndarray) -> Acquisition:
        """The slices at ``index`` (integers), in that order."""
        return Acquisition(
            tuple(self.kernels[i] for i in index),
            self.field_of_view_mm[index],
            self.kvp[index],
            self.dose[index],
        )


def same_kernel(wanted: str, kernel: str) -> bool:
    """Whether a user's ``Br40f`` means the kernel that a file calls ``Br40f\\3``.

    Case and the strength of an iterative reconstruction don't count, unless the user names one.
    """

    def plain(text: str) -> str:
        return " ".join(text.replace("\\", " ").lower().split())

    wanted, kernel = plain(wanted), plain(kernel)
    return wanted in (kernel, re.sub(r" [0-9]$", "", kernel))


def joined(parts: Sequence[Acquisition]) -> Acquisition:
    """The slices of ``parts``, one after the other."""
    return Acquisition(
        tuple(kernel for p in parts for kernel in p.kernels),
        np.concatenate([p.field_of_view_mm for p in parts]),
        np.concatenate([p.kvp for p in parts]),
        np.concatenate([p.dose for p in parts]),
    )


def span(values: np.ndarray) -> list[float] | None:
    """[least, greatest] of the known values, for JSON; None where none is known."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not known.size:
        return None
    return [round(float(known.min()), 4), round(float(known.max()), 4)]
