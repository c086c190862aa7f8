"""What a study's runs left, as blocks ask for it: protocol, captions, which rows learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ldct_jax.metrics.protocols import Protocol, Summary
from ldct_jax.report.trained import INPUT, Training, training_of
from ldct_jax.study.results import Results, Run
from ldct_jax.system.names import percent

ROW_NAMES = {
    INPUT: "low dose, undenoised",
    "gaussian": "Gaussian blur, σ = 1 pixel",
    "median": "median filter, 3x3 pixels",
    "wiener": "Wiener filter, 5x5 pixels",
}


@dataclasses.dataclass(frozen=True)
class Found:
    """The results of a study with what every block needs beside them."""

    results: Results

    @property
    def protocol(self) -> Protocol:
        """The protocol that the study's numbers were taken under."""
        return self.results.protocol

    @property
    def data(self) -> str:
        """Data and attribution, for captions."""
        data = self.results.study["data"]
        return data["source"] + (f"; {data['attribution']}" if data["attribution"] else "")

    @property
    def doses(self) -> list[float]:
        """The tested doses, where there are several; empty otherwise."""
        return self.results.study["data"]["doses"]

    @property
    def undenoised(self) -> Summary:
        """The scores of the input itself."""
        return self.results.summary(INPUT, self.protocol)

    @property
    def rows(self) -> list[str]:
        """All rows, those that aren't trained first."""
        return [*self.results.references, *self.results.variants]

    def ran(self, rows: Sequence[str] | None) -> list[str]:
        """Those of ``rows`` that were run; None for all variants."""
        return [v for v in rows or self.results.variants if self.results.of(v)]

    def name(self, row: str) -> str:
        """How a row is called in tables and figures."""
        return ROW_NAMES.get(row, row)

    @cached_property
    def training(self) -> dict[str, Training]:
        """How well each trained row has learnt."""
        return {v: training_of(self.results, v, self.protocol) for v in self.results.variants}

    def untestable(self, rows: Sequence[str], dose: float | None = None) -> str:
        """Why a claim about these rows can't be tested; empty where it can."""
        if dose is not None and dose not in self.doses:
            return f"{percent(dose)} of the dose was not tested"
        for row in rows:
            if row in self.results.references:
                continue
            if row not in self.training:
                return f"{row} was not run"
            if reason := self.training[row].reason:
                return reason
        if not self.results.shared_repeats(*rows):
            return f"{' and '.join(rows)} have no split and seed in common"
        return ""

    def by_repeat(
        self, row: str, metric: str, repeats: Sequence[int], dose: float | None = None, **which: Any
    ) -> np.ndarray:
        """A metric of a row on the test patients, one number a repeat: the mean over patients of
        the means over their slices. ``which``: clone or further images, see Results.rows."""
        where = None if dose is None else {"dose": dose}
        found = self.results.rows(row, repeats=repeats, where=where, **which)
        return np.array([_by_patient(rows, metric) for rows in found])

    def sample(self, run: Run, dose: float | None = None) -> dict[str, np.ndarray]:
        """A run's sample slice: ``clones`` (T, H, W), ``low``, ``full`` (H, W), HU; by default
        that of the last dose, where there are several."""
        if len(self.doses) < 2:
            return run.samples
        place = len(self.doses) - 1 if dose is None else self.doses.index(dose)
        return {k: run.samples[k][place] for k in ("clones", "low", "full")}

    def slices(
        self,
        rows: Sequence[str] | None = None,
        filters: Mapping[str, Any] | None = None,
        dose: float | None = None,
        at: int | None = None,
    ) -> dict[str, np.ndarray]:
        """One test slice, (H, W) HU each: normal dose, low dose, ``filters`` (label → filter) of
        it, and what ``rows`` made of it. at: of the slices of the interactive comparison."""

        def sample(run: Run) -> dict[str, np.ndarray]:
            if at is None:
                return self.sample(run, dose)
            names = {"full": "scrolled_full", "low": "scrolled_low", "clones": "scrolled"}
            found = {k: run.samples[v][at] for k, v in names.items()}
            return found | {"clones": found["clones"][None]}

        runs = self.results.shown  # of one patient
        first = sample(next(iter(runs.values())))
        shown = {"normal dose": first["full"], "low dose": first["low"]}
        low = first["low"].astype(np.float32)[None, ..., None]
        shown |= {label: f(low)[0, ..., 0] for label, f in (filters or {}).items()}
        for row in (row for row in self.ran(rows) if row in runs):
            shown[row] = sample(runs[row])["clones"][-1]
        return shown


def _by_patient(rows: Sequence[dict], metric: str) -> float:
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        by_patient.setdefault(row["patient"], []).append(row[metric])
    return float(np.mean([np.mean(v) for v in by_patient.values()]))
