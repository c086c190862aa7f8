"""Blocks that make tables, and notes on the paper."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ldct_jax.metrics import statistics
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.report import tables
from ldct_jax.report.found import Found
from ldct_jax.report.provenance import begun, scored_steps
from ldct_jax.report.tables import Column
from ldct_jax.study.measures import Measure
from ldct_jax.system.names import counted, percent

PaperRow = Sequence[MeanSD | float | None]
"""PSNR, SSIM and RMSE as a paper prints them; None where it doesn't."""
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Note:
    """Something a reader of the paper must know: what it leaves open, where it contradicts
    itself, what we chose."""

    text: str

    def render(self, found: Found) -> list[Note]:
        return [self]


@dataclasses.dataclass(frozen=True)
class Table:
    """PSNR, SSIM and RMSE of every row on the test patients, beside the paper's.

    paper: row → :data:`PaperRow`. dose: of the tested doses, this one. further: text → (row, name
    of the images that the study's ``measures`` scored beside its result). The first table of a
    report is the one that its first sentences are about.
    """

    title: str = "Image quality on test patients"
    paper: Mapping[str, PaperRow] = dataclasses.field(default_factory=dict)
    note: str = ""
    dose: float | None = None
    further: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def render(self, found: Found) -> list[tables.Table]:
        if self.dose is not None and self.dose not in found.doses:
            return []
        results, protocol = found.results, found.protocol
        where = None if self.dose is None else {"dose": self.dose}
        rows = []

        def add(text, row, parameters, minutes, **which):
            s = results.summary(row, protocol, where=where, **which)
            cells = [text, parameters, s.psnr_db, s.ssim, s.rmse]
            if self.paper:
                cells += self.paper.get(row, (None, None, None))
            rows.append([*cells, minutes])

        for row in results.references:
            add(found.name(row), row, None, None)
        for row in results.variants:
            runs = results.of(row)
            minutes = sum(r.result["seconds"]["total"] for r in runs) / 60
            add(row, row, runs[0].result["parameters"], minutes)
        for text, (row, images) in self.further.items():
            if runs := results.of(row):
                add(text, row, runs[0].result["parameters"], None, further=images)
        in_hu = protocol.rmse_in_hu
        theirs = [
            Column("PSNR, paper", "dB", 2, paper=True),
            Column("SSIM, paper", digits=4, paper=True),
            Column("RMSE, paper", digits=2 if in_hu else 4, paper=True),
        ]
        patients = {row["patient"] for r in results.runs for row in r.result["test"][-1]}
        notes = [self.note or ("" if self.paper else "The paper prints no numbers.")]
        if steps := scored_steps(results):
            notes.append(f"Training step that is scored: {steps}.")
        if started := begun(results):
            notes.append(f"Begun with other parameters: {started}.")
        return [
            tables.Table(
                name=tables.stem(self.title),
                title=self.title,
                columns=[
                    Column("model"),
                    Column("parameters", digits=0),
                    Column("PSNR", "dB", 2),
                    Column("SSIM", digits=4),
                    Column("RMSE", "HU" if in_hu else "", 2 if in_hu else 5),
                    *(theirs if self.paper else []),
                    Column("time", "min", 1),
                ],
                rows=rows,
                protocol=str(protocol),
                data=f"mean ± SD over {counted(len(patients), 'test patient')}; {found.data}",
                note=" ".join(filter(None, notes)),
            )
        ]


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A table of what one of the study's measures found: numbers of every row, mean over the
    repeats that have them; nothing where no row has any.

    paper: row → what the paper prints, column by column; it stands in a row of its own.
    """

    title: str
    measure: Measure
    paper: Mapping[str, Sequence[float | None]] = dataclasses.field(default_factory=dict)
    digits: int = 2
    note: str = ""

    def render(self, found: Found) -> list[tables.Table]:
        rows, measured, heads = [], False, self.measure.heads
        named = {row: (row, "") for row in found.rows} | dict(self.measure.further)
        for name, (row, suffix) in named.items():
            records = found.results.numbers(row)
            means = [_mean([r.get(k + suffix) for r in records]) for k in heads.values()]
            if any(x is not None for x in means):
                rows.append([found.name(name), *means])
                measured = True
            if name in self.paper:
                rows.append([f"{found.name(name)}, the paper", *self.paper[name]])
        if not measured:
            return []
        return [
            tables.Table(
                name=tables.stem(self.title),
                title=self.title,
                columns=[Column("row"), *(Column(h, digits=self.digits) for h in heads)],
                rows=rows,
                protocol=str(found.protocol),
                data=f"mean over the repeats that have them; {found.data}",
                note=" ".join(filter(None, (self.measure.words, self.note))),
            )
        ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


@dataclasses.dataclass(frozen=True)
class PairedTests:
    """Every row against one, patient by patient: mean difference, 95 % interval, two-tailed t.

    dose: of the tested doses, this one. Patients are the unit: slices of one patient resemble each
    other, so a single test patient gives no table.
    """

    against: str
    dose: float | None = None

    def render(self, found: Found) -> list[tables.Table]:
        results, where = found.results, None if self.dose is None else {"dose": self.dose}
        if not results.of(self.against) or (self.dose is not None and self.dose not in found.doses):
            return []
        rows = []
        for row in found.rows:
            shared = results.shared_repeats(self.against, row)
            if row == self.against or not shared:
                continue
            ours, theirs = (
                results.summary(v, found.protocol, repeats=shared, where=where)
                for v in (row, self.against)
            )
            cells = compare(ours, theirs)
            if cells:
                rows.append([found.name(row), *cells])
        if not rows:
            return []
        at = "" if self.dose is None else f" at {percent(self.dose)} of the dose"
        name = "tests" if self.dose is None else f"tests_{100 * self.dose:g}"
        columns = [Column("row")]
        for metric, unit, digits in (("PSNR", "dB", 2), ("SSIM", "", 4)):
            columns += [Column(f"{metric}, difference", unit, digits), Column(f"{metric}, 95 %")]
            columns += [Column(f"p ({metric})")]
        return [
            tables.Table(
                name=name,
                title=f"More than chance? Each row minus {self.against}{at}, patient by patient",
                columns=[*columns, Column("patients", digits=0)],
                rows=rows,
                protocol=str(found.protocol),
                data=found.data,
                note="Intervals: bootstrap over patients; p: two-tailed paired t-test, * below "
                f"{SIGNIFICANT:g}.",
            )
        ]


def compare(ours, theirs) -> list[Any]:
    """Difference, interval and p of PSNR and SSIM of two summaries, and how many patients; empty
    where fewer than two patients can be compared."""
    # An image that equals its reference has an infinite PSNR, which no test can take.
    both = (ours.values("psnr_db"), theirs.values("psnr_db"))
    patients = [p for p in both[0] if all(math.isfinite(x[p]) for x in both)]
    if len(patients) < 2:
        return []
    cells: list[Any] = []
    for metric, digits in (("psnr_db", 2), ("ssim", 4)):
        a, b = ours.values(metric), theirs.values(metric)
        test = statistics.paired([a[p] for p in patients], [b[p] for p in patients], patients)
        cells += [test.mean_difference, f"{test.low:.{digits}f} to {test.high:.{digits}f}"]
        cells += [f"{test.p:.3f}{' *' if test.p < SIGNIFICANT else ''}"]
    return [*cells, len(patients)]
