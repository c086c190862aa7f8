"""A paper's claims and whether they held here, with the number that decides it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ldct_jax.errors import UsageError
from ldct_jax.report.tables import Column, Table

HELD = "held"
NOT_HELD = "not held"
NOT_TESTABLE = "not testable at this scale"
UNTESTED = "untested"
VERDICTS = (HELD, NOT_HELD, NOT_TESTABLE, UNTESTED)
LEAST_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim and its verdict; usually made by :func:`judge` or :func:`untested`.

    claim: as the paper puts it, with where it stands. measured: what ``number`` is, in words, with
    protocol. number: in ``unit``, None only where the claim is untested. sd, n_seeds: spread of
    the number over training seeds. reason: why it could not be tested.
    ``not testable at this scale`` is refused unless the SD over at least three seeds exceeds the
    number's distance from the claim's ``threshold``.
    """

    claim: str
    measured: str
    number: float | None
    unit: str
    verdict: str
    threshold: float = 0.0
    sd: float | None = None
    n_seeds: int = 1
    reason: str = ""

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise UsageError(f"verdict {self.verdict!r}: use one of {', '.join(VERDICTS)}")
        if self.verdict == UNTESTED:
            if not self.reason:
                raise UsageError(f"{self.claim!r} is untested without a reason")
        elif self.number is None or not np.isfinite(self.number):
            raise UsageError(f"{self.claim!r} is {self.verdict} without a number")
        if self.verdict == NOT_TESTABLE and not _drowned(
            self.number - self.threshold, self.sd, self.n_seeds
        ):
            raise UsageError(
                f"{self.claim!r} may be called {NOT_TESTABLE!r} only where the SD over at least "
                f"{LEAST_SEEDS} seeds exceeds the difference"
            )

    @property
    def number_text(self) -> str:
        """``0.31 ± 0.12 dB (3 seeds)``."""
        if self.number is None:
            return "–"
        spread = "" if self.sd is None else f" ± {self.sd:.3g}"
        seeds = f"{self.n_seeds} seed" + "s" * (self.n_seeds != 1)
        return f"{self.number:.4g}{spread} {self.unit}".rstrip() + f" ({seeds})"


def judge(
    claim: str,
    measured: str,
    numbers: float | Sequence[float],
    unit: str,
    *,
    threshold: float = 0.0,
    above: bool = True,
) -> Claim:
    """Held if the mean of ``numbers`` lies above ``threshold`` (below, if not ``above``).

    numbers: one a seed. Three or more whose SD exceeds the distance of their mean from the
    threshold make the claim *not testable at this scale*.
    """
    values = np.atleast_1d(np.asarray(numbers, np.float64))
    if values.size == 0 or not np.isfinite(values).all():
        raise UsageError(f"{claim!r} can't be judged by {values.tolist()}: numbers are needed")
    mean, n = float(values.mean()), values.size
    sd = float(values.std(ddof=1)) if n > 1 else None
    if _drowned(mean - threshold, sd, n):
        verdict = NOT_TESTABLE
    else:
        verdict = HELD if (mean > threshold if above else mean < threshold) else NOT_HELD
    return Claim(claim, measured, mean, unit, verdict, threshold, sd, n)


def judge_least(claim: str, measured: str, by_seed: Sequence[Sequence[float]], unit: str) -> Claim:
    """A claim that each of several numbers is positive: the one with the least mean decides.

    by_seed: for every seed the same numbers, in the same order.
    """
    values = np.asarray(by_seed, np.float64)
    return judge(claim, measured, values[:, values.mean(0).argmin()], unit)


def untested(claim: str, reason: str) -> Claim:
    """A claim this run can't speak to, for a stated reason (a row that failed to learn)."""
    return Claim(claim, "", None, "", UNTESTED, reason=reason)


def table(claims: Sequence[Claim], *, protocol: str, data: str) -> Table:
    """The claims as a :class:`Table` called ``claims``."""
    rows = [
        [c.claim, c.measured, c.number, c.sd, c.n_seeds, c.unit, c.threshold, c.verdict, c.reason]
        for c in claims
    ]
    heads = ("claim", "measured", "number", "SD", "seeds", "unit", "decided at", "verdict")
    columns = [Column(h) for h in (*heads, "reason")]
    return Table("claims", "Claims of the paper", columns, rows, protocol, data)


def _drowned(difference: float, sd: float | None, n_seeds: int) -> bool:
    return n_seeds >= LEAST_SEEDS and sd is not None and sd > abs(difference)
