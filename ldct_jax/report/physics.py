"""The part of a report that PSNR can't fill: texture, resolution, lesions, CT numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldct_jax.metrics.quality_phantom import BODY_HU, DISCS
from ldct_jax.record import from_record
from ldct_jax.report import figures, page, tables
from ldct_jax.report.found import Found
from ldct_jax.study.results import Results

MATERIALS = {"soft tissue": BODY_HU, **{name: hu for name, (hu, _, _) in DISCS.items()}}
MAX_CURVES = 8
"""More can't be told apart."""


def section(given: Found) -> page.Section:
    """Every row of a study on the quality phantom: one table, spectra, transfer functions."""
    results, labels = given.results, given.rows
    found = {label: results.quality(label) for label in labels}
    room = max(0, MAX_CURVES - len(results.references))
    drawn = [*results.references, *spread(results.variants, room)]
    phantom = found[labels[0]][0]["phantom"]
    lesion_hu = phantom["contrast"] * phantom["noise_hu"]
    words = (
        f"flat body of {BODY_HU:g} HU, {phantom['size']}x{phantom['size']} pixels of "
        f"{phantom['pixel_mm']:.3g} mm, noise of {phantom['noise_hu']:.3g} HU as in the test "
        f"slices; ten lesions of {lesion_hu:.3g} HU; {phantom['realisations']} realisations with "
        "and as many without them"
    )
    return page.Section(
        "Noise texture, resolution, lesions and CT numbers",
        "On a phantom whose truth is known. A blur can win PSNR and CNR; it can't keep the "
        "transfer function or the noise's mean frequency, and it doesn't make a lesion easier to "
        "detect.",
        tables=[_table(results, found, words)],
        figures=_spectra(found, drawn, words) + _transfer(found, drawn, words),
    )


def spread(rows: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of the rows, evenly spread, first and last included."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[i] for i in places]


def _table(results: Results, found: dict[str, list[dict]], words: str) -> tables.Table:
    window = from_record(results.study["window"])
    # A window that cuts makes the CT numbers outside of it meaningless.
    seen = [m for m, hu in MATERIALS.items() if not window.clip or window.low < hu < window.high]
    rows = [
        [
            label,
            _mean(measured, "noise_hu"),
            _mean(measured, "nps_mean_per_mm"),
            *(_f50(measured, contrast) for contrast in measured[0]["ttf"]),
            _mean(measured, "cnr"),
            _mean(measured, "d_prime"),
            _mean(measured, "auc"),
            *(float(np.mean([m["bias_hu"][material] for m in measured])) for material in seen),
        ]
        for label, measured in found.items()
    ]
    contrasts = next(iter(found.values()))[0]["ttf"]
    return tables.Table(
        name="quality_phantom",
        title="Quality phantom",
        columns=[
            tables.Column("model"),
            tables.Column("noise SD", "HU", 2),
            tables.Column("mean noise frequency", "1/mm", 3),
            *(tables.Column(f"TTF 50 %, {contrast}", "1/mm", 3) for contrast in contrasts),
            tables.Column("CNR of a lesion", digits=2),
            tables.Column("d′ (CHO)", digits=2),
            tables.Column("AUC (CHO)", digits=3),
            *(tables.Column(f"bias, {material}", "HU", 1) for material in seen),
        ],
        rows=rows,
        protocol="AAPM TG-233 for spectrum and transfer function; channelised Hotelling observer "
        f"with {_channels(found)}, trained and tested on different images",
        data=words,
        note="TTF 50 %: where the edge of a disc falls to half its contrast; a dash where it "
        "doesn't below the Nyquist frequency, or where the noise hides the edge. Bias: result "
        "minus truth.",
    )


def _channels(found: dict[str, list[dict]]) -> str:
    """The observer's channels as the runs recorded them; older ones didn't say how many."""
    records = [m for measured in found.values() for m in measured]
    seen = [m.get("n_channels") for m in records if m["d_prime"] is not None]
    if not seen or None in seen:
        return "Laguerre-Gauss channels"
    return f"{' or '.join(str(n) for n in sorted(set(seen)))} Laguerre-Gauss channels"


def _spectra(found, labels: Sequence[str], words: str) -> list[figures.Figure]:
    curves = [
        figures.Curve(label, found[label][0]["nps_per_mm"], found[label][0]["nps"])
        for label in labels
        if found[label][0]["nps"]
    ]
    if not curves:
        return []
    return [
        figures.lines(
            "noise_power",
            "Noise power spectrum",
            curves,
            "spatial frequency [1/mm]",
            "NPS [HU² mm²]",
            log_y=True,
            caption=f"Noise left in the flat body; {words}.",
        )
    ]


def _transfer(found, labels: Sequence[str], words: str) -> list[figures.Figure]:
    made = []
    for contrast in found[labels[0]][0]["ttf"]:
        curves = [
            figures.Curve(label, ttf["per_mm"], ttf["ttf"])
            for label in labels
            if (ttf := found[label][0]["ttf"][contrast]) is not None
        ]
        if curves:
            made.append(
                figures.lines(
                    f"transfer_{contrast.split()[0]}",
                    f"Task transfer function, {contrast}",
                    curves,
                    "spatial frequency [1/mm]",
                    "TTF",
                    y_range=(0.0, 1.3),
                    caption=f"At the edge of a disc; {words}.",
                )
            )
    return made


def _mean(measured: list[dict], key: str) -> float | None:
    values = [m[key] for m in measured]
    return None if None in values else float(np.mean(values))


def _f50(measured: list[dict], contrast: str) -> float | None:
    values = [
        None if m["ttf"][contrast] is None else m["ttf"][contrast]["f50_per_mm"] for m in measured
    ]
    return None if None in values else float(np.mean(values))
