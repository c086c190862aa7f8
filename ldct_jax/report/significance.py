"""Which differences between rows are more than chance: tests over patients, never over slices."""

from __future__ import annotations

from collections.abc import Mapping

from ldct_jax.metrics import statistics
from ldct_jax.metrics.protocols import Protocol
from ldct_jax.report import page, tables
from ldct_jax.results import Results

LEVEL = 0.95


def section(
    results: Results, main: str, *, protocol: Protocol, data: str, words: Mapping[str, str]
) -> page.Section:
    """Every row of a study against ``main``: bootstrap interval, paired t and Wilcoxon tests.

    data: for captions. words: row → how it is called in tables.
    """
    ours = results.summary(main, protocol)
    patients = list(ours.values("psnr_db"))
    title = f"Is it more than chance? {main} against the other rows"
    if len(patients) < 2:
        return page.Section(
            title, "One test patient: nothing can be tested. Slices are no patients."
        )
    rows = []
    for label in (*results.references, *results.variants):
        theirs = results.summary(label, protocol)
        if label == main or set(theirs.values("psnr_db")) != set(patients):
            continue  # a row that was tested on other patients can't be paired
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
    least = 2.0 ** (1 - len(patients))
    return page.Section(
        title,
        f"Means over each patient's slices, {main} minus the row; with {len(patients)} patients a "
        f"Wilcoxon test can't give less than p = {least:.2g}.",
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
