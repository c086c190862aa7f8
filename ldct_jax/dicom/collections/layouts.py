"""Collections on disk → pairs of series: AAPM/Mayo 2016, TCIA LDCT-and-Projection-data, plain.

A survey reads names and headers only. It ends in candidates, one a series or pair, and in rows
for the table of what was found, used, skipped and why. Rows and candidates name folders and keep
patient IDs in memory; neither is ever written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from ldct_jax.dicom.collections import mayo, tcia
from ldct_jax.dicom.collections.listing import Found, Listing, Row, left_out_of
from ldct_jax.dicom.collections.pairing import AMBIGUOUS, match, partners
from ldct_jax.dicom.left_out import LeftOut, nothing_found
from ldct_jax.dicom.series import Series
from ldct_jax.dicom.values import Unusable
from ldct_jax.errors import DataError, UsageError

LAYOUTS = ("auto", "mayo2016", "ldct-pd", "plain")

# What sibling folders of a plain pair are called.
FULL_NAMES = ("full", "full_dose", "fd", "normal", "normal_dose", "ndct")
LOW_NAMES = ("low", "low_dose", "ld", "quarter", "quarter_dose", "qd", "ldct")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One series (``low`` is None) or one pair that can be prepared.

    ``dose``: low dose as a fraction, None where nothing says it. ``patient_key`` is the same for
    all series of a patient.
    """

    patient_key: str = dataclasses.field(repr=False)
    full: Series
    low: Series | None
    dose: float | None
    dose_source: str

    @property
    def paths(self) -> set[Path]:
        """The files of both doses."""
        return {h.path for s in (self.full, self.low) if s is not None for h in s.headers}


@dataclasses.dataclass(frozen=True)
class Survey:
    """What :func:`survey` found below ``root``; ``source`` names the collection for reports."""

    root: Path
    layout: str
    source: str
    candidates: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]

    def without(self, candidate: Candidate, why: str, kind: str = "") -> Survey:
        """The survey without one candidate; with ``kind`` its series count as left out."""
        series = [s for s in (candidate.full, candidate.low) if s is not None]
        more = [one for s in series for one in left_out_of(s, why, kind)]
        return dataclasses.replace(
            self,
            candidates=tuple(c for c in self.candidates if c is not candidate),
            rows=tuple(
                dataclasses.replace(r, used=False, note=why) if r.files is candidate.full else r
                for r in self.rows
            ),
            left_out=(*self.left_out, *more),
        )

    def leaving_out(self, errors: list[Unusable]) -> Survey:
        """The survey with what came up while pixels were decoded."""
        return self.telling(map(LeftOut.of, errors))

    def telling(self, left_out: Iterable[LeftOut]) -> Survey:
        """The survey with more files that were left out."""
        return dataclasses.replace(self, left_out=(*self.left_out, *left_out))


def survey(path: Path, layout: str = "auto", *, derived: bool = False) -> Survey:
    """Recognise what lies below ``path`` and pair it.

    Args:
      derived: take images that were computed from others (ImageType) as normal dose, too.

    Raises:
      DataError: nothing usable; two collections that share patients; low doses without partners.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout={layout!r}: use one of {', '.join(LAYOUTS)}")
    listing = Listing.of(Path(path))
    is_mayo = any(mayo.variant_of(listing.parts(f)) for f in listing.by_folder)
    catalogue = tcia.read_catalogue(listing.root)
    is_tcia = bool(catalogue) or any(tcia.dose_of(listing.parts(f)) for f in listing.by_folder)
    auto = layout == "auto"
    if auto:
        if is_mayo and is_tcia:
            raise DataError(
                f"{path} holds both the Mayo 2016 and the LDCT-and-Projection-data collection, "
                "which share patients; prepare one of them at a time"
            )
        layout = "mayo2016" if is_mayo else "ldct-pd" if is_tcia else "plain"
    if layout == "mayo2016":
        found, source = mayo.find(listing), mayo.SOURCE
    elif layout == "ldct-pd":
        found, source = tcia.find(listing, catalogue), tcia.SOURCE
    else:
        found, source = _find_plain(listing), "DICOM series"
        if auto and any(tcia.is_one(item.files) for item in found):
            # Folders named by UID, as the Imaging Data Commons has them, said nothing.
            return survey(path, "ldct-pd", derived=derived)
    return _paired(listing, layout, source, found, derived)


def survey_plain(
    full: Path, low: Path, *, dose: float | None = None, derived: bool = False
) -> Survey:
    """Pair the normal-dose series at or below ``full`` with the low-dose ones at or below ``low``.

    Raises DataError where one side has no usable series, or no two of them belong together.
    """
    both, found = [], []
    for path, what in ((full, "full"), (low, "low")):
        listing = Listing.of(Path(path))
        series = listing.series(listing.by_folder, by_folder=False)
        if not series:
            raise DataError(_nothing(listing))
        both.append(listing)
        found.append([(f, what, listing) for f in series])
    fulls, lows = found
    key_of = _common_key(fulls, lows)
    items = [
        Found(f, f.patient_key, what, (key_of(f, listing),), dose, "two folders")
        for f, what, listing in fulls + lows
    ]
    merged = Listing(both[0].root, both[0].by_folder)
    for listing in both:
        merged.rows += listing.rows
        merged.left_out += listing.left_out
    return _paired(merged, "plain", "DICOM series", items, derived)


def _nothing(listing: Listing) -> str:
    return nothing_found(listing.root, listing.left_out)


def _find_plain(listing: Listing) -> list[Found]:
    """Normal dose only, unless folders are called full and low (see FULL_NAMES, LOW_NAMES)."""
    named = {f: _plain_dose(listing.parts(f)) for f in listing.by_folder}
    if not {"full", "low"} <= set(named.values()):
        series = listing.series(listing.by_folder, by_folder=False)
        return [Found(f, f.patient_key, "full", (f.patient_key,), None, "") for f in series]
    sides: dict[str, list] = {"full": [], "low": []}
    for what, items in sides.items():
        folders = [f for f, named_what in named.items() if named_what == what]
        items += [(f, what, listing) for f in listing.series(folders, by_folder=False)]
    for folder, what in named.items():
        if what is None:
            listing.skip(folder, len(listing.by_folder[folder]), "", "neither full nor low by name")
    key_of = _common_key(sides["full"], sides["low"])
    return [
        Found(f, f.patient_key, what, (key_of(f, listing),), None, "folder names")
        for f, what, _ in sides["full"] + sides["low"]
    ]


def _plain_dose(parts: tuple[str, ...]) -> str | None:
    for part in reversed(parts):
        name = part.lower().replace("-", "_").replace(" ", "_")
        if name in FULL_NAMES:
            return "full"
        if name in LOW_NAMES:
            return "low"
    return None


def _common_key(fulls: list, lows: list) -> Callable[[Series, Listing], object]:
    """What tells which low dose may belong to which normal dose.

    The PatientID, where both sides share one; else the folders' names without the dose's; else
    nothing, if each side is one patient.
    """

    def by_id(files: Series, listing: Listing):
        return files.patient_key

    def by_folder(files: Series, listing: Listing):
        parts = listing.parts(files.folder)[1:]
        return tuple(p for p in parts if _plain_dose((p,)) is None)

    def all_one(files: Series, listing: Listing):
        return ""

    for key in (by_id, by_folder):
        sides = [{key(f, listing) for f, _, listing in side} - {()} for side in (fulls, lows)]
        if sides[0] & sides[1]:
            return key
    if all(len({f.patient_key for f, _, _ in side}) == 1 for side in (fulls, lows)):
        return all_one
    return by_id


def _paired(
    listing: Listing, layout: str, source: str, found: list[Found], derived: bool
) -> Survey:
    """Match each group's series; normal dose alone counts only where no low dose lies at all."""
    found = [item for item in found if not _is_result(listing, item, derived)]
    if not any(f.what == "full" for f in found):
        if found:
            raise DataError(
                f"{listing.root}: low-dose series only ({len(found)}); give their normal dose too"
            )
        if reasons := "; ".join(dict.fromkeys(r.note for r in listing.rows if r.what)):
            raise DataError(f"{listing.root} holds no normal-dose series: {reasons}")
        raise DataError(_nothing(listing))
    # The key of the normal dose wins: an anonymiser may have numbered the two scans separately.
    rows, candidates = listing.rows, []
    unpaired_ok = not any(f.what == "low" for f in found)
    groups: dict[tuple, list[Found]] = {}
    for item in found:
        groups.setdefault(item.group, []).append(item)
    for items in groups.values():
        by_id = {id(f.files): f for f in items}
        fulls = [f.files for f in items if f.what == "full"]
        lows = [f.files for f in items if f.what == "low"]
        pairs, alone = match(fulls, lows)
        if unpaired_ok:
            pairs, alone = [(full, None) for full in fulls], {}
        for full, low in pairs:
            item = by_id[id(full)]
            candidates.append(Candidate(item.patient_key, full, low, item.dose, item.dose_source))
            rows.append(_used(listing, item, full, low))
        for key, reason in alone.items():
            item = by_id[key]
            reason = tcia.why_alone(item.files, reason) if layout == "ldct-pd" else reason
            kind = "failed" if reason == AMBIGUOUS else ""
            listing.skip_series(item.files, item.what, reason, item.patient_key, kind)
    if not candidates:
        reasons = "; ".join(dict.fromkeys(r.note for r in rows if r.what))
        raise DataError(f"{listing.root}: no low-dose series has a normal-dose partner: {reasons}")
    left_out = tuple(listing.left_out)
    return Survey(listing.root, layout, source, tuple(candidates), tuple(rows), left_out)


def _is_result(listing: Listing, item: Found, derived: bool) -> bool:
    """Whether a series was computed from others, and so teaches a network nothing: skip it."""
    if item.files.is_ours:
        note = "a result of ldct denoise"
    elif item.what == "full" and item.files.is_derived and not derived:
        note = "derived images (ImageType), not scanned ones; --derived takes them as normal dose"
    else:
        return False
    listing.skip_series(item.files, item.what, note, item.patient_key)
    return True


def _used(listing: Listing, item: Found, full: Series, low: Series | None) -> Row:
    notes, n, what = [*full.warnings, *full.remarks], len(full.headers), "full"
    if low is not None:
        n, what = len(partners(full, low)[0]), "pair"
        notes += [f"low dose: {note}" for note in low.warnings]
        lost = len(full.headers) - n, len(low.headers) - n
        if any(lost):
            notes.append(f"{lost[0]} normal-dose and {lost[1]} low-dose slices without partner")
    return Row(
        listing.shown(full.folder),
        item.patient_key,
        what,
        n,
        True,
        "; ".join(notes),
        full,
        item.dose_source,
    )
