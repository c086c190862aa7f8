"""Everything below a path, looked at once: CT series, and what was left out and why."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable
from pathlib import Path

from ldct_jax.dicom.file import BIG_ENDIAN, NotDicom
from ldct_jax.dicom.header import Header, read_headers
from ldct_jax.dicom.left_out import LeftOut, nothing_found, walk
from ldct_jax.dicom.series import Series, group
from ldct_jax.dicom.trial import Trials
from ldct_jax.dicom.values import Unusable
from ldct_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Survey:
    """Series in order of first appearance; ``volumes``: files that the caller reads itself.

    ``numbers``: the SeriesNumbers in use, of files that were left out too.
    """

    root: Path
    series: tuple[Series, ...]
    left_out: tuple[LeftOut, ...]
    volumes: tuple[Path, ...] = ()
    numbers: frozenset[int] = frozenset()


def survey(
    path: Path,
    *,
    derivable: bool = False,
    volumes: Callable[[Path], bool] = lambda path: False,
    track: Callable[[list[Path]], Iterable[Path]] = lambda files: files,
) -> Survey:
    """Judge every file at or below ``path`` by its header and group the CT slices among them.

    Args:
      derivable: leave out, too, what no derived image can be made of: compressed pixels that
        can't be decoded, headers that can't be written. Nothing is computed for them then.
      volumes: which files are not DICOM and the caller's own business.
      track: shows the progress over a list of files.

    Raises:
      DataError: no such path. A file that can't be used is in :attr:`Survey.left_out` instead.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} doesn't exist; give a file or folder of DICOM images")
    left_out: list[LeftOut] = []
    files = list(walk(path, left_out))
    own = [f for f in files if volumes(f)]
    headers, more, numbers = read_files(
        track([f for f in files if not volumes(f)]), derivable=derivable
    )
    return Survey(path, tuple(group(headers)), (*left_out, *more), tuple(own), numbers)


def read_files(
    files: Iterable[Path], *, derivable: bool = False
) -> tuple[list[Header], list[LeftOut], frozenset[int]]:
    """(headers of the CT slices, what was left out, SeriesNumbers in use); see :func:`survey`."""
    headers: list[Header] = []
    left_out: list[LeftOut] = []
    numbers: set[int | None] = set()
    with Trials() as trials:  # its process starts with the first compressed slice
        for path in files:
            try:
                found, data_sets = read_headers(path)
                if derivable:
                    for header, data_set in zip(found, data_sets, strict=True):
                        _can_be_derived(header, data_set, trials)
            except NotDicom as error:
                left_out.append(error.left_out)
            except Unusable as error:
                left_out.append(LeftOut.of(error))
                numbers.add(error.series_number)
            else:
                headers += found
                numbers |= {h.series_number for h in found}
    return headers, left_out, frozenset(numbers - {None})


def found_series(path: Path, *, damaged: str = "error") -> Survey:
    """:func:`survey` that wants at least one series.

    Args:
      damaged: ``error`` raises for an image that can't be used, ``skip`` leaves it out.

    Raises:
      DataError: no such path, or nothing in it is a CT slice.
    """
    found = survey(path)
    failed = [one for one in found.left_out if one.kind == "failed"]
    if failed and damaged == "error":
        raise Unusable(failed[0].path, failed[0].reason)
    if not found.series:
        raise DataError(nothing_found(found.root, found.left_out))
    return found


def _can_be_derived(header: Header, data_set, trials: Trials) -> None:
    """Raise Unusable where no derived image can be made; the header is derived on trial."""
    from ldct_jax.dicom.derive import NewSeries, Processing
    from ldct_jax.dicom.write import encode_header

    if header.transfer_syntax == BIG_ENDIAN:
        raise Unusable(
            header.path,
            "big-endian transfer syntax is retired; re-save it as explicit little endian",
        )
    trials.check(header)
    encode_header(
        header,
        data_set,
        series=NewSeries("1.2.3", 1, "trial"),
        sop_uid="1.2.3.4",
        processing=Processing("trial", "0" * 64),
        now=datetime.datetime.now().astimezone(),
    )
