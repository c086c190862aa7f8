"""The detectability report: what it says of methods whose answer is known."""

import dataclasses

from experiments import low_contrast
from ldct_jax.metrics.low_contrast import INSERTS, LowContrastPhantom
from ldct_jax.metrics.observers import Detectability


def _measured(scale: float) -> dict:
    fields = {f.name for f in dataclasses.fields(Detectability)}

    def one(dose: float) -> Detectability:
        d = scale * 3 * dose**0.5
        values = {"d_prime": d, "d_prime_interval": (0.95 * d, 1.05 * d), "auc": 0.8}
        rest = {"auc_interval": (0.75, 0.85), "n": 20}
        given = {k: v for k, v in {**values, **rest}.items() if k in fields}
        return Detectability(**given)

    return {dose: [one(dose)] * len(INSERTS) for dose in low_contrast.DOSES}


def test_the_report_gives_the_dose_at_equal_d_prime_and_counts_cases():
    found = {"input": _measured(1.0), "model": _measured(1.2)}
    table = low_contrast.as_table(LowContrastPhantom(), found, "a digest")
    row = next(r for r in table.rows if r[1:3] == ["25%", "model"])
    assert row[-1] == "36%"  # 1.2² of the dose
    assert next(r for r in table.rows if r[1:3] == ["100%", "model"])[-1] == ""
    assert "in 16 and lowers it by more than them in 0" in table.note
    worse = low_contrast.verdict({"input": _measured(1.0), "model": _measured(0.8)})
    assert "in 0 and lowers it by more than them in 16" in worse
    same = low_contrast.verdict({"input": _measured(1.0), "model": _measured(1.01)})
    assert "in 0 and lowers it by more than them in 0" in same
