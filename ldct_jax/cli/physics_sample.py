"""The page of CT series: what a data set looks like, and what is known of it."""

from __future__ import annotations

from pathlib import Path

from ldct_jax.data.source import open_store
from ldct_jax.report.images import panels
from ldct_jax.report.tables import Column, Table
from ldct_jax.system.accelerator import cache_folder

PLACES = (0.2, 0.5, 0.8)  # of a series' slices


def sample_report(data: str | Path):
    """Tables and figures of ``ldct physics sample``."""
    store = open_store(data, cache=cache_folder() / "stores")
    rows, figures = [], []
    for i, series in enumerate(store.series):
        stack = store.full(i)
        shown = {}
        for place in PLACES:
            k = round(place * (len(stack) - 1))
            shown[f"slice {k + 1} of {len(stack)}"] = stack[k]
        figures.append(
            panels(
                f"sample_{i + 1}",
                f"Series {i + 1}: {series.manufacturer} {series.kernel}",
                shown,
                columns=len(shown),
                caption=store.attribution,
            )
        )
        rows.append(
            [
                i + 1,
                series.patient,
                len(stack),
                series.pixel_mm,
                series.slice_mm,
                series.kernel,
                series.noise_hu,
                "; ".join(series.notes) or "–",
            ]
        )
    table = Table(
        "sample",
        "CT series",
        [
            Column("series", digits=0),
            Column("patient"),
            Column("slices", digits=0),
            Column("pixel", "mm", 3),
            Column("thickness", "mm", 2),
            Column("kernel"),
            Column("own noise", "HU", 1),
            Column("notes"),
        ],
        rows,
        protocol="SD in flat tissue (ldct_jax/data/flat_noise.py)",
        data="; ".join(part for part in (store.source, store.attribution) if part),
    )
    return [table], figures
