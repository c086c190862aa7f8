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

    def skip(self, folder: Path, slices: int, what: str, note: str, patient_key: str = "") -> None:
        """A row of what is not used."""
        self.rows.append(Row(self.shown(folder), patient_key, what, slices, False, printable(note)))

    def skip_series(
        self, series: Series, what: str, note: str, patient_key: str = "", kind: str = ""
    ) -> None:
        """A row of a series that is not used; with ``kind`` its files are left out, too."""
        self.skip(series.folder, len(series.headers), what, note, patient_key)
        self.left_out += left_out_of(series, note, kind)

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
            row_mm, column_mm = series.first.pixel_mm
            if not series.is_axial:
                self.skip_series(series, "", "not axial", kind="other")
            elif abs(row_mm - column_mm) > 1e-3 * row_mm:
                self.skip_series(series, "", "its pixels aren't square", kind="failed")
            else:
                found.append(series)
        return found


def left_out_of(series: Series, reason: str, kind: str) -> list[LeftOut]:
    """The files of a series as left out; none without a ``kind``."""
    return [LeftOut(h.path, reason, kind) for h in series.headers] if kind else []
