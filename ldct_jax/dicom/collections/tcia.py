"""TCIA's LDCT-and-Projection-data on disk (Mayo, 299 patients).

``metadata.csv`` beside ``LDCT-and-Projection-data/L006/<study>/1.000000-Low Dose Images-35629/``.
Case, dates and separators vary by release, and ``File Location`` has backslashes where Windows
downloaded. The patient's letter gives the low dose: N (head) and L (abdomen) 25 %, C (chest) 10 %.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from ldct_jax.dicom.collections.listing import Found, Listing

SOURCE = "TCIA LDCT-and-Projection-data"
DOSES = {"N": 0.25, "C": 0.10, "L": 0.25}

_SUBJECT = re.compile(r"[NCL]\d{3}", re.IGNORECASE)
_COLUMNS = ("subject id", "manufacturer", "series description", "file location")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of metadata.csv; ``images`` is None where the number is missing."""

    folder: Path
    subject: str
    manufacturer: str
    description: str
    images: int | None


def dose_of(texts) -> str | None:
    """full or low, of the innermost text that says so; ``projections`` for raw data."""
    for text in reversed(list(texts)):
        plain = re.sub(r"[\s_]+", " ", text).lower()
        if "projection" in plain and "dose" in plain:
            return "projections"
        if "full dose images" in plain:
            return "full"
        if "low dose images" in plain:
            return "low"
    return None


def read_catalogue(root: Path) -> dict[Path, Entry]:
    """The entries of a metadata.csv in ``root``, beside it or one level below, by folder."""
    entries: dict[Path, Entry] = {}
    # root's parent: a user may name the collection's own folder, beside which the table lies.
    for folder in (root, root.parent, *sorted(p for p in root.iterdir() if p.is_dir())):
        table = folder / "metadata.csv"
        if table.is_file():
            for entry in _read_table(table):
                entries.setdefault(entry.folder, entry)
    return {f: e for f, e in entries.items() if f.is_relative_to(root)}


def _read_table(path: Path) -> list[Entry]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.DictReader(file)
        names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not all(column in names for column in _COLUMNS):
            return []  # somebody else's metadata.csv
        subject, maker, description, location = (names[c] for c in _COLUMNS)
        count = names.get("number of images")
        entries = []
        for row in rows:
            where = (row[location] or "").strip().replace("\\", "/").removeprefix("./")
            parts = [p for p in where.split("/") if p not in ("", ".")]
            if not parts or ".." in parts or where.startswith("/"):
                continue
            number = (row.get(count) or "").strip() if count else ""
            entries.append(
                Entry(
                    path.parent.joinpath(*parts),
                    (row[subject] or "").strip(),
                    (row[maker] or "").strip(),
                    (row[description] or "").strip(),
                    int(number) if number.isdigit() else None,
                )
            )
        return entries


def find(listing: Listing, catalogue: dict[Path, Entry]) -> list[Found]:
    """The image series of the collection; projections, missing folders and the rest become rows."""
    entries = {_folded(f): e for f, e in catalogue.items()}
    for folder, entry in catalogue.items():
        on_disk = any(_folded(f) == _folded(folder) for f in listing.by_folder)
        if not on_disk and dose_of([entry.description]) in ("full", "low"):
            what = dose_of([entry.description])
            key = _key(entry.subject)
            listing.skip(folder, 0, what, "in metadata.csv but not downloaded", key)
    wanted, unknown = {}, []
    for folder, files in listing.by_folder.items():
        entry = entries.get(_folded(folder))
        texts = [*listing.parts(folder), *([entry.description] if entry else [])]
        what = dose_of(texts)
        if what == "projections":
            listing.skip(folder, len(files), "", "projection data, not images")
        elif what:
            wanted[folder] = what
        else:
            unknown.append(folder)
    found = []
    # Folders named by UID say nothing: there SeriesDescription in the header decides.
    for files in listing.series([*wanted, *unknown], by_folder=True):
        what = wanted.get(files.folder) or dose_of([files.first.description])
        entry = entries.get(_folded(files.folder))
        subject = _subject(listing.parts(files.folder), entry, files)
        if what not in ("full", "low"):
            note = "neither full nor low dose images by its description"
            listing.skip_series(files, "", note)
            continue
        tagged = _first_subject([files.first.patient_id, files.first.patient_name])
        note = ""
        if subject is None:
            note = "no N###, C### or L### in its folders or tags"
        elif tagged not in (None, subject):
            note = f"the folder says patient {subject}, the tags say {tagged}"
        if note:
            listing.skip_series(files, what, note, kind="failed")
            continue
        if entry and entry.images not in (None, len(files.headers)):
            note = f"{len(files.headers)} of {entry.images} images of metadata.csv"
            files = dataclasses.replace(files, notes=(*files.notes, note))
        key, dose = _key(subject), DOSES[subject[0]]
        source = f"{dose:.0%} dose by collection ({subject[0]}###)"
        found.append(Found(files, key, what, (key,), dose, source))
    return found


def is_one(files) -> bool:
    """Whether a series is of the collection, by patient and description, whatever its folder."""
    header = files.first
    return (
        dose_of([header.description]) in ("full", "low")
        and _first_subject([header.patient_id, header.patient_name]) is not None
    )


def why_alone(files, reason: str) -> str:
    """GE scans of the collection have no low-dose images; say that instead of the bare fact."""
    if files.first.manufacturer.upper().startswith("GE") and reason.startswith("no low-dose"):
        return "GE: the collection has no low-dose images of it"
    return reason


def _subject(parts: tuple[str, ...], entry: Entry | None, files) -> str | None:
    texts = [*reversed(parts), files.first.patient_id, files.first.patient_name]
    if entry:
        texts.insert(0, entry.subject)
    return _first_subject(texts)


def _first_subject(texts: Iterable[str]) -> str | None:
    return next((t.strip().upper() for t in texts if _SUBJECT.fullmatch(t.strip())), None)


def _key(subject: str) -> str:
    return f"ldct-pd/{subject.upper()}"


def _folded(folder: Path) -> str:
    """Releases differ in case, and so do file systems."""
    return folder.as_posix().lower()
