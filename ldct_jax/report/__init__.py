"""The page that a study leaves: ``write(study, folder)``."""

from __future__ import annotations

import time
from pathlib import Path

from ldct_jax.errors import LdctError
from ldct_jax.report import from_results as parts
from ldct_jax.report import page
from ldct_jax.study import results
from ldct_jax.study.study import Study


def write(study: Study, folder: Path) -> Path:
    """Make the report of a study's folder from what is on the disk."""
    began = time.monotonic()
    found = results.load(folder)
    if not found.runs:
        raise LdctError(f"no run in {folder.name} has finished: nothing to report")
    made = study.report(found) if callable(study.report) else _default(found)
    if "report" not in found.study["wall_s"]:
        # The first one knows its own time but for the writing.
        made = made.with_wall_seconds("report", time.monotonic() - began)
    return made.write(folder)


def _default(found: results.Results) -> page.Report:
    shown = {name: name for name in found.variants}
    table = parts.quality_table(found, name="table", title="Image quality", paper={})
    sections = [
        page.Section("Image quality on test patients", "", tables=[table]),
        page.Section(
            "Images", "", figures=[parts.panel(found, shown, name="images", title="A test slice")]
        ),
    ]
    return parts.standard(found, sections, (), shown=shown)
