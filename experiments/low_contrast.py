"""Whether lesions are told better from noise: d′ and AUC against dose, input, filters and model.

    python -m experiments.low_contrast docs/results/low_contrast

The MITA-like phantom of ldct_jax.metrics.low_contrast at four doses, seen by a channelised
Hotelling observer with Laguerre-Gauss channels. *Same as* is the dose at which the input has the
d′ of the row. Writes Markdown, CSV and JSON. Expected time with 200 realisations: about ten
minutes on two CPU cores, most of it the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ldct_jax
from ldct_jax.metrics.low_contrast import (
    INSERTS,
    LowContrastPhantom,
    detectability,
    dose_at_equal_d_prime,
)
from ldct_jax.report import tables
from ldct_jax.system import accelerator
from ldct_jax.system.progress import stage

DOSES = (0.10, 0.25, 0.50, 1.00)
FILTERS = ("gaussian", "nlm")


def measure(phantom: LowContrastPhantom, model: str | None = None) -> dict[str, dict]:
    """:func:`ldct_jax.metrics.low_contrast.detectability` by method, the input first."""
    methods = {"input": "identity", **{name: name for name in FILTERS}, "model": model}
    found = {}
    for name, which in methods.items():
        with stage(name):
            found[name] = detectability(phantom, ldct_jax.load(which), DOSES)
    return found


def as_table(phantom: LowContrastPhantom, found: dict[str, dict], digest: str) -> tables.Table:
    rows = []
    for i, (diameter_mm, contrast_hu) in enumerate(INSERTS):
        plain = {dose: found["input"][dose][i].d_prime for dose in DOSES}
        for dose in DOSES:
            for method, measured in found.items():
                one = measured[dose][i]
                same = dose_at_equal_d_prime(plain, one.d_prime)
                rows.append(
                    [
                        f"{diameter_mm:g} mm, {contrast_hu:g} HU",
                        f"{dose:.0%}",
                        method,
                        one.d_prime,
                        _interval(one.d_prime_interval, 2),
                        one.auc,
                        _interval(one.auc_interval, 3),
                        "" if same is None else f"{same:.0%}",
                    ]
                )
    return tables.Table(
        name="low_contrast",
        title="Low-contrast detectability against dose",
        columns=(
            tables.Column("insert"),
            tables.Column("dose"),
            tables.Column("method"),
            tables.Column("d′", "", 2),
            tables.Column("d′, 95 %"),
            tables.Column("AUC", "", 3),
            tables.Column("AUC, 95 %"),
            tables.Column("same as the input at"),
        ),
        rows=rows,
        protocol=f"LG-CHO, {phantom.realisations} images with and as many without the inserts",
        data=f"phantom, {phantom.full_sd_hu:g} HU of noise at normal dose, pixels of "
        f"{phantom.pixel_mm:g} mm",
        note=f"{verdict(found)} Model: sha256 {digest}",
    )


def _interval(span: tuple[float, float], digits: int) -> str:
    return f"{span[0]:.{digits}f} to {span[1]:.{digits}f}"


def verdict(found: dict[str, dict]) -> str:
    """In how many cases the model raises or lowers d′ by more than the intervals."""
    raised = lowered = 0
    for dose in DOSES:
        for ours, plain in zip(found["model"][dose], found["input"][dose], strict=True):
            raised += ours.d_prime_interval[0] > plain.d_prime_interval[1]
            lowered += ours.d_prime_interval[1] < plain.d_prime_interval[0]
    cases = len(DOSES) * len(INSERTS)
    return (
        f"Of {cases} cases the model raises d′ by more than the intervals in {raised} and lowers "
        f"it by more than them in {lowered}; in the others no difference can be told."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", help="a run or checkpoint [the shipped model]")
    parser.add_argument("--realisations", type=int, default=200)
    given = parser.parse_args()
    accelerator.start()
    phantom = LowContrastPhantom(realisations=given.realisations)
    made = as_table(phantom, measure(phantom, given.model), ldct_jax.load(given.model).digest)
    made.write(given.out)
    print(made.markdown())


if __name__ == "__main__":
    main()
