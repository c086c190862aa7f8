"""From a study's folder to its page: the answer, tables, figures, claims, and how it was made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldct_jax.errors import LdctError
from ldct_jax.report import page, physics, tables
from ldct_jax.report.answer import answer, trained, training_table
from ldct_jax.report.blocks.curves import Convergence
from ldct_jax.report.blocks.pictures import Panel
from ldct_jax.report.blocks.tables import Note, Table
from ldct_jax.report.figures import Figure
from ldct_jax.report.found import Found
from ldct_jax.report.provenance import provenance
from ldct_jax.study import results
from ldct_jax.study.claims import Claim
from ldct_jax.study.study import Study

MAX_VIEWED = 8
"""Stacks of the interactive comparison; more make the page large and its menu long."""
DEFAULT = (
    Table(note="The study names no blocks: these are the usual ones."),
    Convergence(),
    Panel(),
)


def write(study: Study, folder: Path) -> Path:
    """Make the report of a study's folder from what is on the disk; the page's path.

    Without blocks in ``study.report`` it shows the scores, the training curves and a test slice.
    Raises LdctError where no run has finished.
    """
    began = time.monotonic()
    loaded = results.load(folder)
    if not loaded.runs:
        raise LdctError(f"no run in {folder.name} has finished: nothing to report")
    report = build(study.report or DEFAULT, loaded)
    if "report" not in loaded.study["wall_s"]:
        # The first one knows its own time but for the writing.
        report = report.with_wall_seconds("report", time.monotonic() - began)
    return report.write(folder)


def verdict(folder: Path) -> str:
    """Which rows of a study's folder count as trained, a sentence."""
    return trained(Found(results.load(folder)))


def build(blocks: Sequence[Any], loaded: results.Results) -> page.Report:
    """The report that ``blocks`` make of a study's results."""
    found = Found(loaded)
    parts = [part for block in blocks for part in block.render(found)]
    claims = [p for p in parts if isinstance(p, Claim)]
    notes = [p.text for p in parts if isinstance(p, Note)]
    sections = [
        page.Section("The answer", answer(found, claims), tables=[training_table(found)]),
        page.Section("Tables", tables=[p for p in parts if isinstance(p, tables.Table)]),
        page.Section("Figures", figures=[p for p in parts if isinstance(p, Figure)]),
    ]
    if notes:
        sections.append(page.Section("About the paper's numbers", "\n\n".join(notes)))
    study = loaded.study
    source = f"Reproduces {study['reproduces']} at" if study["reproduces"] else "Run at"
    words = study["scale"]["words"]
    return page.Report(
        title=study["title"],
        intro=f"{source} the {study['scale']['name']} scale. {words[:1].upper()}{words[1:]}.",
        sections=[s for s in sections if s.text or s.tables or s.figures],
        claims=claims,
        further=[physics.section(found)],
        provenance=provenance(loaded, str(found.protocol), found.data),
        viewer=_viewer(found),
    )


def _viewer(found: Found) -> page.Viewer:
    """Low dose, the rows' results and the normal dose, to be compared by hand."""
    runs = found.results.shown
    first = next(iter(runs.values())).samples
    stacks = {"low dose": first["scrolled_low"]}
    for row in physics.spread(tuple(runs), MAX_VIEWED):
        stacks[row] = runs[row].samples["scrolled"]
    stacks["normal dose"] = first["scrolled_full"]
    return page.Viewer(stacks, caption=f"Test slices. Data: {found.data}.")
