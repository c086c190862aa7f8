"""What happened to the images, for people and JSON: HU before and after, clipped pixels."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

from ldct_jax.system.tables import plain_table

NAMED = 5
"""Series that a line names; the JSON names all."""
ALIKE = 3
"""Warnings that differ only in their numbers, of which each has a line of its own."""


@dataclasses.dataclass
class Moments:
    """Mean and standard deviation of values that come in pieces (Chan et al. 1979)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        if not values.size:
            return
        values = values.astype(np.float64).ravel()  # a copy
        n, mean = values.size, float(values.mean())
        values -= mean
        np.square(values, out=values)
        squares = float(values.sum())
        step, total = mean - self.mean, self.n + n
        self.squares += squares + step * step * self.n * n / total
        self.mean += step * n / total
        self.n = total

    @property
    def sd(self) -> float:
        return math.sqrt(self.squares / self.n) if self.n else math.nan


MOVED_HU = 10.0
"""Noise has no mean to speak of, so no denoiser that fits moves the mean of a series that far."""


@dataclasses.dataclass
class Result:
    """One series or volume. Statistics are of the pixels that hold data, in HU.

    ``clipped``: pixels cut to the stored range. ``moved``: pixels taken off the padding value.
    ``cut_by_window``: pixels outside the window of a model that clips its input. ``written`` and
    ``kept``: slices written now, and found finished from an earlier run. ``unchanged``: slices
    written with the stored values that were read, pixel for pixel. ``number``: the SeriesNumber of
    the result; None for volumes.
    """

    name: str
    slices: int
    matrix: tuple[int, int]
    warnings: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    before: Moments = dataclasses.field(default_factory=Moments)
    after: Moments = dataclasses.field(default_factory=Moments)
    change: Moments = dataclasses.field(default_factory=Moments)
    clipped: int = 0
    moved: int = 0
    cut_by_window: int = 0
    written: int = 0
    kept: int = 0
    unchanged: int = 0
    seconds: float = 0.0
    number: int | None = None

    @property
    def title(self) -> str:
        """The name with the number of the result, for warnings."""
        return self.name if self.number is None else f"{self.name} → #{self.number}"

    @property
    def doubt(self) -> str:
        """What the statistics say against the result; empty where they say nothing."""
        if not (self.change.n and abs(self.change.mean) > MOVED_HU):
            return ""
        return f"the mean moved by {self.change.mean:+.0f} HU: the model doesn't fit these images"

    def add(self, before: np.ndarray, change: np.ndarray, no_data: np.ndarray | None) -> None:
        """Count one slice (H, W): its HU before, what was added to them, where it has no data."""
        self.unchanged += not change.any()
        self.written += 1
        if no_data is not None:
            before, change = before[~no_data], change[~no_data]
        self.before.add(before)
        self.after.add(before + change)
        self.change.add(change)

    def row(self) -> dict:
        """Plain numbers for JSON, HU rounded to thousandths."""

        def number(value: float) -> float | None:
            return round(value, 3) if math.isfinite(value) else None

        statistics = {
            f"{what}_hu_{name}": number(value) if moments.n else None
            for what in ("before", "after", "change")
            for moments in (getattr(self, what),)
            for name, value in (("mean", moments.mean), ("sd", moments.sd))
        }
        return {
            "name": self.name,
            "slices": self.slices,
            "matrix": list(self.matrix),
            "written": self.written,
            "kept": self.kept,
            "unchanged": self.unchanged,
            "series_number": self.number,
            **statistics,
            "clipped_pixels": self.clipped,
            "moved_off_padding_pixels": self.moved,
            "outside_window_pixels": self.cut_by_window,
            "seconds": round(self.seconds, 2),
            "warnings": self.warnings,
            "remarks": self.remarks,
        }


@dataclasses.dataclass(frozen=True)
class Summary:
    """A whole run: its results, the files left out, and (name, reason) of what failed.

    ``step``: see :class:`ldct_jax.denoise.models.Denoiser`.

    ``left_out``: (file, reason, kind) as :mod:`ldct_jax.dicom.left_out` has them;
    ``left_out_lines`` the report of them, ``incomplete`` the error line where images were left
    out, else "". ``out``: the folder of the results.
    """

    model: str
    digest: str
    step: int | None
    blend: float
    results: tuple[Result, ...]
    left_out: tuple[tuple[str, str, str], ...] = ()
    left_out_lines: tuple[str, ...] = ()
    incomplete: str = ""
    failed: tuple[tuple[str, str], ...] = ()
    out: str = ""

    def record(self) -> dict:
        """For ``--json``."""
        return {
            "model": self.model,
            "digest": self.digest,
            "step": self.step,
            "blend": self.blend,
            "results": [r.row() for r in self.results],
            "left_out": [{"file": f, "reason": r, "kind": k} for f, r, k in self.left_out],
            "failed": [{"name": n, "reason": r} for n, r in self.failed],
        }

    def text(self) -> str:
        """The table that ends the command; warnings were told as they were found."""
        model = model_line(self.model, self.step, self.digest)
        lines = [f"{model}, blend {self.blend:g}"]
        new = any(r.number is not None for r in self.results)
        head = ("series", "slices", "matrix", "HU before", "HU after", "change", "clipped px")
        rows = [
            (
                r.name,
                *(["–" if r.number is None else f"#{r.number}"] if new else []),
                f"{r.slices}" + (f" ({r.kept} kept)" if r.kept else ""),
                f"{r.matrix[0]}x{r.matrix[1]}",
                *(_pair(m) for m in (r.before, r.after, r.change)),
                str(r.clipped + r.moved),
            )
            for r in self.results
        ]
        lines.append(plain_table(("series", "result", *head[1:]) if new else head, rows))
        lines.append("HU: mean ± sd over the pixels that hold data; change: after - before")
        if new:
            lines.append("#: SeriesNumber; the results are new series of the same studies")
        if any(r.kept for r in self.results):
            lines.append("kept: finished by an earlier run, not computed again")
        if unchanged := sum(r.unchanged for r in self.results):
            slices = (
                "1 slice came out as it"
                if unchanged == 1
                else f"{unchanged} slices came out as they"
            )
            lines.append(f"unchanged: {slices} went in: the model took no noise out")
        if self.out and self.results:
            lines.append(f"results are in {self.out}")
        if len(self.failed) > 1:  # of a single one the error line tells
            lines += [f"failed: {name}: {reason}" for name, reason in self.failed]
        return "\n".join([*lines, *self.left_out_lines])


def model_line(name: str, step: int | None, digest: str) -> str:
    """What a model is, in a summary; a checkpoint says at which step it was saved."""
    saved = "" if step is None else f", step {step}"
    return f"model {name}{saved}, sha256 {digest[:16]}…"


def _pair(moments: Moments) -> str:
    # + 0.0: a mean of -0.04 is not "-0.0".
    return f"{round(moments.mean, 1) + 0.0:.1f} ± {moments.sd:.1f}" if moments.n else "–"


def grouped(told: Iterable[tuple[str, str]]) -> list[str]:
    """(name, text) of many warnings as few lines: a line a text, with the names it holds for.

    Of texts that differ in their numbers alone, the first :data:`ALIKE` have a line of their own.
    """
    by_text: dict[str, list[str]] = {}
    for name, text in told:
        by_text.setdefault(text, []).append(name)
    kinds: dict[str, list[str]] = {}
    for text in by_text:
        kinds.setdefault(re.sub(r"[-+\d.]+", "#", text), []).append(text)
    lines = []
    for texts in kinds.values():
        lines += [f"{_named(by_text[text])}: {text}" for text in texts[:ALIKE]]
        if rest := [name for text in texts[ALIKE:] for name in by_text[text]]:
            lines.append(f"{_named(rest)}: much the same, with other numbers")
    return lines


def _named(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) <= 1:
        return names[0]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} series ({', '.join(names[:NAMED])}{more})"
