"""Parts of a report that most experiments share, made from what their runs left on the disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ldct_jax.denoise.filters import Gaussian
from ldct_jax.metrics.protocols import Protocol, named, pcn
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.record import from_record
from ldct_jax.report import claims, figures, images, page, physics, significance, tables
from ldct_jax.study.results import Results, Run

# A quarter of the image's side around its centre, a little to the left: the liver, mostly.
ZOOM = (0.36, 0.22, 0.25, 0.25)


ROW_WORDS = {
    "undenoised": "undenoised low dose",
    "gaussian": "Gaussian blur, σ = 1 pixel",
    "median": "median filter, 3x3 pixels",
    "wiener": "Wiener filter, 5x5 pixels",
}

# Beside Tables I to III of the clone networks' paper.
ONE_RANGE = (
    "The paper's rows imply a maximum value between 0.92 and 1.04: its PSNR and RMSE share no "
    "single range (by RMSE, PCN beats RED-CNN by 0.32 dB, not by 1.25)."
)

PaperRow = Sequence[MeanSD | float | None]
"""PSNR, SSIM and RMSE as a paper prints them; None where it doesn't."""


def protocol_of(results: Results) -> Protocol:
    """The protocol that the study's numbers were taken under."""
    if record := results.study.get("protocol_record"):
        return from_record(record)
    # Folders of runs from before the whole protocol was written down.
    name, own = results.study["protocol"], pcn(from_record(results.study["window"]))
    return own if own.name == name else named(name)


def data_words(results: Results) -> str:
    """Data and attribution for captions."""
    data = results.study["data"]
    return data["source"] + (f"; {data['attribution']}" if data["attribution"] else "")


def standard(
    results: Results,
    sections: Sequence[page.Section],
    judged: Sequence[claims.Claim],
    *,
    shown: Mapping[str, str],
    main: str | None = None,
) -> page.Report:
    """A report with the usual head, provenance, and a viewer of ``shown`` (variant → label).

    main: the row that the others are tested against, patient by patient; None where the study's
    own sections do that.
    """
    study = results.study
    tests = []
    if main in results.variants:
        tests = [
            significance.section(
                results,
                main,
                protocol=protocol_of(results),
                data=data_words(results),
                words=ROW_WORDS,
            )
        ]
    return page.Report(
        title=study["title"],
        intro=f"Reproduces {study['reproduces']} at the {study['scale']['name']} scale. "
        f"{study['scale']['words'].capitalize()}.",
        sections=[*sections, *tests, physics.section(results, shown)],
        claims=judged,
        provenance=provenance(results),
        viewer=viewer(results, shown),
    )


def quality_table(
    results: Results,
    *,
    name: str,
    title: str,
    paper: Mapping[str, PaperRow],
    note: str = "",
    where: Mapping[str, Any] | None = None,
    further: Mapping[str, tuple[str, str]] | None = None,
) -> tables.Table:
    """PSNR, SSIM and RMSE by row beside the paper's, the rows that aren't trained first.

    paper: by variant, or by the name of a row that isn't trained. further: text → (variant, name
    of the images that its run scored beside its result).
    """
    protocol = protocol_of(results)
    rows = []

    def add(text, label, parameters, minutes, **which):
        s = results.summary(label, protocol, where=where, **which)
        theirs = paper.get(text, paper.get(label, ())) or (None, None, None)
        rows.append([text, parameters, s.psnr_db, s.ssim, s.rmse, *theirs, minutes])

    for label in results.references:
        add(ROW_WORDS.get(label, label), label, None, None)
    for variant in results.variants:
        runs = results.of(variant)
        minutes = sum(r.result["seconds"]["total"] for r in runs) / 60
        add(variant, variant, runs[0].result["parameters"], minutes)
    for text, (variant, images_name) in (further or {}).items():
        if runs := results.of(variant):
            add(text, variant, runs[0].result["parameters"], None, further=images_name)
    n = len({row["patient"] for r in results.runs for row in r.result["test"][-1]})
    return tables.Table(
        name=name,
        title=title,
        columns=[
            tables.Column("model"),
            tables.Column("parameters", digits=0),
            tables.Column("PSNR", "dB", 2),
            tables.Column("SSIM", digits=4),
            tables.Column("RMSE", protocol.unit, 2 if protocol.rmse_in_hu else 5),
            tables.Column("PSNR, paper", "dB", 2, paper=True),
            tables.Column("SSIM, paper", digits=4, paper=True),
            tables.Column("RMSE, paper", digits=2 if protocol.rmse_in_hu else 4, paper=True),
            tables.Column("time", "min", 1),
        ],
        rows=rows,
        protocol=str(protocol),
        data=f"mean ± SD over {n} test patients; {data_words(results)}",
        note=note,
    )


def training_curves(results: Results, variants: Sequence[str]) -> list[figures.Curve]:
    """RMSE on the training patches against the epoch, mean over repeats."""
    return [
        _mean_curve(v, [r.training_rmse for r in results.of(v)]) for v in variants if results.of(v)
    ]


def training_figures(
    results: Results, variants: Sequence[str], name: str, what: str
) -> list[figures.Figure]:
    """Training RMSE against the epoch; no figure where no row was run."""
    curves = training_curves(results, variants)
    if not curves:
        return []
    unit = protocol_of(results).window.width
    return [
        figures.convergence(
            name,
            f"Training RMSE, {what}",
            curves,
            f"RMSE [1 = {unit:g} HU]",
            caption=f"The result's RMSE on the patches of an epoch, mean over repeats; "
            f"{data_words(results)}.",
        )
    ]


def wasserstein_figure(results: Results) -> list[figures.Figure]:
    """The critics' estimate of the Wasserstein distance by epoch; no figure without a GAN."""
    curves = []
    for variant in results.variants:
        by_run = [r.training_mean("wasserstein") for r in results.of(variant)]
        if any(by_run):
            curves.append(_mean_curve(variant, by_run))
    if not curves:
        return []
    return [
        figures.convergence(
            "wasserstein",
            "The critics' estimate of the Wasserstein distance",
            curves,
            "D(normal dose) - D(denoised)",
            caption=f"Mean over the last critic steps of an epoch; {data_words(results)}.",
        )
    ]


def monitored_curves(results: Results, variants: Sequence[str], key: str) -> list[figures.Curve]:
    """A number that was monitored on whole slices (``test_rmse`` …) against the epoch."""
    curves = []
    for v in variants:
        by_run = [
            {row["epoch"]: row[key] for row in r.history if row.get(key) is not None}
            for r in results.of(v)
        ]
        if any(by_run):
            curves.append(_mean_curve(v, by_run))
    return curves


def _mean_curve(label: str, by_run: list[dict[int, float]]) -> figures.Curve:
    epochs = sorted(set.union(*(set(d) for d in by_run)))
    values = [[d[e] for d in by_run if e in d] for e in epochs]
    return figures.Curve(label, epochs, [float(np.mean(v)) for v in values])


def psnr_by_clone(
    results: Results, variants: Sequence[str], repeats: Collection[int] | None = None
) -> dict[str, list[float]]:
    """Mean test PSNR of the image of each clone, 1 … T, over all repeats or those given."""
    protocol, found = protocol_of(results), {}
    for v in variants:
        if results.of(v, repeats):
            clones = len(results.of(v)[0].result["test"])
            found[v] = [
                results.summary(v, protocol, clone=t, repeats=repeats).psnr_db.mean
                for t in range(clones)
            ]
    return found


def panel(
    results: Results,
    labels: Mapping[str, str],
    *,
    name: str,
    title: str,
    filters: Mapping[str, Any] | None = None,
    dose: float | None = None,
) -> figures.Figure:
    """Reference, low dose, blur and the outputs of ``labels`` (variant → label) on a test slice.

    filters: label → filter, in place of the blur. dose: which of the study's doses.
    """
    shown = slice_images(results, labels, filters=filters, dose=dose)
    height, width = next(iter(shown.values())).shape
    zoom = tuple(round(part * side) for part, side in zip(ZOOM, (height, width) * 2, strict=True))
    arrows = images.landmarks(shown["normal dose"], zoom)
    return images.panels(
        name,
        title,
        shown,
        zoom=zoom,
        arrows=arrows,
        caption="The middle test slice at [-160, 240] HU. Arrows: the small structures that stand "
        f"out most in the normal dose. Data: {data_words(results)}.",
    )


def slice_images(
    results: Results,
    labels: Mapping[str, str],
    *,
    filters: Mapping[str, Any] | None = None,
    dose: float | None = None,
) -> dict[str, np.ndarray]:
    """One test slice, (H, W) HU: normal dose, low dose, filtered, and denoised by ``labels``."""
    first = sample(results.runs[0], results, dose)
    shown = {"normal dose": first["full"], "low dose": first["low"]}
    low = first["low"].astype(np.float32)[None, ..., None]
    for label, filtered in (filters or {"Gaussian blur": Gaussian(1.0)}).items():
        shown[label] = filtered(low)[0, ..., 0]
    for variant, label in labels.items():
        if results.of(variant):
            shown[label] = sample(results.of(variant)[0], results, dose)["clones"][-1]
    return shown


def sample(run: Run, results: Results, dose: float | None = None) -> dict[str, np.ndarray]:
    """A run's sample slice: ``clones`` (T, H, W), ``low``, ``full`` (H, W); by default the last
    of the study's doses, where it has several."""
    doses = results.study["data"]["doses"]
    if len(doses) < 2:
        return run.samples
    place = doses.index(dose) if dose is not None else len(doses) - 1
    return {k: run.samples[k][place] for k in ("clones", "low", "full")}


def viewer(results: Results, labels: Mapping[str, str]) -> page.Viewer:
    """Low dose, the outputs of ``labels`` and the reference, to be compared by hand."""
    first = results.runs[0].samples
    stacks = {"low dose": first["scrolled_low"]}
    for variant, label in labels.items():
        if results.of(variant):
            stacks[label] = results.of(variant)[0].samples["scrolled"]
    stacks["normal dose"] = first["scrolled_full"]
    return page.Viewer(stacks, caption=f"Test slices. Data: {data_words(results)}.")


def provenance(results: Results, more: Mapping[str, str] | None = None) -> page.Provenance:
    """Data, protocol, scale, versions, and where the wall time went."""
    study = results.study
    wall = {"data and set-up": study["wall_s"].get("data", 0.0)}
    for section in ("compile", "train", "evaluate", "save", "other"):
        wall[section] = sum(r.result["seconds"].get(section, 0.0) for r in results.runs)
    wall["report"] = study["wall_s"].get("report", 0.0)
    device = study["device"]
    every_split = (
        f"test {', '.join(s['test'])}, validation {', '.join(s['validation']) or 'none'}, "
        f"training {', '.join(s['train'])}"
        for s in study["splits"]
    )
    splits = "; ".join(dict.fromkeys(every_split))  # several seeds share one
    experiment = results.runs[0].result["record"]["experiment"]
    optimizer, patches = experiment["optimizer"], experiment["patches"]
    return page.Provenance(
        data=data_words(results),
        protocol=str(protocol_of(results)),
        scale=f"{study['scale']['name']}: {study['scale']['words']}",
        commands=[study["command"]],
        versions={**study["versions"], "source revision": study["revision"]},
        device=(
            f"{device['count']} × {device['kind']} ({device['backend']}), {device['cpu']}, "
            f"{device['cores']} cores"
        ),
        wall_seconds=wall,
        extra={
            "split by patient": splits,
            "training": (
                f"{experiment['epochs']} epochs, batch {patches['batch']}, patches of "
                f"{patches['size']}x{patches['size']} at stride {patches['stride']}, "
                f"{_call(optimizer)}, {_seeds(results)}, tables use the "
                f"{experiment['select']} checkpoint"
            ),
            **(more or {}),
        },
    )


def _seeds(results: Results) -> str:
    seeds = sorted({run.result["record"]["experiment"]["seed"] for run in results.runs})
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _call(record) -> str:
    """A record as the constructor call it stands for."""
    if not isinstance(record, dict):
        return repr(record)
    parts = ", ".join(f"{k}={_call(v)}" for k, v in record.items() if k != "type")
    return f"{record.get('type', '')}({parts})"
