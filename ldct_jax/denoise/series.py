"""One DICOM series through a model, in a stream: memory holds a few slices, never the series.

Slices are finished in a hidden folder beside the results and move to their places when all are
there: a model that fails at the last slice leaves nothing, an interrupted run goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ldct_jax.denoise.models import Denoiser
from ldct_jax.denoise.summary import Result
from ldct_jax.denoise.targets import check_target
from ldct_jax.dicom.derive import NewSeries, Processing, free_number, series_description
from ldct_jax.dicom.header import Header
from ldct_jax.dicom.pixels import Slice as Source
from ldct_jax.dicom.pixels import read_slice, to_hu
from ldct_jax.dicom.series import Series
from ldct_jax.dicom.write import encode, instance_uid, to_stored
from ldct_jax.errors import LdctError
from ldct_jax.system.files import PART, sync_folder, telling, write_bytes

READ_AHEAD = 2
"""Batches that are read while one is computed."""
WRITE_BEHIND = 16
"""Slices that may wait to be written."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice on its way: its stored values, HU with padding as air, and the padding."""

    source: Source
    hu: np.ndarray
    padding: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Target:
    """Where one derived slice goes, and its UID."""

    header: Header
    sop_uid: str
    path: Path


class SeriesJob:
    """One series to be denoised into the folder ``out``; ``root`` is the IN that names are kept of.

    ``plan`` looks at what is there already and raises before anything is computed; ``run`` works.
    """

    def __init__(
        self,
        series: Series,
        root: Path,
        out: Path,
        processing: Processing,
        numbers: set[int],
        *,
        overwrite: bool = False,
        together: bool = False,
    ):
        self.series, self.out, self.processing = series, out, processing
        first = series.first
        number = free_number(series.number, numbers)
        numbers.add(number)
        # Where the result of a slice depends on the others, other slices beside it make another
        # image: its UID says so, and results of both never lie in one series.
        all_uids = sorted(h.instance_uid for h in series.headers) if together else []
        self.new = NewSeries(
            uid=processing.uid("series", *series.identity, *all_uids),
            number=number,
            description=series_description(series.description, processing),
        )
        self.targets = [
            Target(
                h,
                processing.uid("instance", h.instance_uid, *all_uids),
                out / _relative(h.path.parent / h.output_name, root),
            )
            for h in series.headers
        ]
        self.staging = out / f".{self.new.uid}{PART}"
        self.overwrite = overwrite
        self.result = Result(
            name=name_of(series, root),
            slices=len(series.headers),
            matrix=(first.rows, first.columns),
            number=number,
        )

    def plan(self) -> int:
        """How many slices are left to do; raises LdctError where a file is in the way."""
        done = 0
        for target in self.targets:
            check_target(target.path, self.out)
            if self.overwrite or not (target.path.exists() or target.path.is_symlink()):
                continue
            if instance_uid(target.path) != target.sop_uid:
                raise LdctError(
                    f"{target.path} exists and isn't this result: choose another OUT folder, or "
                    "say --overwrite"
                )
            done += 1
        self.result.kept = done
        return len(self.targets) - done

    def run(self, denoiser: Denoiser, advance: Callable[[], None]) -> Result:
        """Denoise what is missing and put it in place.

        Raises:
          NumericsError: NaN or infinite values in a result; nothing of the series is written.
          LdctError: a slice that can't be read any more, or a full disk.
        """
        began = time.monotonic()
        todo = [t for t in self.targets if self.overwrite or not t.path.exists()]
        if todo:
            with telling(self.staging / "."):
                self.staging.mkdir(parents=True, exist_ok=True)
            try:
                self._compute(todo, denoiser, advance)
            except LdctError as error:
                if not isinstance(error.__cause__, OSError):
                    shutil.rmtree(self.staging, ignore_errors=True)
                raise
            self._move(todo)
        with contextlib.suppress(OSError):
            shutil.rmtree(self.staging)
        self.result.seconds = time.monotonic() - began
        return self.result

    def _staged(self, target: Target) -> Path:
        return self.staging / f"{target.sop_uid}.dcm"

    def _compute(self, todo: list[Target], denoiser: Denoiser, advance) -> None:
        missing = []
        for target in todo:
            if not self.overwrite and self._staged(target).exists():
                self.result.kept += 1
                advance()
            else:
                missing.append(target)
        now = datetime.datetime.now().astimezone()
        # pydicom runs in one thread only (its warnings are hushed for the whole process); the
        # slow part of writing, waiting for the disk, has another.
        with ThreadPoolExecutor(1) as dicom, ThreadPoolExecutor(1) as disk:
            # An interruption waits for both, so that what was computed is written.
            pending: deque[Future] = deque()
            # Of all slices, so that a run that goes on does what the one before did.
            of_this = denoiser.for_series(
                lambda i: dicom.submit(_read_all, [self.targets[i]]).result()[0].hu,
                len(self.targets) if missing else 1,
            )
            for targets, slices in _read_ahead(missing, denoiser.batch, dicom):
                results = of_this.run(np.stack([s.hu for s in slices]))
                for target, source, result in zip(targets, slices, results, strict=True):
                    data = dicom.submit(self._finish, target, source, result, denoiser, now)
                    pending.append(disk.submit(_write_result, self._staged(target), data))
                    while len(pending) > WRITE_BEHIND:
                        pending.popleft().result()
                    advance()
            while pending:
                pending.popleft().result()

    def _finish(self, target: Target, source: Slice, result, denoiser: Denoiser, now) -> bytes:
        """The derived file's bytes; counts what happened to the pixels."""
        change = self.processing.blend * (result - source.hu)
        new = to_stored(source.source.stored, change, source.padding, target.header)
        after, _ = to_hu(new.values, target.header)
        self.result.add(source.hu, after, source.padding)
        self.result.clipped += new.clipped
        self.result.moved += new.moved
        if denoiser.window is not None and denoiser.window.clip:
            outside = (source.hu < denoiser.window.low) | (source.hu > denoiser.window.high)
            if source.padding is not None:
                outside &= ~source.padding
            self.result.cut_by_window += int(np.count_nonzero(outside))
        return encode(
            source.source,
            new.values,
            series=self.new,
            sop_uid=target.sop_uid,
            processing=self.processing,
            now=now,
        )

    def _move(self, todo: list[Target]) -> None:
        folders = set()
        for target in todo:
            with telling(target.path):
                target.path.parent.mkdir(parents=True, exist_ok=True)
                self._staged(target).replace(target.path)
            folders.add(target.path.parent)
        for folder in folders:
            with telling(folder / "."):
                sync_folder(folder)


def _read_ahead(
    targets: list[Target], batch: int, reader: ThreadPoolExecutor
) -> Iterator[tuple[list[Target], list[Slice]]]:
    """Batches of slices in order, the next ones being read meanwhile."""
    batches = [targets[i : i + batch] for i in range(0, len(targets), batch)]
    ahead: deque[Future] = deque()
    for i, group in enumerate(batches):
        while len(ahead) <= READ_AHEAD and i + len(ahead) < len(batches):
            ahead.append(reader.submit(_read_all, batches[i + len(ahead)]))
        yield group, ahead.popleft().result()


def _read_all(targets: list[Target]) -> list[Slice]:
    slices = []
    for header in (t.header for t in targets):
        source = read_slice(header)
        hu, padding = to_hu(source.stored, header)
        slices.append(Slice(source, hu.astype(np.float32), padding))
    return slices


def _write_result(path: Path, data: Future) -> None:
    write_bytes(path, data.result())


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root if root.is_dir() else root.parent)


def name_of(series: Series, root: Path) -> str:
    """What a series is called in the summary: its folder below IN, or its file."""
    if not root.is_dir():
        return root.name
    folder = series.first.path.parent.relative_to(root)
    number = "" if series.number is None else f" #{series.number}"
    return f"{folder if folder.parts else root.resolve().name}{number}"
