"""What lies below a folder, and a report of every file of it that was not done.

A file is done; or it is not a CT image (``other``); or it is a CT image that can't be done
(``failed``); or nothing could be learned of it (``unread``). The last two are always named: a
result that silently lacks slices looks like the whole. :mod:`ldct_jax.dicom.usable` decides.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ldct_jax.dicom.values import Unusable
from ldct_jax.system.names import shown

KINDS = {
    "failed": ("CT image", "CT images"),
    "unread": ("file that was not read", "files that were not read"),
    "other": ("other file", "other files"),
}
"""In the order of the report, damaged images first; what one and several are called."""
_NAMES = {"failed": 20, "unread": 20, "other": 3}
"""How many files of one reason are named in the text; the JSON report names all."""

_IMAGE_ENDINGS = (".dcm", ".dicom", ".dic", ".ima", ".ct", ".img")
_CONTAINERS = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x1f\x8b": "gzip-compressed: unpack it",
    b"BZh": "bzip2-compressed: unpack it",
    b"\xfd7zXZ": "xz-compressed: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a rar archive: unpack it",
    b"NRRD": "an NRRD volume: convert it to DICOM, NIfTI or .npy",
    b"ObjectType": "a MetaImage volume: convert it to DICOM, NIfTI or .npy",
    b"NDims": "a MetaImage volume: convert it to DICOM, NIfTI or .npy",
    b"\x89HDF": "an HDF5 file: convert it to .npy",
    b"\x93NUMPY": "a .npy array, which is not read here",
}
_POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex/objects/")
_DOCUMENTS = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"BM": "a picture (BMP)",
    b"II*\0": "a picture (TIFF)",
    b"MM\0*": "a picture (TIFF)",
    b"MZ": "a program",
    b"\x7fELF": "a program",
    b"SQLite": "a database",
    b"\xd0\xcf\x11\xe0": "an Office document or a thumbnail cache",
    b"\0\0\0\1Bud1": "a desktop file",
}


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A file (or unreadable folder) that was not done; ``kind`` is a key of :data:`KINDS`."""

    path: Path = dataclasses.field(repr=False)
    reason: str
    kind: str

    @classmethod
    def of(cls, error: Unusable) -> LeftOut:
        """The file that ``error`` is about."""
        return cls(error.path, error.reason, error.kind)


def lines(left_out: Iterable[LeftOut], root: Path) -> list[str]:
    """The report, a line a reason: damaged images first, then what wasn't read, then the rest."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in left_out:
        groups.setdefault((one.kind, one.reason), []).append(shown(one.path, root))
    found = []
    for kind in KINDS:
        for (of_kind, reason), names in groups.items():
            if of_kind != kind:
                continue
            named = ", ".join(sorted(names)[: _NAMES[kind]])
            more = len(names) - _NAMES[kind]
            named += f" and {more} more" if more > 0 else ""
            found.append(f"left out: {_counted(len(names), kind)}: {reason} ({named})")
    return found


def incomplete(left_out: Iterable[LeftOut]) -> str:
    """The error line for images that were not done or files that were not read; "" for none."""
    kinds = [one.kind for one in left_out]
    parts = [_counted(n, k) for k in ("failed", "unread") if (n := kinds.count(k))]
    return f"{' and '.join(parts)} left out (see above)" if parts else ""


def nothing_found(path: Path, left_out: Iterable[LeftOut]) -> str:
    """The error line for a folder or file without a usable CT image."""
    reasons: dict[tuple[str, str], int] = {}
    for one in left_out:
        reasons[one.kind, one.reason] = reasons.get((one.kind, one.reason), 0) + 1
    name = shown(path, path.parent)
    if not reasons:
        return f"{name} holds no DICOM file; give a folder with CT images"
    if path.is_file():
        ((_, reason),) = reasons
        return f"{name}: {reason}"
    first = sorted(reasons.items(), key=lambda item: (list(KINDS).index(item[0][0]), -item[1]))
    why = "; ".join(f"{n} x {reason}" for (_, reason), n in first[:4])
    return f"{name} holds no CT image that can be used ({why}); give a folder with CT images"


def _counted(n: int, kind: str) -> str:
    return f"{n} {KINDS[kind][n != 1]}"


def walk(path: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Regular files at or below ``path`` in a fixed order; what can't be opened is added to
    ``left_out``.

    Links are followed, each folder once, so that loops end. Hidden files and DICOMDIRs are passed
    over.
    """
    if path.is_file():
        yield path
        return
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        name = Path(os.fsdecode(error.filename))
        left_out.append(LeftOut(name, f"a folder that can't be read ({error.strerror})", "unread"))

    for folder, folders, names in os.walk(path, followlinks=True, onerror=unreadable):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            if name.startswith(".") or name.upper() == "DICOMDIR":
                continue
            if file.is_file():
                yield file
            elif file.is_symlink():
                left_out.append(LeftOut(file, "a link to nothing", "unread"))
            else:
                left_out.append(LeftOut(file, "a pipe, socket or device", "unread"))


def not_dicom(path: Path, head: bytes) -> LeftOut:
    """What a file without DICOM's mark is, by its first bytes; pictures and texts are ``other``."""
    image_like = path.suffix.lower() in _IMAGE_ENDINGS
    if not head:
        return LeftOut(
            path, "an empty file", "unread" if image_like or not path.suffix else "other"
        )
    for start, what in _CONTAINERS.items():
        if head.startswith(start):
            return LeftOut(path, what, "unread")
    if any(head.startswith(p) for p in _POINTERS):
        return LeftOut(path, "a pointer of git-lfs or git-annex: fetch the file itself", "unread")
    if head[257:262] == b"ustar":
        return LeftOut(path, "a tar archive: unpack it", "unread")
    if path.suffix.lower() == ".nii" or path.name.lower().endswith((".nii.gz", ".hdr")):
        return LeftOut(path, "a NIfTI volume, which is not read here", "unread")
    for start, what in _DOCUMENTS.items():
        if head.startswith(start):
            return LeftOut(path, what, "unread" if image_like else "other")
    is_text = not any(byte < 9 or 13 < byte < 32 for byte in head)
    if is_text and not image_like:
        return LeftOut(path, "a text", "other")
    return LeftOut(path, "not a DICOM file (it has no DICM mark)", "unread")
