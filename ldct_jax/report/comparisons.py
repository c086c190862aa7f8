"""Claims of papers, judged by what a study's runs left on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldct_jax.report import claims
from ldct_jax.report.from_results import protocol_of
from ldct_jax.study.results import Results

WORDS = {"psnr_db": ("PSNR", "dB"), "ssim": ("SSIM", ""), "rmse": ("RMSE", None)}


def compare(
    results: Results,
    claim: str,
    better: str,
    worse: str,
    *,
    measured: str | None = None,
    metric: str = "psnr_db",
    where: Mapping[str, Any] | None = None,
    learnt_where: Mapping[str, Any] | None = None,
) -> claims.Claim:
    """A claim that one row has the better ``metric`` than another on test patients.

    One number a repeat. ``where``: on which rows (a dose); ``learnt_where``: on which both rows
    must beat the undenoised image for the claim to be tested, where those are others.
    """
    if "dose" in (where or {}) and where["dose"] not in results.study["data"]["doses"]:
        return claims.untested(claim, f"{where['dose']:.0%} of the dose was not tested")
    if reason := unlearnt(results, (better, worse), where=learnt_where or where):
        return claims.untested(claim, reason)
    name, unit = WORDS[metric]
    protocol = protocol_of(results)
    differences = differences_of(results, better, worse, metric, where)
    if metric == "rmse":
        differences, unit = [-d for d in differences], protocol.unit
        measured = measured or f"RMSE of {worse} minus {better}"
    measured = measured or f"{name} of {better} minus {worse}"
    return claims.judge(claim, f"{measured} ({protocol.name})", differences, unit)


def small_difference(
    results: Results, claim: str, a: str, b: str, *, limit_db: float
) -> claims.Claim:
    """A claim that two rows differ little: by less than ``limit_db`` in PSNR."""
    if reason := unlearnt(results, (a, b)):
        return claims.untested(claim, reason)
    differences = np.array(differences_of(results, a, b))
    # The mean's size, with the spread of the seeds around it.
    sizes = differences * (-1 if differences.mean() < 0 else 1)
    measured = f"|PSNR of {a} minus {b}| ({protocol_of(results).name})"
    return claims.judge(claim, measured, sizes, "dB", threshold=limit_db, above=False)


def best_of(
    results: Results, claim: str, best: str, others: Sequence[str], *, metric: str = "psnr_db"
) -> claims.Claim:
    """A claim that one row has the highest ``metric`` of several: its least lead over another."""
    if reason := unlearnt(results, (best, *others)):
        return claims.untested(claim, reason)
    name, unit = WORDS[metric]
    leads = {o: float(np.mean(differences_of(results, best, o, metric))) for o in others}
    rival = min(leads, key=leads.get)
    measured = f"{name} of {best} minus the next, {rival} ({protocol_of(results).name})"
    return claims.judge(claim, measured, differences_of(results, best, rival, metric), unit)


def differences_of(
    results: Results,
    a: str,
    b: str,
    metric: str = "psnr_db",
    where: Mapping[str, Any] | None = None,
) -> list[float]:
    """``metric`` of row ``a`` minus that of ``b``, one number a repeat."""
    shared = results.shared_repeats(a, b)
    ours, theirs = (results.rows(row, repeats=shared, where=where) for row in (a, b))
    return [
        _by_patient(x, metric) - _by_patient(y, metric) for x, y in zip(ours, theirs, strict=True)
    ]


def unlearnt(
    results: Results, labels: Sequence[str], *, where: Mapping[str, Any] | None = None
) -> str:
    """Why a claim about these rows can't be tested; empty where it can."""
    protocol = protocol_of(results)
    if all(label in results.variants for label in labels) and not results.shared_repeats(*labels):
        return f"{' and '.join(labels)} have no split and seed in common"
    for label in labels:
        if label in results.references:
            continue
        if not results.of(label):
            return f"{label} was not run"
        own = results.shared_repeats(label, "undenoised")
        found, undenoised = (
            results.summary(row, protocol, repeats=own, where=where).psnr_db.mean
            for row in (label, "undenoised")
        )
        if not found > undenoised:
            return f"{label} ended at {found:.2f} dB, not above the undenoised {undenoised:.2f} dB"
    return ""


def _by_patient(rows: Sequence[dict], metric: str) -> float:
    """Mean over patients of the mean over slices."""
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        by_patient.setdefault(row["patient"], []).append(row[metric])
    return float(np.mean([np.mean(v) for v in by_patient.values()]))
