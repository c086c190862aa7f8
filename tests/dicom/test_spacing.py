"""Missing slices are told; another step is not a gap."""

from __future__ import annotations

import dataclasses

import pytest

from ldct_jax.dicom.spacing import steps_of

pytestmark = pytest.mark.core
NAN = float("nan")


@dataclasses.dataclass
class Slice:
    instance_number: int
    thickness_mm: float = 5.0
    spacing_mm: float = NAN


def steps(positions, numbers=None, thickness=5.0, spacing=NAN):
    n = len(positions)
    thick = thickness if isinstance(thickness, list) else [thickness] * n
    numbers = list(numbers or range(1, n + 1))
    slices = [Slice(k, t, spacing) for k, t in zip(numbers, thick, strict=True)]
    return steps_of(positions, slices)


@pytest.mark.parametrize(
    "positions, numbers, missing",
    [
        ([0, 5, 15, 20, 25], None, 1),
        ([0, 5, 10, 30, 35], None, 3),
        ([0, 10, 15, 25], [1, 3, 4, 6], 2),
        ([0, 10, 20, 30, 40], [1, 3, 5, 7, 9], 4),
        ([0, 10, 20, 30, 40], [9, 7, 5, 3, 1], 4),
        ([0, 15, 30, 45], [1, 4, 7, 10], 6),
        ([0, 5, 10, 15, 25, 35, 45], [1, 2, 3, 4, 6, 8, 10], 3),
        ([0, 10], [1, 3], 1),
    ],
)
def test_missing_slices_are_counted(positions, numbers, missing):
    found = steps(positions, numbers)
    assert sum(n for _, _, n in found.gaps) == missing
    assert f"about {missing} slice" in found.warning and "usual step 5 mm" in found.warning
    # A scanner's own SpacingBetweenSlices tells it where numbers don't.
    if numbers and len(positions) > 2:
        shuffled = [1, 9, 2, 8, 3, 7, 4][: len(positions)]
        assert steps(positions, shuffled, spacing=5.0).gaps == found.gaps


def test_a_step_that_changes_is_no_gap():
    """A head CT: thin through the skull base, thick above; GE: 4 mm, then 7 mm."""
    head = [2.5 * k for k in range(8)] + [20 + 5.0 * k for k in range(6)]
    found = steps(head, thickness=[2.5] * 8 + [5.0] * 6)
    assert not found.warning
    assert found.remark == "the step changes from 2.5 to 5 mm at 20 mm"
    ge = [0, 4, 8, 12, 16, 23, 30, 37, 44]
    assert not steps(ge, thickness=4.0).warning
    # A slice that is missing in either part is still told.
    assert "about 1 slice missing" in steps(head[:3] + head[4:], thickness=2.5).warning
    del head[11]
    assert "about 1 slice missing" in steps(head, thickness=5.0).warning


def test_slices_that_are_scanned_apart_are_not_missing():
    """Thin slices every 10 mm, numbered one by one; thick ones with numbers of two series."""
    assert not steps([0, 10, 20, 30], thickness=1.0).warning
    assert not steps([0, 10, 20, 30], [1, 3, 5, 7], thickness=10.0).warning
    assert not steps([0.0], thickness=NAN).warning
    assert not steps([0, 5.01, 9.99, 15.0], thickness=NAN).warning
