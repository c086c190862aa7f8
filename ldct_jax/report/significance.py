"""Which differences between rows are more than chance: tests over patients, never over slices."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ldct_jax.metrics import statistics
from ldct_jax.metrics.protocols import Protocol
from ldct_jax.report import page, tables
from ldct_jax.study.results import Results

LEVEL = 0.95


def section(
    results: Results, main: str, *, protocol: Protocol, data: str, words: Mapping[str, str]
) -> page.Section:
    """Every row of a study against ``main``: bootstrap interval, paired t and Wilcoxon tests.

    data: for captions. words: row → how it is called in tables.
    """
    title = f"Is it more than chance? {main} against the other rows"
    rows, most = [], 0
    for label in (*results.references, *results.variants):
        shared = results.shared_repeats(main, label)
        if label == main or not shared:
            continue
        ours, theirs = (results.summary(row, protocol, repeats=shared) for row in (main, label))
        # An image that equals its reference has an infinite PSNR, which no test can take.
        both = (ours.values("psnr_db"), theirs.values("psnr_db"))
        patients = [p for p in both[0] if all(math.isfinite(x[p]) for x in both)]
        if len(patients) < 2:
            continue
        most = max(most, len(patients))
        cells: list = []
        for metric, digits in (("psnr_db", 2), ("ssim", 4)):
            a, b = ours.values(metric), theirs.values(metric)
            found = statistics.paired([a[p] for p in patients], [b[p] for p in patients], patients)
            cells += [
                found.mean_difference,
                f"{found.low:.{digits}f} to {found.high:.{digits}f}",
                found.t_p,
                found.wilcoxon_p,
            ]
        rows.append([words.get(label, label), *cells, len(patients)])
    if not rows:
        return page.Section(
            title, "One test patient: nothing can be tested. Slices are no patients."
        )
    return page.Section(
        title,
        f"Means over each patient's slices, {main} minus the row, of the splits and seeds that "
        f"both have; with {most} patients a Wilcoxon test can't give less than "
        f"p = {2.0 ** (1 - most):.2g}.",
        tables=[
            tables.Table(
                name="paired_tests",
                title=f"{main} minus the row, patient by patient",
                columns=[
                    tables.Column("model"),
                    *(
                        tables.Column(*column)
                        for name, unit, digits in (("PSNR", "dB", 2), ("SSIM", "", 4))
                        for column in (
                            (f"{name} difference", unit, digits),
                            (f"{name}, {LEVEL:.0%} interval", unit),
                            (f"p (t), {name}", "", 4),
                            (f"p (Wilcoxon), {name}", "", 4),
                        )
                    ),
                    tables.Column("patients", digits=0),
                ],
                rows=rows,
                protocol=str(protocol),
                data=data,
                note="Intervals: bootstrap over patients. Both tests are paired and two-sided.",
            )
        ],
    )
