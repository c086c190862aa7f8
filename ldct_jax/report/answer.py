"""What a report opens with: a few sentences made from the numbers, and what was trained."""

from __future__ import annotations

from collections.abc import Sequence

from ldct_jax.report.found import Found
from ldct_jax.report.tables import Column, Table
from ldct_jax.report.trained import INPUT, MARGIN_DB, NOISE_LEFT, Training
from ldct_jax.study.claims import HELD, NOT_HELD, SIGN_ONLY, UNDECIDED, UNTESTED, Claim, count
from ldct_jax.system.names import percent


def answer(found: Found, claims: Sequence[Claim]) -> str:
    """What was trained, the main table's picture, and what became of the claims."""
    paragraphs = [trained(found), _picture(found)]
    if claims:
        paragraphs.append(_verdicts(claims))
    return "\n\n".join(p for p in paragraphs if p)


def training_table(found: Found) -> Table:
    """How far every trained row came from its input, and whether it counts as trained."""
    rows = [
        [
            t.row,
            *([] if not found.doses else [percent(t.dose)]),
            t.gain_db,
            t.lead_db,
            None if t.noise_left is None else 100 * t.noise_left,
            "no" if t.reason else "yes",
        ]
        for t in found.training.values()
    ]
    return Table(
        name="trained",
        title="What was trained",
        columns=[
            Column("row"),
            *([Column("at the dose")] if found.doses else []),
            Column("above its input", "dB", 2),
            Column("above the best filter", "dB", 2),
            Column("noise left in flat tissue", "%", 0),
            Column("counts as trained"),
        ],
        rows=rows,
        protocol=str(found.protocol),
        data=found.data,
        note=f"A row counts as trained from {MARGIN_DB:g} dB above its input and above the best "
        f"classical filter, with at most {NOISE_LEFT:.0%} of the input's noise in flat tissue (a "
        "dash: the slices hold none). With several doses, the one where the row does best.",
    )


def trained(found: Found) -> str:
    """Which rows count as trained, a sentence."""
    rows = list(found.training.values())
    failed = [t for t in rows if t.reason]
    if not failed:
        return (
            f"{_all(len(rows))} rows count as trained (the rule: below the table)."
            if len(rows) > 1
            else "The one row counts as trained (the rule: below the table)."
        )
    learnt = len(rows) - len(failed)
    head = f"Only {learnt} of {len(rows)} rows count" if learnt else "None of the rows counts"
    text = f"{head} as trained: {'; '.join(t.reason for t in failed)}."
    study = found.results.study
    if study["reproduces"]:
        text += " Every claim that needs one of these rows is untested."
    if study["scale"]["name"] == "smoke":
        text += " The smoke scale shows that everything runs; a few steps train nothing."
    return text


def _all(n: int) -> str:
    return "Both" if n == 2 else f"All {n}"


def _picture(found: Found) -> str:
    """Who is first, by how much, and how far apart the trained rows are."""
    learnt = [t for t in found.training.values() if not t.reason]
    if not learnt:
        return ""
    dose = None
    if found.doses:
        # The dose where most rows learnt something speaks for all.
        dose = min(found.doses)
        return _at_lowest_dose(found, learnt, dose)
    order = sorted(learnt, key=lambda t: -t.psnr_db)
    best = order[0]
    undenoised = found.undenoised.psnr_db.mean
    text = (
        f"{best.row} has the highest PSNR, {best.psnr_db:.2f} dB: {best.gain_db:.2f} dB above the "
        f"low dose ({undenoised:.2f} dB)"
    )
    if best.lead_db is not None:
        text += f" and {best.lead_db:.2f} dB above the best classical filter ({best.rival})"
    if len(order) > 1:
        span = best.psnr_db - order[-1].psnr_db
        text += (
            f". {order[1].row} follows {best.psnr_db - order[1].psnr_db:.2f} dB behind; "
            f"{_all(len(order)).lower()} trained rows lie within {span:.2f} dB"
        )
    return text + f" (protocol {found.protocol.name})."


def _at_lowest_dose(found: Found, learnt: Sequence[Training], dose: float) -> str:
    def psnr(row: str) -> float:
        return found.results.summary(row, found.protocol, where={"dose": dose}).psnr_db.mean

    by_row = {t.row: psnr(t.row) for t in learnt}
    best = max(by_row, key=by_row.get)
    listed = ", ".join(f"{row} {value:.2f} dB" for row, value in by_row.items())
    return (
        f"At {percent(dose)} of the dose {best} has the highest PSNR: {listed}; low dose "
        f"{psnr(INPUT):.2f} dB (protocol {found.protocol.name})."
    )


def _verdicts(claims: Sequence[Claim]) -> str:
    n = count(claims)
    parts = [f"{n[HELD]} held", f"{n[NOT_HELD]} did not"]
    if n[UNDECIDED]:
        parts.append(f"{n[UNDECIDED]} can't be decided by these seeds")
    if n[SIGN_ONLY]:
        signs = [c for c in claims if c.verdict == SIGN_ONLY]
        agree = sum(bool(c.agrees) for c in signs)
        parts.append(
            f"of {n[SIGN_ONLY]} only the sign is known, for want of seeds ({agree} point the "
            f"paper's way, {len(signs) - agree} the other)"
        )
    if n[UNTESTED]:
        parts.append(f"{n[UNTESTED]} could not be tested")
    return f"Of the paper's {len(claims)} claims {', '.join(parts)}."
