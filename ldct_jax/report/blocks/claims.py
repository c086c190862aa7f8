"""Blocks that judge a paper's claims by what the runs left; the rules: ldct_jax.study.claims.

Each gives one claim. A claim that needs a row which didn't learn is *untested*.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from ldct_jax.report.found import Found
from ldct_jax.study.claims import Claim, all_of, judge, untested
from ldct_jax.study.results import Run
from ldct_jax.system.names import percent

METRICS = {"psnr_db": ("PSNR", "dB"), "ssim": ("SSIM", ""), "rmse": ("RMSE", None)}
ALL_METRICS = tuple(METRICS)
RUNNING_MEAN = 25
"""Training steps that a running mean of the loss curve covers."""
CONTRAST = "low contrast"
"""The disc of the quality phantom whose edge says how sharp an image is."""
NOISE_MARGIN = 0.1
"""Relative: sharpness is compared where two images differ by less in noise."""


@dataclasses.dataclass(frozen=True)
class Differences:
    """The first row of every pair minus the second, in all of ``metrics``, lies within the limits.

    A positive difference is the better image, whatever the metric. claim: in the paper's words with
    where it stands. paper: its number. dose: of the tested doses, this one. clones: indices of
    those whose images are compared, or ``all``; None for the last one's.
    """

    pairs: Sequence[tuple[str, str]]
    claim: str
    metrics: Sequence[str] = ("psnr_db",)
    above: float | None = 0.0
    below: float | None = None
    paper: str = ""
    dose: float | None = None
    clones: Sequence[int] | str | None = None

    def render(self, found: Found) -> list[Claim]:
        claim = self.claim + f"; the paper: {self.paper}" * bool(self.paper)
        rows = list(dict.fromkeys(itertools.chain.from_iterable(self.pairs)))
        if reason := found.untestable(rows, self.dose):
            return [untested(claim, reason)]
        clones = self.clones or (None,)
        if clones == "all":
            clones = range(len(found.results.of(rows[0])[0].result["test"]))
        each = itertools.product(self.pairs, self.metrics, clones)
        return [all_of(claim, [self._part(found, *pair, m, clone) for pair, m, clone in each])]

    def _part(self, found: Found, a: str, b: str, metric: str, clone: int | None) -> Claim:
        shared = found.results.shared_repeats(a, b)
        which = {} if clone is None else {"clone": clone}
        ours, theirs = (found.by_repeat(v, metric, shared, self.dose, **which) for v in (a, b))
        name, unit = METRICS[metric]
        values, what = ours - theirs, f"{name} of {a} minus {b}"
        if metric == "rmse":
            values, unit, what = -values, found.protocol.unit, f"RMSE of {b} minus {a}"
        what += "" if self.dose is None else f" at {percent(self.dose)} of the dose"
        what += "" if clone is None else f", clone {clone + 1}"
        what += f" ({found.protocol.name})"
        return judge(self.claim, what, values, unit, above=self.above, below=self.below)


def Better(
    better: str,
    than: str,
    claim: str,
    paper: str = "",
    metrics: Sequence[str] = ("psnr_db",),
    dose: float | None = None,
) -> Differences:
    """One row beats another in ``metrics`` (all of them), at ``dose`` where there are several."""
    return Differences([(better, than)], claim, metrics, paper=paper, dose=dose)


def Best(row: str, rest: Sequence[str], claim: str, metric: str = "psnr_db") -> Differences:
    """One row is the best of several in a metric."""
    return Differences([(row, other) for other in rest], claim, [metric])


def Second(row: str, best: str, rest: Sequence[str], claim: str, metric: str = "ssim"):
    """One row lies below the best one *and* above all the others."""
    return Differences([(best, row), *((row, other) for other in rest)], claim, [metric])


def AddsLittle(row: str, to: str, claim: str, limit_db: float = 0.15) -> Differences:
    """A larger row gains less than ``limit_db`` over another. Losing also adds nothing."""
    return Differences([(row, to)], claim, above=None, below=limit_db)


def Similar(rows: Sequence[str], claim: str, limit_db: float = 0.15) -> Differences:
    """Several rows differ by less than ``limit_db`` from one another, in either direction."""
    pairs = list(itertools.combinations(rows, 2))
    return Differences(pairs, claim, above=-limit_db, below=limit_db)


def BetterByClone(better: str, than: str, claim: str) -> Differences:
    """One row beats another at every clone index (networks of equally many clones)."""
    return Differences([(better, than)], claim, clones="all")


def MoreWithClones(rows: Sequence[str], claim: str) -> Differences:
    """The first clone's image improves from each row to the next, which has more clones."""
    return Differences(list(zip(rows[1:], rows[:-1], strict=True)), claim, clones=[0])


@dataclasses.dataclass(frozen=True)
class Gain:
    """A row's relative gain over another in a metric lies between two bounds ("about 10 %")."""

    row: str
    over: str
    claim: str
    metric: str
    low: float
    high: float
    dose: float | None = None

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, self.over), self.dose):
            return [untested(self.claim, reason)]
        shared = found.results.shared_repeats(self.row, self.over)
        a, b = (found.by_repeat(v, self.metric, shared, self.dose) for v in (self.row, self.over))
        measured = f"relative gain in {METRICS[self.metric][0]} of {self.row} over {self.over}"
        return [judge(self.claim, measured, a / b - 1, above=self.low, below=self.high)]


@dataclasses.dataclass(frozen=True)
class ReachesEarlier:
    """A row reaches another's final training RMSE within a ``share`` of the steps that the other
    needs for it.

    Both curves are running means over :data:`RUNNING_MEAN` steps; where the RMSE isn't reached,
    all of the steps count.
    """

    row: str
    other: str
    claim: str
    share: float

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, self.other)):
            return [untested(self.claim, reason)]
        shared = found.results.shared_repeats(self.row, self.other)
        runs = (found.results.of(v, shared) for v in (self.row, self.other))
        shares, missed = [], 0
        for own, other in zip(*runs, strict=True):
            curves = [_running_mean(run) for run in (own, other)]
            steps, values = curves[1]
            ours, theirs = (_reached(*curve, values[-1]) for curve in curves)
            missed += ours is None
            shares.append((steps[-1] if ours is None else ours) / theirs)
        measured = f"share of {self.other}'s steps that {self.row} needs for the same training RMSE"
        measured += f"; not reached by {missed} of {len(shares)}" * bool(missed)
        return [judge(self.claim, measured, shares, below=self.share)]


def _running_mean(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the training RMSE up to each."""
    steps, values = (np.array(x) for x in zip(*run.curve("rmse").items(), strict=True))
    width = min(RUNNING_MEAN, len(values))
    return steps[width - 1 :], np.convolve(values, np.ones(width) / width, mode="valid")


def _reached(steps: np.ndarray, values: np.ndarray, goal: float) -> float | None:
    """The first step at which a curve is at ``goal``; None where it never is.

    A run's curve is at its own last value long before its last step, for easy batches make it dip:
    so two runs are compared by their first steps.
    """
    reached = steps[values <= goal]
    return float(reached[0]) if reached.size else None


@dataclasses.dataclass(frozen=True)
class SliceBySlice:
    """One row beats another in at least a ``share`` of the test slices, in every one of
    ``metrics``."""

    better: str
    than: str
    claim: str
    metrics: Sequence[str] = ("rmse", "ssim")
    share: float = 0.9

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.better, self.than)):
            return [untested(self.claim, reason)]
        shared = found.results.shared_repeats(self.better, self.than)
        rows = [found.results.rows(v, repeats=shared) for v in (self.better, self.than)]
        parts = []
        for metric in self.metrics:
            sign = -1 if metric == "rmse" else 1
            won = [
                np.mean([sign * (x[metric] - y[metric]) > 0 for x, y in zip(a, b, strict=True)])
                for a, b in zip(*rows, strict=True)
            ]
            measured = f"share of the {len(rows[0][0])} test slices with the better "
            measured += METRICS[metric][0]
            parts.append(judge(self.claim, measured, won, above=self.share))
        return [all_of(self.claim, parts)]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A number made of what was measured of ``rows`` lies within the limits.

    number: a key of the records, of the first row minus the second; or what takes each row's
    record, one argument a row, and gives the number, or None where it isn't defined. of:
    ``numbers`` (the study's ``measures``), ``quality`` (the quality phantom) or ``tissue_noise``.
    dose: of a claim that is about one.
    """

    rows: Sequence[str]
    number: str | Callable[..., float | None]
    claim: str
    measured: str
    unit: str = ""
    above: float | None = None
    below: float | None = None
    of: str = "numbers"
    dose: float | None = None

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable(self.rows, self.dose):
            return [untested(self.claim, reason)]
        shared = found.results.shared_repeats(*self.rows)
        records = [getattr(found.results, self.of)(row, shared) for row in self.rows]
        measured, number = self.measured, self.number
        if isinstance(number, str):
            measured, number = f"{measured}, {' minus '.join(self.rows)}", self._difference
        values = [number(*each) for each in zip(*records, strict=True)]
        if None in values:
            return [untested(self.claim, f"{measured}: not defined on these images")]
        return [judge(self.claim, measured, values, self.unit, above=self.above, below=self.below)]

    def _difference(self, first: dict, second: dict) -> float | None:
        a, b = first[self.number], second[self.number]
        return None if None in (a, b) else a - b


def LessSmooth(row: str, than: str, claim: str) -> Measured:
    """One row leaves more noise in flat tissue than another: what texture needs, and a blur
    removes."""

    def difference(a: dict, b: dict) -> float | None:
        return None if None in (a.get(""), b.get("")) else a[""] - b[""]

    measured = f"noise left in flat tissue, {row} minus {than}"
    return Measured((row, than), difference, claim, measured, "HU", above=0.0, of="tissue_noise")


@dataclasses.dataclass(frozen=True)
class Sharper:
    """One row resolves more than another at no more noise, on the quality phantom.

    The number is the difference of the frequencies at which the task transfer function of the
    low-contrast disc falls to one half. Between rows whose noise differs by more than
    :data:`NOISE_MARGIN` it decides only where the sharper one is the less noisy one, too: a blur
    trades one for the other.
    """

    row: str
    than: str
    claim: str

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, self.than)):
            return [untested(self.claim, reason)]
        shared = found.results.shared_repeats(self.row, self.than)
        pairs = list(
            zip(*(found.results.quality(v, shared) for v in (self.row, self.than)), strict=True)
        )
        f50 = [[(q["ttf"][CONTRAST] or {}).get("f50_per_mm") for q in pair] for pair in pairs]
        if any(None in pair for pair in f50):
            return [untested(self.claim, f"the {CONTRAST} edge drowns in noise")]
        values = [a - b for a, b in f50]
        ratio = float(np.mean([a["noise_hu"] / b["noise_hu"] for a, b in pairs]))
        sharper = np.mean(values) > 0
        unfair = ratio > 1 + NOISE_MARGIN if sharper else ratio < 1 - NOISE_MARGIN
        if unfair:
            return [
                untested(
                    self.claim,
                    f"{self.row} leaves {ratio:.2f} times the noise of {self.than}: sharpness can "
                    "only be compared at equal noise",
                )
            ]
        measured = f"TTF 50 %, {CONTRAST}, {self.row} minus {self.than}, noise × {ratio:.2f}"
        return [judge(self.claim, measured, values, "1/mm", above=0.0)]
