"""One self-contained HTML page an experiment, and its tables and figures as files beside it.

Everything here is plain data: nothing trains, evaluates or loads a model, and nothing reads a run.
:mod:`ldct_jax.report.make` puts it together.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ldct_jax import hu
from ldct_jax.errors import DataError, UsageError
from ldct_jax.report.figures import Figure
from ldct_jax.report.tables import Column, Table
from ldct_jax.study.claims import Claim
from ldct_jax.system.files import write_bytes

PRESETS = {
    "abdomen": (hu.ABDOMEN.low, hu.ABDOMEN.high),
    "lung": (hu.LUNG.low, hu.LUNG.high),
    "bone": (-550.0, 1450.0),
    "liver": (0.0, 150.0),
    "full": (-1024.0, 1500.0),
}


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
class Viewer:
    """An interactive comparison of image stacks on the page.

    Args:
      stacks: label → (S, H, W) in HU, all of one shape; the first and the last are compared when
        the page opens. Stored as int16 in the page, so values are rounded.
      caption: what is shown, with protocol of selection, data and attribution.
      max_megabytes: bound on the pixels in the page before base64 (which adds a third). Where the
        stacks are larger, evenly spaced slices are shown and the page says how many.
      pixel_mm: for the scale bar, or None.
    """

    stacks: Mapping[str, np.ndarray]
    caption: str
    max_megabytes: float = 12.0
    pixel_mm: float | None = None

    def __post_init__(self):
        shapes = {np.shape(s) for s in self.stacks.values()}
        if len(self.stacks) < 2 or len(shapes) != 1 or len(next(iter(shapes))) != 3:
            raise UsageError(
                "a viewer compares at least two stacks (S, H, W) of one shape, not "
                f"{sorted(map(str, shapes))}"
            )
        for label, stack in self.stacks.items():
            if not np.isfinite(stack).all():
                raise DataError(f"viewer stack {label!r} holds NaN or infinite values")

    def data(self) -> dict:
        """What the page embeds: labels, shape, shown slices, base64 of little-endian int16."""
        n, height, width = next(iter(self.stacks.values())).shape
        affordable = int(self.max_megabytes * 1e6 // (2 * height * width * len(self.stacks)))
        if affordable < 1:
            raise UsageError(
                f"one slice of {len(self.stacks)} stacks of {width}x{height} pixels exceeds "
                f"{self.max_megabytes} MB: raise max_megabytes or show fewer stacks"
            )
        shown = np.unique(np.linspace(0, n - 1, min(n, affordable)).round().astype(int))
        return {
            "labels": list(self.stacks),
            "shape": [len(shown), height, width],
            "slices": (shown + 1).tolist(),
            "of": n,
            "pixel_mm": self.pixel_mm,
            "presets": PRESETS,
            "pixels": [_base64_int16(np.asarray(s)[shown]) for s in self.stacks.values()],
        }


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
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("ldct_jax.report", "templates"),
            autoescape=jinja2.select_autoescape(("html.j2",)),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
        environment.filters["paragraphs"] = lambda text: [
            p.strip() for p in text.split("\n\n") if p.strip()
        ]
        environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
        viewer = None if self.viewer is None else self.viewer.data()
        return environment.get_template("report.html.j2").render(report=self, viewer=viewer)

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


def _base64_int16(stack_hu: np.ndarray) -> str:
    limits = np.iinfo(np.int16)
    pixels = np.clip(np.rint(stack_hu), limits.min, limits.max).astype("<i2")
    return base64.b64encode(pixels.tobytes()).decode("ascii")
