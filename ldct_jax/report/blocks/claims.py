"""Blocks that judge a paper's claims by what the runs left; the rules: ldct_jax.study.claims.

Each gives one claim. A claim that needs a row which didn't learn is *untested*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ldct_jax.report.found import Found
from ldct_jax.study.claims import Claim, all_of, judge, untested
from ldct_jax.study.results import Run

METRICS = {"psnr_db": ("PSNR", "dB"), "ssim": ("SSIM", ""), "rmse": ("RMSE", None)}
ALL_METRICS = tuple(METRICS)
RUNNING_MEAN = 25
"""Training steps that a running mean of the loss curve covers."""


def _difference(
    found: Found,
    claim: str,
    a: str,
    b: str,
    metric: str,
    limits: dict[str, float],
    dose: float | None = None,
    **which: Any,
) -> Claim:
    """``a`` minus ``b`` in a metric, turned so that a positive number is the better image."""
    shared = found.results.shared_repeats(a, b)
    values = found.by_repeat(a, metric, shared, dose, **which)
    values = values - found.by_repeat(b, metric, shared, dose, **which)
    name, unit = METRICS[metric]
    what = f"{name} of {a} minus {b}"
    if metric == "rmse":
        values, unit, what = -values, found.protocol.unit, f"RMSE of {b} minus {a}"
    at = "" if dose is None else f" at {dose:.0%} of the dose"
    at += f", clone {which['clone'] + 1}" if "clone" in which else ""
    return judge(claim, f"{what}{at} ({found.protocol.name})", values, unit, **limits)


@dataclasses.dataclass(frozen=True)
class Better:
    """One row beats another in ``metrics`` (all of them), at ``dose`` where there are several.

    claim: in the paper's words with where it stands. paper: its number.
    """

    better: str
    than: str
    claim: str
    paper: str = ""
    metrics: Sequence[str] = ("psnr_db",)
    dose: float | None = None

    def render(self, found: Found) -> list[Claim]:
        claim = self.claim + f"; the paper: {self.paper}" * bool(self.paper)
        if reason := found.untestable((self.better, self.than), self.dose):
            return [untested(claim, reason)]
        pair = (self.better, self.than)
        parts = [
            _difference(found, claim, *pair, m, {"above": 0.0}, self.dose) for m in self.metrics
        ]
        return [all_of(claim, parts)]


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
class Best:
    """One row is the best of several in a metric."""

    row: str
    rest: Sequence[str]
    claim: str
    metric: str = "psnr_db"

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, *self.rest)):
            return [untested(self.claim, reason)]
        parts = [
            _difference(found, self.claim, self.row, other, self.metric, {"above": 0.0})
            for other in self.rest
        ]
        return [all_of(self.claim, parts)]


@dataclasses.dataclass(frozen=True)
class Second:
    """One row lies below the best one *and* above all the others."""

    row: str
    best: str
    rest: Sequence[str]
    claim: str
    metric: str = "ssim"

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, self.best, *self.rest)):
            return [untested(self.claim, reason)]
        pairs = [(self.best, self.row), *((self.row, other) for other in self.rest)]
        return [
            all_of(
                self.claim,
                [_difference(found, self.claim, *p, self.metric, {"above": 0.0}) for p in pairs],
            )
        ]


@dataclasses.dataclass(frozen=True)
class AddsLittle:
    """A larger row gains less than ``limit_db`` over another. Losing also adds nothing."""

    row: str
    to: str
    claim: str
    limit_db: float = 0.15

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, self.to)):
            return [untested(self.claim, reason)]
        limits = {"below": self.limit_db}
        return [_difference(found, self.claim, self.row, self.to, "psnr_db", limits)]


@dataclasses.dataclass(frozen=True)
class Similar:
    """Several rows differ by less than ``limit_db`` from one another, in either direction."""

    rows: Sequence[str]
    claim: str
    limit_db: float = 0.15

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable(self.rows):
            return [untested(self.claim, reason)]
        limits = {"above": -self.limit_db, "below": self.limit_db}
        parts = [
            _difference(found, self.claim, a, b, "psnr_db", limits)
            for i, a in enumerate(self.rows)
            for b in self.rows[i + 1 :]
        ]
        return [all_of(self.claim, parts)]


@dataclasses.dataclass(frozen=True)
class BetterByClone:
    """One row beats another at every clone index (networks of equally many clones)."""

    better: str
    than: str
    claim: str

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.better, self.than)):
            return [untested(self.claim, reason)]
        clones = range(len(found.results.of(self.better)[0].result["test"]))
        pair = (self.better, self.than)
        parts = [
            _difference(found, self.claim, *pair, "psnr_db", {"above": 0.0}, clone=c)
            for c in clones
        ]
        return [all_of(self.claim, parts)]


@dataclasses.dataclass(frozen=True)
class MoreWithClones:
    """The image of an early clone improves from each row to the next, which has more clones."""

    rows: Sequence[str]
    claim: str
    clone: int = 0

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable(self.rows):
            return [untested(self.claim, reason)]
        steps = zip(self.rows[1:], self.rows[:-1], strict=True)
        parts = [
            _difference(found, self.claim, more, fewer, "psnr_db", {"above": 0.0}, clone=self.clone)
            for more, fewer in steps
        ]
        return [all_of(self.claim, parts)]


@dataclasses.dataclass(frozen=True)
class ReachesEarlier:
    """A row reaches another's final training RMSE within a ``share`` of the other's steps.

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
        shares = [_share(own, other) for own, other in zip(*runs, strict=True)]
        missed = sum(s >= 1 for s in shares)
        measured = f"share of {self.other}'s steps that {self.row} needs for the same training RMSE"
        measured += f"; not reached by {missed} of {len(shares)}" * bool(missed)
        return [judge(self.claim, measured, shares, below=self.share)]


def _share(own: Run, other: Run) -> float:
    def curve(run: Run) -> tuple[np.ndarray, np.ndarray]:
        steps, values = (np.array(x) for x in zip(*run.curve("rmse").items(), strict=True))
        width = min(RUNNING_MEAN, len(values))
        return steps[width - 1 :], np.convolve(values, np.ones(width) / width, mode="valid")

    steps, values = curve(own)
    last, goal = curve(other)
    reached = steps[values <= goal[-1]]
    return min(1.0, float(reached[0] / last[-1])) if reached.size else 1.0


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
    ``numbers`` (the study's ``measures``) or ``quality`` (the quality phantom). dose: of a claim
    that is about one.
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


@dataclasses.dataclass(frozen=True)
class LessSmooth:
    """One row leaves more noise in flat tissue than another: what texture needs, and a blur
    removes."""

    row: str
    than: str
    claim: str

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, self.than)):
            return [untested(self.claim, reason)]
        shared = found.results.shared_repeats(self.row, self.than)
        pairs = zip(
            *(found.results.tissue_noise(v, shared) for v in (self.row, self.than)), strict=True
        )
        values = [(a.get(""), b.get("")) for a, b in pairs]
        if any(None in pair for pair in values):
            return [untested(self.claim, "the test slices hold no flat tissue")]
        measured = f"noise left in flat tissue, {self.row} minus {self.than}"
        return [judge(self.claim, measured, [a - b for a, b in values], "HU", above=0.0)]


@dataclasses.dataclass(frozen=True)
class Sharper:
    """One row resolves more than another at no more noise, on the quality phantom.

    The number is the difference of the frequencies at which the task transfer function of the
    low-contrast disc falls to one half. Between rows whose noise differs by more than
    ``noise_margin`` it decides only where the sharper one is the less noisy one, too: a blur
    trades one for the other.
    """

    row: str
    than: str
    claim: str
    contrast: str = "low contrast"
    noise_margin: float = 0.1

    def render(self, found: Found) -> list[Claim]:
        if reason := found.untestable((self.row, self.than)):
            return [untested(self.claim, reason)]
        shared = found.results.shared_repeats(self.row, self.than)
        pairs = list(
            zip(*(found.results.quality(v, shared) for v in (self.row, self.than)), strict=True)
        )
        f50 = [[(q["ttf"][self.contrast] or {}).get("f50_per_mm") for q in pair] for pair in pairs]
        if any(None in pair for pair in f50):
            return [untested(self.claim, f"the {self.contrast} edge drowns in noise")]
        values = [a - b for a, b in f50]
        ratio = float(np.mean([a["noise_hu"] / b["noise_hu"] for a, b in pairs]))
        sharper = np.mean(values) > 0
        unfair = ratio > 1 + self.noise_margin if sharper else ratio < 1 - self.noise_margin
        if unfair:
            return [
                untested(
                    self.claim,
                    f"{self.row} leaves {ratio:.2f} times the noise of {self.than}: sharpness can "
                    "only be compared at equal noise",
                )
            ]
        measured = f"TTF 50 %, {self.contrast}, {self.row} minus {self.than}, noise × {ratio:.2f}"
        return [judge(self.claim, measured, values, "1/mm", above=0.0)]
