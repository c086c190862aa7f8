"""The one table of what was found, used, skipped and why; and of what a store holds."""

from __future__ import annotations

from ldct_jax.data.store import SeriesRecord, Store
from ldct_jax.system.names import counted
from ldct_jax.system.tables import plain_table

HEAD = (
    "patient",
    "folder",
    "what",
    "slices",
    "thick × step",
    "pixel",
    "kernel",
    "kVp",
    "noise",
    "low dose",
    "notes",
)


def survey_table(rows, store: Store) -> str:
    """Rows of a survey with the labels and noise of the store that came of them.

    Names folders, which the store never does: for the terminal only. Where the
    two don't fit (a store made before what decoding told was kept), its own table stands alone.
    """
    if sum(row.used for row in rows) != len(store.series):
        return store_table(store)
    records = iter(store.series)  # series were written in the order of the used rows
    lines = []
    for row in rows:
        if row.used:
            record = next(records)  # it knows more than the survey: damaged slices, padding
            slices, note = record.full.shape[0], "; ".join(record.notes)
            lines.append(_line(record, row.folder, row.what, slices, note))
        else:
            lines.append(_line(None, row.folder, row.what, row.slices, row.note))
    return plain_table(HEAD, lines)


def store_table(store: Store) -> str:
    """What a store holds, a line a series."""
    lines = []
    for record in store.series:
        what = "full" if record.low is None else "pair"
        note = "; ".join(record.notes)
        lines.append(_line(record, "", what, record.full.shape[0], note))
    keep = [i for i, name in enumerate(HEAD) if name != "folder"]
    head, *rows = (tuple(line[i] for i in keep) for line in [HEAD, *lines])
    return plain_table(head, rows)


def summary(store: Store) -> str:
    """One line: slices, patients, own noise, and the low dose that the noise of both shows."""
    slices = sum(s.full.shape[0] for s in store.series)
    noise = [s.noise_hu for s in store.series if s.noise_hu is not None]
    own = f", own noise {min(noise):.1f}-{max(noise):.1f} HU" if noise else ""
    doses = _measured_doses(store)
    if doses:
        ends = dict.fromkeys(f"{100 * dose:.0f}" for dose in (min(doses), max(doses)))
        own += f", measured dose {'-'.join(ends)} %"
    kind = "pairs of slices" if store.is_paired else "normal-dose slices"
    patients = counted(len(store.patients), "patient")
    return f"{slices} {kind} of {patients} in {len(store.series)} series{own}"


def _line(record: SeriesRecord | None, folder, what, slices, note) -> tuple[str, ...]:
    if record is None:
        return ("-", folder, what or "-", str(slices), "", "", "", "", "", "", f"skipped: {note}")
    return (
        record.patient,
        folder,
        what,
        str(slices),
        f"{_figure(record.slice_mm)} × {_figure(record.step_mm)} mm",
        f"{record.pixel_mm:.3f} mm",
        record.kernel or "?",
        _figure(record.kvp),
        _noise(record),
        record.dose_source or "none",
        note,
    )


def _noise(record: SeriesRecord) -> str:
    """In flat tissue, of the normal dose and of the low dose."""
    values = [record.noise_hu] + ([] if record.low is None else [record.low_dose_noise_hu])
    return " → ".join("?" if v is None else f"{v:.1f}" for v in values) + " HU"


def _measured_doses(store: Store) -> list[float]:
    """Of the pairs: variance of the normal dose in flat tissue over that of the low dose."""
    return [
        (s.noise_hu / s.low_dose_noise_hu) ** 2
        for s in store.series
        if s.noise_hu and s.low_dose_noise_hu
    ]


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"
