"""The AAPM/Mayo 2016 challenge on disk.

Per patient ``L067/{full,quarter}_{1mm,3mm}[_sharp]/*.IMA``, or the download's own
``Training_Image_Data/1mm B30/full_1mm/L067/full_1mm/*.IMA`` (also spelt ``Traning``). Tube
current, exposure and CTDIvol are equal at both doses and all UIDs differ: the folder's name and
FD/QD in PatientName alone tell the dose.
"""

from __future__ import annotations

import re

from ldct_jax.dicom.collections.listing import Found, Listing
from ldct_jax.dicom.series import Series

SOURCE = "AAPM/Mayo 2016 low-dose CT challenge"
DOSE = 0.25

_VARIANT = re.compile(r"(full|quarter)_(\d)mm(_sharp)?", re.IGNORECASE)
_PATIENT = re.compile(r"L\d{3}", re.IGNORECASE)
_NAMED = re.compile(r"(?<![A-Z0-9])(L\d{3})[_^ -]+(FD|QD)(?![A-Z])", re.IGNORECASE)


def variant_of(parts: tuple[str, ...]) -> tuple[str, str] | None:
    """("full" or "low", "1mm" or "3mm" with "_sharp") of the innermost folder that says it."""
    for part in reversed(parts):
        if found := _VARIANT.fullmatch(part.strip()):
            dose, thickness, sharp = found.groups()
            what = "full" if dose.lower() == "full" else "low"
            return what, f"{thickness}mm{(sharp or '').lower()}"
    return None


def find(listing: Listing) -> list[Found]:
    """The series of the collection; folders and files that contradict each other become rows."""
    found = []
    folders = {f: variant_of(listing.parts(f)) for f in listing.by_folder}
    for folder, variant in folders.items():
        if variant is None:
            listing.skip(
                folder, len(listing.by_folder[folder]), "", "no full_… or quarter_… folder"
            )
    for files in listing.series([f for f, v in folders.items() if v], by_folder=True):
        what, tag = folders[files.folder]
        by_folder, by_tags, named = _patient_and_dose(listing.parts(files.folder), files)
        patient, note = by_folder or by_tags, ""
        if patient is None:
            note = "no L### in its folders or tags"
        elif by_tags and by_tags != patient:
            note = f"the folder says patient {patient}, the tags say {by_tags}"
        elif named and named != what:
            note = f"the folder says {what} dose, PatientName says {named}"
        key = f"mayo2016/{patient}"
        if note:
            listing.skip_series(files, what, note, key, kind="failed")
            continue
        source = "folder and PatientName" if named else "folder"
        found.append(Found(files, key, what, (key, tag), DOSE, f"quarter dose by {source}"))
    return found


def _patient_and_dose(
    parts: tuple[str, ...], files: Series
) -> tuple[str | None, str | None, str | None]:
    """(L### of the folder, L### of tags or file name, dose by name), None where one is unknown."""
    first = files.first
    folder = next((p.upper() for p in reversed(parts) if _PATIENT.fullmatch(p)), None)
    for text in (first.patient_name, first.patient_id, first.path.name):
        if named := _NAMED.search(text):
            return folder, named[1].upper(), "full" if named[2].upper() == "FD" else "low"
    for text in (first.patient_id, first.patient_name):
        if _PATIENT.fullmatch(text.strip()):
            return folder, text.strip().upper(), None
    return folder, None, None
