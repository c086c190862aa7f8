"""How a paper's claim is judged: numbers, one a seed, against the limits that the claim states.

*Held* and *not held* need at least three seeds and a 95 % interval (Student's t over the seeds)
that lies wholly inside or wholly outside the limits. An interval that crosses a limit leaves the
claim *undecided*, fewer seeds give the *sign only*, and a claim about a row that didn't learn is
*untested*.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ldct_jax.errors import UsageError
from ldct_jax.metrics.statistics import LEVEL, t_interval

HELD = "held"
NOT_HELD = "not held"
UNDECIDED = "undecided"
SIGN_ONLY = "sign only"
UNTESTED = "untested"
VERDICTS = (HELD, NOT_HELD, UNDECIDED, SIGN_ONLY, UNTESTED)
MIN_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim and its verdict, made by :func:`judge`, :func:`all_of` or :func:`untested`.

    claim: as the paper puts it, with where it stands. measured: what the numbers are, with their
    protocol. values: one a seed, in ``unit``; none where the claim is untested. above, below: the
    limits between which the claim holds, None where there is none. reason: why it is untested.
    """

    claim: str
    measured: str
    values: tuple[float, ...]
    unit: str
    verdict: str
    above: float | None = None
    below: float | None = None
    reason: str = ""

    @property
    def number(self) -> float | None:
        """The mean over seeds."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of the mean by Student's t; None below :data:`MIN_SEEDS` seeds."""
        return t_interval(self.values) if len(self.values) >= MIN_SEEDS else None

    @property
    def agrees(self) -> bool | None:
        """Whether the mean lies within the limits, which says no more than its sign."""
        return None if self.number is None else _within(self.number, self.above, self.below)

    @property
    def number_text(self) -> str:
        """``0.31 dB, 95 % interval 0.12 to 0.50 (3 seeds)``."""
        if self.number is None:
            return "–"
        n = len(self.values)
        spread = ""
        if self.interval is not None:
            low, high = self.interval
            spread = f", {LEVEL:.0%} interval {low:.3g} to {high:.3g}"
        mean = f"{self.number:.3g} {self.unit}".rstrip()
        return f"{mean}{spread} ({n} seed{'s' * (n != 1)})"

    @property
    def limits_text(self) -> str:
        """``above 0``, ``below 0.15``, ``0.05 to 0.15``."""
        if self.number is None:
            return "–"
        if self.above is not None and self.below is not None:
            return f"{self.above:g} to {self.below:g}"
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"

    @property
    def verdict_text(self) -> str:
        """The verdict; a sign says which way it points."""
        if self.verdict != SIGN_ONLY:
            return self.verdict
        return f"{SIGN_ONLY}: {'for' if self.agrees else 'against'}"


def judge(
    claim: str,
    measured: str,
    values: float | Sequence[float],
    unit: str = "",
    *,
    above: float | None = None,
    below: float | None = None,
) -> Claim:
    """Judge a claim that a number lies above, below, or between limits; ``values``: one a seed.

    Raises UsageError for no numbers, for NaN, and without a limit.
    """
    numbers = np.atleast_1d(np.asarray(values, np.float64))
    if numbers.size == 0 or not np.isfinite(numbers).all():
        raise UsageError(f"{claim!r} can't be judged by {numbers.tolist()}: numbers are needed")
    if above is None and below is None:
        raise UsageError(f"{claim!r} needs a limit: above, below or both")
    verdict = SIGN_ONLY
    if numbers.size >= MIN_SEEDS:
        low, high = t_interval(numbers)
        if _within(low, above, below) and _within(high, above, below):
            verdict = HELD
        elif (above is not None and high < above) or (below is not None and low > below):
            verdict = NOT_HELD
        else:
            verdict = UNDECIDED
    return Claim(claim, measured, tuple(numbers.tolist()), unit, verdict, above, below)


def all_of(claim: str, parts: Sequence[Claim]) -> Claim:
    """A claim with several parts (all three metrics, above the rest *and* below the best).

    It holds where every part holds and fails where one fails. The part that decides is shown.
    """

    def rank(part: Claim) -> tuple:
        # What is worst for the claim first; among equals the mean that is nearest to its limit.
        order = (UNTESTED, NOT_HELD, UNDECIDED, SIGN_ONLY, HELD).index(part.verdict)
        return order, part.agrees is True, _room(part)

    if not parts:
        raise UsageError(f"{claim!r} has no parts")
    return dataclasses.replace(min(parts, key=rank), claim=claim)


def untested(claim: str, reason: str) -> Claim:
    """A claim that these runs can't speak to, for a stated reason (a row that didn't learn)."""
    if not reason:
        raise UsageError(f"{claim!r} is untested without a reason")
    return Claim(claim, "", (), "", UNTESTED, reason=reason)


def count(claims: Sequence[Claim]) -> dict[str, int]:
    """How many claims there are of each verdict, zero included."""
    return {v: sum(c.verdict == v for c in claims) for v in VERDICTS}


def _within(value: float, above: float | None, below: float | None) -> bool:
    return (above is None or value > above) and (below is None or value < below)


def _room(part: Claim) -> float:
    """Distance of the mean from the nearer limit, in units of its spread where that is known."""
    if part.number is None:
        return 0.0
    limits = [x for x in (part.above, part.below) if x is not None]
    distance = min(abs(part.number - x) for x in limits)
    scale = np.std(part.values, ddof=1) if len(part.values) > 1 else abs(part.number)
    return float(distance / scale) if scale else math.inf
