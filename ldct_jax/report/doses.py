"""Parts of a report on several doses: curves and paired tests by dose."""

from __future__ import annotations

import numpy as np

from ldct_jax.metrics import statistics
from ldct_jax.report import figures, tables
from ldct_jax.report import from_results as parts
from ldct_jax.study.results import Results

SIGNIFICANT = 0.05


def by_dose(results: Results, name: str, title: str, metric: str, y_label: str) -> figures.Figure:
    """A metric (``psnr_db``, ``ssim``, ``rmse``) of every row against the dose, mean and SD."""
    protocol, doses = parts.protocol_of(results), results.study["data"]["doses"]
    curves = []
    for label in (*results.references, *results.variants):
        found = [
            getattr(results.summary(label, protocol, where={"dose": d}), metric) for d in doses
        ]
        percent, sd = [100 * d for d in doses], [m.sd or 0.0 for m in found]
        words = parts.ROW_WORDS.get(label, label)
        curves.append(figures.Curve(words, percent, [m.mean for m in found], sd))
    caption = f"Mean and SD over patients; protocol {protocol.name}; {parts.data_words(results)}."
    return figures.lines(
        name, title, curves, "dose [%]", y_label, log_x=True, markers=True, caption=caption
    )


def bias_by_dose(results: Results, name: str, title: str) -> figures.Figure:
    """The measured ``bias_hu`` of every row against the dose, mean over repeats."""
    curves = []
    for label in (*results.references, *results.variants):
        found = [n["bias_hu"] for n in results.numbers(label)]
        values = [
            float(np.mean([np.nan if f[dose] is None else f[dose] for f in found]))
            for dose in found[0]
        ]
        percent = [100 * float(dose) for dose in found[0]]
        curves.append(figures.Curve(parts.ROW_WORDS.get(label, label), percent, values))
    return figures.lines(
        name,
        title,
        curves,
        "dose [%]",
        "bias [HU]",
        log_x=True,
        markers=True,
        references={"none": 0.0},
        caption=f"Mean over repeats; {parts.data_words(results)}.",
    )


def paired_tests(results: Results, dose: float, against: str) -> tables.Table:
    """SSIM and PSNR of every row minus those of ``against``, two-tailed paired t-test over
    patients; ``*`` marks p below :data:`SIGNIFICANT`."""
    protocol, where = parts.protocol_of(results), {"dose": dose}
    rows = []
    for label in (*results.references, *results.variants):
        if label == against or not results.of(against):
            continue
        ours, theirs = (results.summary(v, protocol, where=where) for v in (label, against))
        cells = []
        for metric in ("ssim", "psnr_db"):
            a, b = ours.values(metric), theirs.values(metric)
            found = statistics.paired(list(a.values()), [b[p] for p in a], list(a))
            mark = " *" if found.t_p < SIGNIFICANT else ""
            cells += [found.mean_difference, f"{found.t_p:.3f}{mark}"]
        rows.append([parts.ROW_WORDS.get(label, label), *cells, found.n])
    return tables.Table(
        name=f"tests_{dose * 100:g}",
        title=f"Against {against} at {dose:.0%} of the dose",
        columns=[
            tables.Column("model"),
            tables.Column("SSIM difference", digits=4),
            tables.Column("p (SSIM)"),
            tables.Column("PSNR difference", "dB", 2),
            tables.Column("p (PSNR)"),
            tables.Column("patients", digits=0),
        ],
        rows=rows,
        protocol=str(protocol),
        data=parts.data_words(results),
        note=f"p: two-tailed paired t-test over patients; * p < {SIGNIFICANT:g}.",
    )
