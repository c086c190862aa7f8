"""Distances of slices: which are gaps, where slices are missing, and which are another step.

A head CT is thin through the skull base and thick above: nothing is missing there. A series of
which every second slice was lost has regular steps as well. Slice thickness, SpacingBetweenSlices
and InstanceNumber tell the two apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from ldct_jax.dicom.header import Header

GAP = 1.5
"""Steps from which on a distance is a gap."""
SAME_STEP = 0.03
"""Share by which equal steps may differ, and 0.05 mm for rounded positions."""


def step_of(positions_mm) -> float:
    """The usual (median) distance of neighbours, mm; NaN for fewer than two."""
    return float(np.median(np.diff(positions_mm))) if len(positions_mm) > 1 else math.nan


@dataclasses.dataclass(frozen=True)
class Steps:
    """``gaps``: (offset from the first slice, width, missing slices); ``changes``: (offset, old
    step, new step). Lengths in mm; ``step_mm`` is the usual step."""

    step_mm: float
    gaps: tuple[tuple[float, float, int], ...]
    changes: tuple[tuple[float, float, float], ...]

    @property
    def warning(self) -> str:
        """Missing slices in one line; "" for none."""
        if not self.gaps:
            return ""
        missing = sum(n for _, _, n in self.gaps)
        where = ", ".join(f"{width:.4g} mm at {at:.4g} mm" for at, width, _ in self.gaps[:3])
        slices, are = ("slice", "gap") if len(self.gaps) == missing == 1 else ("slices", "gaps")
        more = f" and {len(self.gaps) - 3} more" if len(self.gaps) > 3 else ""
        step = f"usual step {self.step_mm:.4g} mm"
        return f"about {missing} {slices} missing ({step}): {are} of {where}{more}"

    @property
    def remark(self) -> str:
        """Changes of the step in one line; "" for none."""
        told = [f"from {a:.4g} to {b:.4g} mm at {at:.4g} mm" for at, a, b in self.changes[:3]]
        more = f" and {len(self.changes) - 3} times more" if len(self.changes) > 3 else ""
        return f"the step changes {', '.join(told)}{more}" if told else ""


def steps_of(positions_mm: Sequence[float], headers: Sequence[Header]) -> Steps:
    """The steps of slices in ascending order, one header a position."""
    distances = np.diff(np.asarray(positions_mm, float))
    if not len(distances):
        return Steps(math.nan, (), ())
    runs = _runs(distances)
    numbered = _numbered(headers)
    smallest = float(distances.min())
    units = np.array(distances)  # what each distance should be
    for run in runs:
        if len(run) > 1 or len(runs) == 1:
            units[run] /= _every(run, distances, smallest, headers, numbered)
    regular = [run for run in runs if len(run) > 1]
    for run in runs:
        if len(run) == 1 and len(runs) > 1:
            k = run[0]
            before = [units[r[0]] for r in regular if r[0] < k][-1:]
            after = [units[r[0]] for r in regular if r[0] > k][:1]
            unit = max(before + after, default=smallest)
            explained = not regular and numbered is not None and numbered[k] == 1
            if distances[k] > GAP * unit and not (explained and _fills(headers, k, distances[k])):
                units[k] = unit
    missing = np.rint(distances / units).astype(int) - 1
    offsets = np.asarray(positions_mm) - positions_mm[0]
    gaps = [(offsets[k], distances[k], n) for k, n in enumerate(missing.tolist()) if n > 0]
    changes = [
        (offsets[b[0]], units[a[0]], units[b[0]])
        for a, b in itertools.pairwise(regular)
        if not _same(units[a[0]], units[b[0]])
    ]
    return Steps(float(np.median(units)), tuple(gaps), tuple(changes))


def _runs(distances: np.ndarray) -> list[list[int]]:
    """Indices of equal distances in a row."""
    runs = [[0]]
    for k in range(1, len(distances)):
        if _same(distances[k], distances[runs[-1][0]]):
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= max(SAME_STEP * max(a, b), 0.05)


def _numbered(headers: Sequence[Header]) -> np.ndarray | None:
    """How far apart neighbours are by InstanceNumber; None where these don't follow the order."""
    steps = np.diff([h.instance_number for h in headers])
    return np.abs(steps) if (steps > 0).all() or (steps < 0).all() else None


def _fills(headers: Sequence[Header], k: int, distance: float) -> bool:
    """Whether slices k and k + 1 are thick enough for their distance."""
    thickness = max(headers[k].thickness_mm, headers[k + 1].thickness_mm)
    return distance <= GAP * thickness


def _every(run, distances, smallest: float, headers, numbered) -> int:
    """2 where every second slice of a regular run is missing, 3 for two of three; 1 for none."""
    step, k = float(np.mean(distances[run])), run[0]
    if _fills(headers, k, step):
        return 1
    spacing = headers[k].spacing_mm
    times = [step / smallest, step / spacing if spacing > 0 else math.nan]
    if numbered is not None:
        skipped = int(np.median(numbered[run]))
        if skipped == 1 and (numbered[run] == 1).all():
            return 1
        times.append(skipped)
    # Without thickness and numbers a larger step is as good as the smaller one.
    elif not headers[k].thickness_mm > 0:
        return 1
    for n in times[::-1]:
        if n > GAP and abs(n - round(n)) < SAME_STEP * n:
            return round(n)
    return 1
