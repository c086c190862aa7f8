"""Curves, bars and points as PNG.

Every figure has a title, labelled axes with units, colours that colour-blind readers can tell
apart (Okabe & Ito) and a second cue beside colour. Bytes are a function of the numbers alone for
one version of matplotlib. Image figures stand in :mod:`ldct_jax.report.images`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ldct_jax.errors import UsageError

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#7F7F7F",
)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "//", "..", "xx", "\\\\", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def _marker(i: int) -> str:
    """The i-th curve's marker: another one when the colours come round again."""
    return MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]


STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    # Averages where pixels are many, squares where they are few and large.
    "image.interpolation": "auto",
    "image.cmap": "gray",
}
DPI = 144


@dataclasses.dataclass(frozen=True)
class Figure:
    """A finished figure: name is its file stem; caption names protocol, data and attribution."""

    name: str
    title: str
    caption: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class Curve:
    """y over x, both (K,); NaN leaves a gap. sd: half height of a band around it, or None."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float] | None = None

    def __post_init__(self):
        lengths = {len(v) for v in (self.x, self.y, self.sd) if v is not None}
        if len(lengths) != 1 or 0 in lengths:
            raise UsageError(f"curve {self.label!r} needs as many x as y values, at least one")


@dataclasses.dataclass(frozen=True)
class Point:
    """One labelled measurement; sd: of y, or None."""

    label: str
    x: float
    y: float
    sd: float | None = None


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar: its height, the half height of its whisker, and a mark above it (``*``)."""

    y: float
    sd: float = 0.0
    mark: str = ""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """matplotlib's defaults and ours, whatever the user's matplotlibrc says."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def canvas(width: float, height: float):
    """An empty matplotlib figure of that size in inches, outside pyplot's global state."""
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height), dpi=DPI, layout="constrained")


def finish(fig, name: str, title: str, caption: str) -> Figure:
    """Render to PNG, without the version and time stamps that would change its bytes."""
    out = io.BytesIO()
    fig.savefig(out, format="png", metadata={"Software": None})
    return Figure(name, title, caption, out.getvalue())


def lines(
    name: str,
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    *,
    caption: str = "",
    references: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = False,
    y_range: tuple[float, float] | None = None,
) -> Figure:
    """Several curves in one plot. Labels carry units: ``PSNR [dB]``.

    references: label → level of a horizontal line, such as the undenoised image. y_range cuts
    what lies outside (a first epoch that would flatten the rest); say so in the caption.
    """
    if not curves:
        raise UsageError(f"figure {name!r} has no curves")
    with style():
        outside = len(curves) > 3
        fig = canvas(7.2 if outside else 6.0, 3.8)
        axes = fig.add_subplot()
        for i, curve in enumerate(curves):
            colour, x, y = COLOURS[i % len(COLOURS)], np.asarray(curve.x), np.asarray(curve.y)
            axes.plot(
                x,
                y,
                color=colour,
                linestyle=DASHES[i % len(DASHES)],
                marker=_marker(i) if markers or len(x) == 1 else "",
                markersize=4.5,
                label=curve.label,
            )
            if curve.sd is not None:
                sd = np.asarray(curve.sd)
                axes.fill_between(x, y - sd, y + sd, color=colour, alpha=0.15, linewidth=0)
        for i, (label, level) in enumerate((references or {}).items()):
            axes.axhline(level, color="#555555", linewidth=1.1, linestyle=(":", "--")[i % 2])
            # On the plot itself, where the line is, rather than in an already long legend.
            axes.annotate(
                label,
                (1, level),
                xycoords=axes.get_yaxis_transform(),
                ha="right",
                va="bottom",
                fontsize=8,
                color="#333333",
            )
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        if y_range:
            axes.set_ylim(*y_range)
        if not log_x and all(float(v).is_integer() for c in curves for v in c.x):
            axes.xaxis.get_major_locator().set_params(integer=True)
        if outside:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        elif len(curves) > 1:
            axes.legend()
        return finish(fig, name, title, caption)


def bars(
    name: str,
    title: str,
    groups: Sequence[str],
    values: Mapping[str, Sequence[Bar]],
    x_label: str,
    y_label: str,
    *,
    caption: str = "",
) -> Figure:
    """Groups of bars, label → one bar a group (dncnn_dose Fig 6 and 7). The axis begins below the
    lowest bar, not at zero, for the differences are small; its numbers say so."""
    if not values or any(len(v) != len(groups) for v in values.values()):
        raise UsageError(
            f"figure {name!r} needs a bar of every row in each of {len(groups)} groups"
        )
    width = 0.8 / len(values)
    low = min(b.y - b.sd for row in values.values() for b in row)
    high = max(b.y + b.sd for row in values.values() for b in row)
    room = 0.15 * (high - low) or 0.1
    with style():
        fig = canvas(8.4, 3.8)
        axes = fig.add_subplot()
        for i, (label, row) in enumerate(values.items()):
            x = np.arange(len(groups)) + (i - (len(values) - 1) / 2) * width
            axes.bar(
                x,
                [b.y for b in row],
                width,
                yerr=[b.sd for b in row],
                capsize=2,
                color=COLOURS[i % len(COLOURS)],
                hatch=HATCHES[i % len(HATCHES)],
                edgecolor="white",
                label=label,
            )
            for place, bar in zip(x, row, strict=True):
                axes.annotate(bar.mark, (place, bar.y + bar.sd), ha="center", va="bottom")
        axes.set(title=title, xlabel=x_label, ylabel=y_label, ylim=(low - room, high + room))
        axes.set_xticks(range(len(groups)), groups)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return finish(fig, name, title, caption)


def points(
    name: str,
    title: str,
    marks: Sequence[Point],
    x_label: str,
    y_label: str,
    *,
    caption: str = "",
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Labelled points over a logarithmic axis, such as PSNR against the number of parameters."""
    if not marks:
        raise UsageError(f"figure {name!r} has no points")
    with style():
        fig = canvas(6.4, 4.2)
        axes = fig.add_subplot()
        for i, mark in enumerate(marks):
            axes.errorbar(
                mark.x,
                mark.y,
                yerr=mark.sd,
                color=COLOURS[i % len(COLOURS)],
                marker=_marker(i),
                markersize=7,
                linestyle="none",
                capsize=3,
                label=mark.label,
            )
        for label, level in (references or {}).items():
            axes.axhline(level, color="#555555", linewidth=1.1, linestyle=":", label=label)
        axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log")
        axes.margins(0.08)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return finish(fig, name, title, caption)
