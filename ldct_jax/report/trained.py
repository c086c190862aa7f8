"""Which rows count as trained; a claim about another row says nothing.

A row counts as trained where, at one of the tested doses, its PSNR under the report's protocol is
at least 0.5 dB above its input and above the best classical filter of the same report, and where
it leaves at least 20 % less noise in flat tissue than its input has.
"""

from __future__ import annotations

import dataclasses

from ldct_jax.metrics.protocols import Protocol
from ldct_jax.study.results import Results

MARGIN_DB = 0.5
NOISE_LEFT = 0.8
INPUT = "undenoised"


@dataclasses.dataclass(frozen=True)
class Training:
    """What a row reached at the dose where it did best, means over its repeats.

    gain_db: PSNR above the input. lead_db: above the best classical filter, called ``rival``; None
    where the report has no filter. noise_left: residual noise in flat tissue over the input's;
    None where the test slices hold no flat tissue.
    """

    row: str
    dose: float | None
    psnr_db: float
    gain_db: float
    lead_db: float | None
    rival: str
    noise_left: float | None

    @property
    def reason(self) -> str:
        """Why the row doesn't count as trained; empty where it does."""
        if self.gain_db < MARGIN_DB:
            return f"{self.row} ended {self.gain_db:+.2f} dB from its input"
        if self.lead_db is not None and self.lead_db < MARGIN_DB:
            return f"{self.row} ended {self.lead_db:+.2f} dB from the {self.rival} filter"
        if self.noise_left is not None and self.noise_left > NOISE_LEFT:
            return f"{self.row} leaves {self.noise_left:.0%} of its input's noise"
        return ""


def training_of(results: Results, row: str, protocol: Protocol) -> Training:
    """How well a trained row has learnt, at the dose that speaks best for it."""
    doses = results.study["data"]["doses"] or [None]
    found = [_at(results, row, protocol, dose) for dose in doses]
    best = [t for t in found if not t.reason] or found
    return max(best, key=lambda t: min(t.gain_db, t.gain_db if t.lead_db is None else t.lead_db))


def _at(results: Results, row: str, protocol: Protocol, dose: float | None) -> Training:
    where = {} if dose is None else {"dose": dose}

    def psnr(label: str) -> float:
        shared = results.shared_repeats(row, label)
        return results.summary(label, protocol, repeats=shared, where=where).psnr_db.mean

    own = psnr(row)
    filters = {f: psnr(f) for f in results.references if f != INPUT}
    rival = max(filters, key=filters.get, default="")
    # Of one dose alone the noise stands without its name.
    several = len(results.study["data"]["doses"]) > 1
    shared, key = results.shared_repeats(row, INPUT), f"{dose:g}" if several else ""
    noises = zip(
        results.tissue_noise(row, shared), results.tissue_noise(INPUT, shared), strict=True
    )
    left = [
        ours[key] / theirs[key]
        for ours, theirs in noises
        if ours.get(key) is not None and theirs.get(key)
    ]
    return Training(
        row=row,
        dose=dose,
        psnr_db=own,
        gain_db=own - psnr(INPUT),
        lead_db=own - filters[rival] if filters else None,
        rival=rival,
        noise_left=sum(left) / len(left) if left else None,
    )
