"""Parts of a report that most experiments share, made from what their runs left on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ldct_jax import spec
from ldct_jax.evaluate import gaussian_blur
from ldct_jax.metrics.protocols import Protocol, pcn
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.report import claims, figures, images, page, tables
from ldct_jax.results import Results

# A quarter of the image's side around its centre, a little to the left: the liver, mostly.
ZOOM = (0.36, 0.22, 0.25, 0.25)


def protocol_of(results: Results) -> Protocol:
    """The protocol that the study's numbers were taken under."""
    return pcn(spec.from_record(results.study["window"]))


def data_words(results: Results) -> str:
    """Data and attribution for captions."""
    data = results.study["data"]
    return data["source"] + (f"; {data['attribution']}" if data["attribution"] else "")


def quality_table(
    results: Results,
    *,
    name: str,
    title: str,
    paper: Mapping[str, tuple[MeanSD, MeanSD, MeanSD]],
    note: str = "",
) -> tables.Table:
    """PSNR, SSIM and RMSE by variant beside the paper's, with the rows that aren't trained."""
    protocol = protocol_of(results)
    rows = []
    for label in ("undenoised", "gaussian"):
        s = results.summary(label, protocol)
        text = "undenoised low dose" if label == "undenoised" else "Gaussian blur, σ = 1 pixel"
        rows.append([text, None, s.psnr_db, s.ssim, s.rmse, None, None, None, None])
    for variant in results.variants:
        s = results.summary(variant, protocol)
        runs = results.of(variant)
        theirs = paper.get(variant, (None, None, None))
        minutes = sum(r.result["seconds"]["total"] for r in runs) / 60
        parameters = runs[0].result["parameters"]
        rows.append([variant, parameters, s.psnr_db, s.ssim, s.rmse, *theirs, minutes])
    n = len({row["patient"] for r in results.runs for row in r.result["test"][-1]})
    return tables.Table(
        name=name,
        title=title,
        columns=[
            tables.Column("model"),
            tables.Column("parameters", digits=0),
            tables.Column("PSNR", "dB", 2),
            tables.Column("SSIM", digits=4),
            tables.Column("RMSE", protocol.unit, 5),
            tables.Column("PSNR, paper", "dB", 2, paper=True),
            tables.Column("SSIM, paper", digits=4, paper=True),
            tables.Column("RMSE, paper", digits=4, paper=True),
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


def psnr_by_clone(results: Results, variants: Sequence[str]) -> dict[str, list[float]]:
    """Mean test PSNR of the image of each clone, 1 … T."""
    protocol, found = protocol_of(results), {}
    for v in variants:
        if results.of(v):
            clones = len(results.of(v)[0].result["test"])
            found[v] = [results.summary(v, protocol, clone=t).psnr_db.mean for t in range(clones)]
    return found


def panel(results: Results, labels: Mapping[str, str], *, name: str, title: str) -> figures.Figure:
    """Reference, low dose, blur and the outputs of ``labels`` (variant → label) on a test slice."""
    first = results.runs[0].samples
    shown = {
        "normal dose": first["full"],
        "low dose": first["low"],
        "Gaussian blur": gaussian_blur(first["low"][None])[0],
    }
    for variant, label in labels.items():
        if results.of(variant):
            shown[label] = results.of(variant)[0].samples["clones"][-1]
    height, width = first["full"].shape
    zoom = tuple(round(part * side) for part, side in zip(ZOOM, (height, width) * 2, strict=True))
    return images.panels(
        name,
        title,
        shown,
        zoom=zoom,
        caption=f"The middle test slice at [-160, 240] HU. Data: {data_words(results)}.",
    )


def viewer(results: Results, labels: Mapping[str, str]) -> page.Viewer:
    """Low dose, the outputs of ``labels`` and the reference, to be compared by hand."""
    first = results.runs[0].samples
    stacks = {"low dose": first["low"][None]}
    for variant, label in labels.items():
        if results.of(variant):
            stacks[label] = results.of(variant)[0].samples["clones"][-1][None]
    stacks["normal dose"] = first["full"][None]
    return page.Viewer(stacks, caption=f"The middle test slice. Data: {data_words(results)}.")


def compare(
    results: Results,
    claim: str,
    better: str,
    worse: str,
    *,
    measured: str | None = None,
) -> claims.Claim:
    """A claim that one variant has the higher test PSNR than another; one number a repeat."""
    measured = measured or f"PSNR of {better} minus {worse}"
    if reason := unlearnt(results, (better, worse)):
        return claims.untested(claim, reason)
    differences = [
        _psnr(a.result["test"][-1]) - _psnr(b.result["test"][-1])
        for a, b in zip(results.of(better), results.of(worse), strict=True)
    ]
    return claims.judge(claim, f"{measured} ({protocol_of(results).name})", differences, "dB")


def unlearnt(results: Results, variants: Sequence[str]) -> str:
    """Why a claim about these variants can't be tested; empty where it can."""
    protocol = protocol_of(results)
    undenoised = results.summary("undenoised", protocol).psnr_db.mean
    for v in variants:
        if not results.of(v):
            return f"{v} was not run"
        found = results.summary(v, protocol).psnr_db.mean
        if not found > undenoised:
            return f"{v} ended at {found:.2f} dB, not above the undenoised {undenoised:.2f} dB"
    return ""


def _psnr(rows: Sequence[dict]) -> float:
    """Mean over patients of the mean over slices, dB."""
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        by_patient.setdefault(row["patient"], []).append(row["psnr_db"])
    return float(np.mean([np.mean(v) for v in by_patient.values()]))


def provenance(results: Results, more: Mapping[str, str] | None = None) -> page.Provenance:
    """Data, protocol, scale, versions, and where the wall time went."""
    study = results.study
    wall = {"data and set-up": study["wall_s"].get("data", 0.0)}
    for section in ("compile", "train", "evaluate", "save", "other"):
        wall[section] = sum(r.result["seconds"].get(section, 0.0) for r in results.runs)
    wall["report"] = study["wall_s"].get("report", 0.0)
    device = study["device"]
    splits = "; ".join(
        f"test {', '.join(s['test'])}, validation {', '.join(s['validation']) or 'none'}, "
        f"training {', '.join(s['train'])}"
        for s in study["splits"]
    )
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
                f"{_call(optimizer)}, seed {experiment['seed']}, tables use the "
                f"{experiment['select']} checkpoint"
            ),
            **(more or {}),
        },
    )


def _call(record) -> str:
    """A record as the constructor call it stands for."""
    if not isinstance(record, dict):
        return repr(record)
    parts = ", ".join(f"{k}={_call(v)}" for k, v in record.items() if k != "type")
    return f"{record.get('type', '')}({parts})"
