"""What happened to the images, for people and JSON: HU before and after, clipped pixels."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


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


@dataclasses.dataclass
class Result:
    """One series or volume. Statistics are of the pixels outside padding, in HU.

    ``clipped``: pixels cut to the stored range. ``moved``: pixels taken off the padding value.
    ``cut_by_window``: pixels outside the window of a model that clips its input. ``written`` and
    ``kept``: slices written now, and found finished from an earlier run. ``unchanged``: slices
    written with the HU that were read, pixel for pixel. ``number``: the SeriesNumber of the result;
    None for volumes.
    """

    name: str
    slices: int
    matrix: tuple[int, int]
    warnings: list[str] = dataclasses.field(default_factory=list)
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

    def add(
        self, before: np.ndarray, after: np.ndarray, padding: np.ndarray | None, slices: int = 1
    ) -> None:
        """Count the HU of so many slices before and after, outside ``padding``."""
        same = np.reshape(before == after, (slices, -1))
        self.unchanged += int(np.count_nonzero(same.all(axis=1)))
        if padding is not None:
            before, after = before[~padding], after[~padding]
        self.before.add(before)
        self.after.add(after)
        self.change.add(after - before)
        self.written += slices

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
        }


@dataclasses.dataclass(frozen=True)
class Summary:
    """A whole run: results, and (name, reason) of the files left out and of what failed.

    ``out``: the folder of the results. ``others``: files passed over that nothing marks as images.
    """

    model: str
    digest: str
    blend: float
    results: tuple[Result, ...]
    left_out: tuple[tuple[str, str], ...]
    damaged: int
    failed: tuple[tuple[str, str], ...] = ()
    out: str = ""
    others: int = 0

    def record(self) -> dict:
        """For ``--json``."""
        return {
            "model": self.model,
            "digest": self.digest,
            "blend": self.blend,
            "results": [r.row() for r in self.results],
            "left_out": [{"file": f, "reason": r} for f, r in self.left_out],
            "failed": [{"name": n, "reason": r} for n, r in self.failed],
            "other_files": self.others,
        }

    def text(self) -> str:
        """The table that ends the command; warnings were told as they were found."""
        lines = [f"model {self.model}, sha256 {self.digest[:16]}…, blend {self.blend:g}"]
        new = any(r.number is not None for r in self.results)
        head = ("series", "slices", "matrix", "HU before", "HU after", "change", "clipped px")
        rows = [("series", "result", *head[1:]) if new else head]
        for r in self.results:
            rows.append(
                (
                    r.name,
                    *(["–" if r.number is None else f"#{r.number}"] if new else []),
                    f"{r.slices}" + (f" ({r.kept} kept)" if r.kept else ""),
                    f"{r.matrix[0]}x{r.matrix[1]}",
                    *(_pair(m) for m in (r.before, r.after, r.change)),
                    str(r.clipped + r.moved),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            lines.append("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
        lines.append("HU: mean ± sd over the pixels outside padding; change: after - before")
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
        lines += [f"left out: {file}: {reason}" for file, reason in self.left_out[:10]]
        lines += [f"failed: {name}: {reason}" for name, reason in self.failed]
        if len(self.left_out) > 10:
            lines.append(f"left out: {len(self.left_out) - 10} more files")
        if self.others:
            files = f"{self.others} file{'s' * (self.others > 1)}"
            lines.append(f"passed over: {files} without the mark of a DICOM file")
        return "\n".join(lines)


def _pair(moments: Moments) -> str:
    # + 0.0: a mean of -0.04 is not "-0.0".
    return f"{round(moments.mean, 1) + 0.0:.1f} ± {moments.sd:.1f}" if moments.n else "–"
