"""How slices were scanned: what a model must know of its training to say what it hasn't seen."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

from ldct_jax.errors import DataError

PHANTOMS = "phantoms"
"""Stands for the kernel of images that no scanner made."""
TOLERANCE = 0.05
"""Relative: 1.25 mm is written as 1.2 or 1.3, 120 kVp as 119.9."""

LIST_CHARACTERS = 400
"""Of the kernels in a header, whose 1024 have to hold more; an archive has a hundred kernels."""


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


@dataclasses.dataclass(frozen=True)
class Trained:
    """The range of a model's training images, as its checkpoint stores it under ``trained_on``.

    Ranges are (least, greatest), or None where unknown. ``dose`` is a fraction of normal dose.
    """

    kernels: tuple[str, ...] = ()
    thickness_mm: tuple[float, float] | None = None
    field_of_view_mm: tuple[float, float] | None = None
    kvp: tuple[float, float] | None = None
    dose: tuple[float, float] | None = None

    @classmethod
    def from_record(cls, record: dict | None) -> Trained | None:
        """From the JSON of a checkpoint's record; None where it says nothing."""
        if not record:
            return None
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(
            **{k: tuple(v) for k, v in record.items() if k in known and v is not None}  # JSON lists
        )

    @property
    def words(self) -> str:
        """For a header: kernels, slice thickness and dose."""
        parts = [f"kernels {_first(self.kernels)}" if self.kernels else ""]
        if self.thickness_mm:
            parts.append(f"slices of {_span(self.thickness_mm)} mm")
        if self.dose:
            parts.append(f"dose {_span([100 * d for d in self.dose])} %")
        return ", ".join(p for p in parts if p)

    def outside(
        self, *, kernel: str, thickness_mm: float, field_of_view_mm: float, kvp: float
    ) -> list[str]:
        """What of one series differs from the training images, in words; NaN is unknown."""
        found = []
        if kernel and self.kernels and not any(same_kernel(k, kernel) for k in self.kernels):
            found.append(f"kernel {kernel}, trained on {', '.join(self.kernels)}")
        for what, value, span, unit in (
            ("slice thickness", thickness_mm, self.thickness_mm, "mm"),
            ("field of view", field_of_view_mm, self.field_of_view_mm, "mm"),
            ("tube voltage", kvp, self.kvp, "kVp"),
        ):
            if span is None or math.isnan(value):
                continue
            low, high = span
            if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE):
                found.append(f"{what} {value:.4g} {unit}, trained on {_span(span)} {unit}")
        return found


def joined_ranges(*records: dict | None) -> dict | None:
    """The JSON of :class:`Trained` that covers all of ``records``; None where nothing is known."""
    known = [r for r in records if r]
    if not known:
        return None
    names = [f.name for f in dataclasses.fields(Trained) if f.name != "kernels"]
    spans = {name: [v for r in known for v in r.get(name) or ()] for name in names}
    kernels = sorted({k for r in known for k in r.get("kernels", ())})
    return {"kernels": kernels} | {name: span(np.array(values)) for name, values in spans.items()}


def _first(names: Sequence[str]) -> str:
    """As many of ``names`` as :data:`LIST_CHARACTERS` hold, at least one, and how many more."""
    ends = itertools.accumulate(len(name) + 2 for name in names)
    n = max(1, sum(end <= LIST_CHARACTERS for end in ends))
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if n < len(names) else "")


def _span(span) -> str:
    low, high = span
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
