"""Results that no training left: rows with the scores that a test wants."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ldct_jax.metrics.protocols import PCN
from ldct_jax.record import to_record
from ldct_jax.report.found import Found
from ldct_jax.study.results import Results, Run

PATIENTS = ("a", "b", "c")


def scores(psnr: float | Mapping[str, Sequence[float]], dose: float | None = None) -> list[dict]:
    """Rows of result.json: one slice of each patient at ``psnr``, or its slices' own values."""
    if not isinstance(psnr, Mapping):
        psnr = {patient: [psnr] for patient in PATIENTS}
    rows = [
        {"patient": p, "psnr_db": x, "ssim": x / 50, "rmse": 10 ** (-x / 20), "peak": 1.0}
        for p, values in psnr.items()
        for x in values
    ]
    return [row | ({} if dose is None else {"dose": dose}) for row in rows]


def found(
    variants: Mapping[str, Sequence],
    references: Mapping[str, float] | None = None,
    *,
    noise: Mapping[str, float] | None = None,
    numbers: Mapping[str, Sequence[dict]] | None = None,
    quality: Mapping[str, Sequence[dict]] | None = None,
    doses: Sequence[float] = (),
) -> Found:
    """Found of ``variants``: row → PSNR by repeat, each a number, or a list by clone, or a dict
    by dose; ``references`` the same without repeats. noise: row → HU in flat tissue (20)."""
    references = references or {"undenoised": 30.0, "gaussian": 29.0}
    noise = {"undenoised": 100.0} | dict(noise or {})

    def result(value) -> list[list[dict]]:
        if isinstance(value, Mapping) and doses:
            return [[row for d in doses for row in scores(value[d], d)]]
        return [scores(v) for v in value] if isinstance(value, list) else [scores(value)]

    def tissue(row: str) -> dict:
        return {f"{d:g}": noise.get(row, 20.0) for d in doses} or {"": noise.get(row, 20.0)}

    runs = tuple(
        Run(
            Path(row),
            row,
            repeat,
            {
                "test": result(value),
                "parameters": 1000,
                "seconds": {"total": 60.0},
                "tissue_noise_hu": tissue(row),
                "numbers": (numbers or {}).get(row, [{}] * len(values))[repeat],
                "quality": (quality or {}).get(row, [{}] * len(values))[repeat],
            },
        )
        for row, values in variants.items()
        for repeat, value in enumerate(values)
    )
    repeats = map(str, range(max(len(v) for v in variants.values())))
    study = {
        "reproduces": "a paper's table",
        "scale": {"name": "demo"},
        "protocol_record": to_record(PCN),
        "data": {"source": "made up", "attribution": "", "doses": list(doses)},
        "references": {},
        "reference_tissue_noise_hu": {},
    }
    for repeat in repeats:
        study["references"][repeat] = {r: result(v)[0] for r, v in references.items()}
        study["reference_tissue_noise_hu"][repeat] = {r: tissue(r) for r in references}
    return Found(Results(Path("x"), study, runs))


def steady(psnr: float, n: int = 3) -> list[float]:
    """``n`` seeds that scatter by hundredths around ``psnr``."""
    return (psnr + 0.01 * np.linspace(-1, 1, n)).tolist()
