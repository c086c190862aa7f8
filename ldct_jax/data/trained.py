"""What a model was trained on, and whether an image lies outside of it."""

from __future__ import annotations

import dataclasses
import math

TOLERANCE = 0.05
"""Relative: 1.25 mm is written as 1.2 or 1.3, 120 kVp as 119.9."""


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
        parts = ["kernels " + ", ".join(self.kernels) if self.kernels else ""]
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
        if kernel and self.kernels and kernel.upper() not in {k.upper() for k in self.kernels}:
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


def _span(span) -> str:
    low, high = span
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
