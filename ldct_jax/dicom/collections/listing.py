"""What lies below a folder, on its way to being paired: files by folder, series, table rows."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ldct_jax.dicom.left_out import LeftOut, walk
from ldct_jax.dicom.series import Series, group
from ldct_jax.dicom.survey import read_files
from ldct_jax.errors import DataError
from ldct_jax.system.names import printable, shown
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
    files: Series | None = None
    dose_source: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """A series with what its folder and tags say of it; ``group`` is who may be its partner."""

    files: Series
    patient_key: str
    what: str
    group: tuple
    dose: float | None
    dose_source: str


@dataclasses.dataclass
class Listing:
    """The files below ``root`` by folder; the rows and left-out files that arise from reading."""

    root: Path
    by_folder: dict[Path, list[Path]]
    rows: list[Row] = dataclasses.field(default_factory=list)
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> Listing:
        """What lies below the folder ``path``, or the file that it is; DataError for nothing."""
        if not path.exists():
            raise DataError(f"{path} doesn't exist; give a folder of DICOM files")
        listing = cls(path if path.is_dir() else path.parent, {})
        for file in walk(path, listing.left_out):
            listing.by_folder.setdefault(file.parent, []).append(file)
        if not listing.by_folder and not listing.left_out:
            raise DataError(f"{path} is empty; give a folder of DICOM files")
        return listing

    def parts(self, folder: Path) -> tuple[str, ...]:
        """The names of the folders from ``root`` itself down to ``folder``."""
        return (self.root.resolve().name, *folder.relative_to(self.root).parts)

    def shown(self, folder: Path) -> str:
        return shown(folder, self.root) if folder != self.root else "."

    def skip(
        self,
        folder: Path,
        slices: int,
        what: str,
        note: str,
        patient_key: str = "",
        kind: str = "",
    ) -> None:
        """A row of what is not used; with ``kind`` it counts as left out, too."""
        self.rows.append(Row(self.shown(folder), patient_key, what, slices, False, printable(note)))
        if kind:
            self.left_out.append(LeftOut(folder, note, kind))

    def series(self, folders: Iterable[Path], *, by_folder: bool) -> list[Series]:
        """The axial series in ``folders``; what can't be used becomes rows.

        ``by_folder``: see :func:`ldct_jax.dicom.series.group`.
        """
        files = [f for folder in folders for f in self.by_folder[folder]]
        if len(files) > MANY_FILES:
            files = track(files, "reading headers", "files")
        headers, left_out, _ = read_files(files)
        self.left_out += left_out
        counts = collections.Counter((one.path.parent, one.reason) for one in left_out)
        for (folder, reason), n in counts.items():
            self.skip(folder, n, "", reason)
        found = []
        for series in group(headers, by_folder=by_folder):
            if why := _unfit(series):
                self.skip(series.folder, len(series.headers), "", why, kind="failed")
            else:
                found.append(series)
        return found


def _unfit(series: Series) -> str:
    """Why a series can't be trained on or compared; empty where it can."""
    row_mm, column_mm = series.first.pixel_mm
    if not series.is_axial:
        return "not axial"
    return "its pixels aren't square" if abs(row_mm - column_mm) > 1e-3 * row_mm else ""
