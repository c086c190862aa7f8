"""One self-contained HTML page an experiment, and its tables and figures as files beside it.

Everything here is plain data: nothing trains, evaluates or loads a model, and nothing reads a run.
:mod:`ldct_jax.report.make` puts it together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ldct_jax.errors import UsageError
from ldct_jax.report.figures import Figure
from ldct_jax.report.tables import Column, Table
from ldct_jax.report.viewer import Viewer, template
from ldct_jax.study.claims import Claim
from ldct_jax.system.files import write_bytes


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, text (blank lines part paragraphs), then tables, then figures."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where the numbers come from: what a reader needs to make them again.

    data, protocol, scale: in words. commands: as typed. versions: package → version. device: in
    words. wall_seconds: stage → seconds, shown with its share. extra: any further line.
    """

    data: str
    protocol: str
    scale: str
    commands: Sequence[str]
    versions: Mapping[str, str]
    device: str
    wall_seconds: Mapping[str, float]
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def wall_rows(self) -> list[tuple[str, float, float]]:
        """(stage, seconds, per cent), and the sum."""
        total = sum(self.wall_seconds.values())
        stages = [(k, s, 100 * s / total if total else 0.0) for k, s in self.wall_seconds.items()]
        return [*stages, ("sum", total, 100.0 if total else 0.0)]


@dataclasses.dataclass(frozen=True)
class Report:
    """A report: ``sections``, the paper's claims, ``further`` sections, the viewer, provenance."""

    title: str
    intro: str
    sections: Sequence[Section]
    claims: Sequence[Claim]
    provenance: Provenance
    viewer: Viewer | None = None
    further: Sequence[Section] = ()

    def html(self) -> str:
        """The whole page; it needs no network and no file beside it."""
        viewer = None if self.viewer is None else self.viewer.embedded()
        return template("report.html.j2").render(report=self, viewer=viewer)

    def write(self, folder: Path | str) -> Path:
        """Write page, tables and figures under ``folder``; the page's path. Replaces older ones.

        Raises LdctError where the disk is full or the folder can't be written.
        """
        folder = Path(folder)
        for path, content in self._files(folder):
            write_bytes(path, content)
        return folder / "report.html"

    def with_wall_seconds(self, stage: str, seconds: float) -> Report:
        """The same report, with the time of a stage that was measured while it was made."""
        wall = {**self.provenance.wall_seconds, stage: seconds}
        return dataclasses.replace(
            self, provenance=dataclasses.replace(self.provenance, wall_seconds=wall)
        )

    @property
    def claims_table(self) -> Table:
        """The claims as a table, for its files."""
        heads = ("claim", "measured", "number", "95 % low", "95 % high", "seeds", "unit")
        rows = [
            [
                *(c.claim, c.measured, c.number, *(c.interval or (None, None))),
                *(len(c.values), c.unit, c.limits_text, c.verdict_text, c.reason),
            ]
            for c in self.claims
        ]
        return Table(
            name="claims",
            title="Claims of the paper",
            columns=[Column(h) for h in (*heads, "holds", "verdict", "reason")],
            rows=rows,
            protocol=self.provenance.protocol,
            data=self.provenance.data,
        )

    def _files(self, folder: Path) -> list[tuple[Path, bytes]]:
        sections = [*self.sections, *self.further]
        tables = [t for section in sections for t in section.tables]
        tables += [self.claims_table] if self.claims else []
        figures = [f for section in sections for f in section.figures]
        for kind, items in (("tables", tables), ("figures", figures)):
            names = [item.name for item in items]
            if len(set(names)) < len(names):
                raise UsageError(f"two {kind} of the report have one name: {sorted(names)}")
        files = [(folder / "tables" / n, c.encode()) for t in tables for n, c in t.files.items()]
        files += [(folder / "figures" / f"{f.name}.png", f.png) for f in figures]
        # The page comes last: where it stands, everything else stands too.
        return [*files, (folder / "report.html", self.html().encode())]
