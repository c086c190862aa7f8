"""Blocks that show CT images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldct_jax import hu
from ldct_jax.denoise.filters import Gaussian
from ldct_jax.metrics.noise import band_mask, noise_analysis
from ldct_jax.report import images, tables
from ldct_jax.report.figures import Figure
from ldct_jax.report.found import Found

# A quarter of the image's side around its centre, a little to the left: the liver, mostly.
ZOOM = (0.36, 0.22, 0.25, 0.25)
BLUR = {"Gaussian blur": Gaussian(1.0)}


@dataclasses.dataclass(frozen=True)
class Panel:
    """A test slice: normal and low dose, ``filters`` of the latter, and what the rows made of it,
    with a magnified region.

    rows: row → label, or names alone; None for all. at: which of the slices of the interactive
    comparison, None for the middle test slice. dose: of the tested doses, this one. kept: label →
    name of an array in the run's samples, in place of those; a label with ``{row}`` stands for one
    image a row. regions: name of an array (H, W) in the samples whose 1 and 2 are outlined in the
    magnified region, which lies around them. window: HU. ``kept="NAME"`` stands for the arrays
    that a measure kept as ``NAME_full``, ``NAME_low`` and ``NAME_result``.
    """

    title: str = "A test slice"
    rows: Mapping[str, str] | Sequence[str] | None = None
    at: int | None = None
    dose: float | None = None
    window: hu.Window = hu.ABDOMEN
    filters: Mapping[str, Any] = dataclasses.field(default_factory=lambda: BLUR)
    kept: Mapping[str, str] | str = dataclasses.field(default_factory=dict)
    zoom: tuple[float, float, float, float] = ZOOM
    regions: str | None = None

    def render(self, found: Found) -> list[Figure]:
        if self.dose is not None and self.dose not in found.doses:
            return []
        labels = self.rows if isinstance(self.rows, Mapping) else {}
        rows = found.ran(None if self.rows is None else list(self.rows))
        if self.kept:
            shown = self._kept(found, rows)
        else:
            shown = found.slices(rows, self.filters, self.dose, self.at)
        if not shown:
            return []
        shown = {labels.get(k, k): v for k, v in shown.items()}
        reference = next(iter(shown.values()))
        height, width = reference.shape
        zoom = tuple(round(p * s) for p, s in zip(self.zoom, (height, width) * 2, strict=True))
        runs, outlined = found.results.shown, None
        samples = runs[rows[0]].samples if rows and rows[0] in runs else {}
        if self.regions in samples:
            outlined = samples[self.regions]
            zoom = _around(outlined)
        arrows = images.landmarks(reference, zoom, self.window) if outlined is None else ()
        what = "Arrows: the small structures that stand out most in the first image"
        if outlined is not None:
            what = "Outlined: foreground and background of the contrast-to-noise ratio"
        return [
            images.panels(
                tables.stem(self.title),
                self.title,
                shown,
                window=self.window,
                zoom=zoom,
                arrows=arrows,
                regions=outlined,
                caption=f"A test slice at {self.window}. {what}. Data: {found.data}.",
            )
        ]

    def _kept(self, found: Found, rows: Sequence[str]) -> dict[str, np.ndarray]:
        shown, kept = {}, self.kept
        if isinstance(kept, str):
            labels = {"normal dose": "full", "low dose": "low", "{row}": "result"}
            kept = {label: f"{self.kept}_{which}" for label, which in labels.items()}
        for label, name in kept.items():
            for row in rows if "{row}" in label else rows[:1]:
                run = found.results.shown.get(row)
                if run is not None and name in (samples := run.samples):
                    shown[label.format(row=row)] = samples[name]
        return shown


def _around(regions: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a square around the outlined regions, with a margin."""
    places = np.argwhere(regions > 0)
    low, high = places.min(0), places.max(0)
    side = min(int(1.5 * (high - low).max()) + 4, *regions.shape)
    corner = np.clip((low + high - side) // 2, 0, np.array(regions.shape) - side)
    return int(corner[0]), int(corner[1]), side, side


@dataclasses.dataclass(frozen=True)
class Profile:
    """CT numbers along the middle column of the test slice, one plot an image (dncnn_dose Fig 4):
    the normal dose, the low dose and one result in each."""

    title: str
    rows: Sequence[str] | None = None
    filters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dose: float | None = None

    def render(self, found: Found) -> list[Figure]:
        if self.dose is not None and self.dose not in found.doses:
            return []
        shown = found.slices(self.rows, self.filters, self.dose)
        reference, low = shown.pop("normal dose"), shown.pop("low dose")
        return [
            images.profiles(
                tables.stem(self.title),
                self.title,
                reference,
                low,
                shown,
                column=reference.shape[1] // 2,
                pixel_mm=found.results.study["data"]["pixel_mm"],
                caption=f"The middle test slice. Data: {found.data}.",
            )
        ]


@dataclasses.dataclass(frozen=True)
class NoiseAnalysis:
    """What the removed noise of each row is made of, on one slice (hrnet Fig 8)."""

    title: str
    rows: Sequence[str] | None = None

    def render(self, found: Found) -> list[Figure]:
        made = []
        for row in found.ran(self.rows):
            s = found.sample(found.results.of(row)[0])
            low, out, full = (
                np.asarray(a, float)[None] for a in (s["low"], s["clones"][-1], s["full"])
            )
            made.append(
                images.noise_analysis(
                    f"{tables.stem(self.title)}_{tables.stem(row)}",
                    f"{self.title}, {row}",
                    low,
                    out,
                    noise_analysis(low, out, full),
                    band_mask(low.shape[1:]),
                    caption=f"One test slice. Data: {found.data}.",
                )
            )
        return made
