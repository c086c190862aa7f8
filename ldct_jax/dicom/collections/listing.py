"""What lies below a folder, on its way to being paired: files by folder, series, table rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ldct_jax.dicom.header import Unusable
from ldct_jax.dicom.series import SliceFiles, ordered, read_headers, split
from ldct_jax.system.progress import track

MANY_FILES = 2000
"""From this many files on, reading their headers shows its progress."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. ``what``: full, low, or pair. ``note``: why skipped, or remarks."""

    folder: str = dataclasses.field(repr=False)
    patient_key: str = dataclasses.field(repr=False)
    what: str
    slices: int
    used: bool
    note: str
    files: SliceFiles | None = None
    dose_source: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """A series with what its folder and tags say of it; ``group`` is who may be its partner."""

    files: SliceFiles
    patient_key: str
    what: str
    group: tuple
    dose: float | None
    dose_source: str


@dataclasses.dataclass
class Listing:
    """The files below ``root`` by folder, and the rows that arise while they are read."""

    root: Path
    by_folder: dict[Path, list[Path]]
    rows: list[Row] = dataclasses.field(default_factory=list)

    def parts(self, folder: Path) -> tuple[str, ...]:
        """The names of the folders from ``root`` itself down to ``folder``."""
        return (self.root.resolve().name, *folder.relative_to(self.root).parts)

    def shown(self, folder: Path) -> str:
        return str(folder.relative_to(self.root)) if folder.is_relative_to(self.root) else "."

    def skip(self, folder: Path, slices: int, what: str, note: str, patient_key: str = "") -> None:
        self.rows.append(Row(self.shown(folder), patient_key, what, slices, False, note))

    def series(self, folders: Iterable[Path], *, by_folder: bool) -> list[SliceFiles]:
        """The axial series in ``folders``; what can't be used becomes rows.

        ``by_folder`` keeps equal SeriesInstanceUIDs of different folders apart, as collections
        need whose UIDs may have been blanked or shared.
        """
        files = [f for folder in folders for f in self.by_folder[folder]]
        if len(files) > MANY_FILES:
            files = track(files, "reading headers", "files")
        headers, skipped = read_headers(files, damaged="skip")
        for (folder, reason), n in skipped.items():
            self.skip(folder, n, "", reason)
        bins: dict[Path, list] = {}
        for header in headers:
            bins.setdefault(header.path.parent if by_folder else self.root, []).append(header)
        found = []
        for headers in (series for binned in bins.values() for series in split(binned)):
            folder, n = headers[0].path.parent, len(headers)
            try:
                files = ordered(headers)
            except Unusable as error:
                self.skip(folder, n, "", error.reason)
                continue
            first = files.first
            if not files.is_axial:
                self.skip(folder, n, "", "not axial")
            elif abs(first.pixel_mm[0] - first.pixel_mm[1]) > 1e-3 * first.pixel_mm[0]:
                self.skip(folder, n, "", "its pixels aren't square")
            else:
                found.append(files)
        return found
