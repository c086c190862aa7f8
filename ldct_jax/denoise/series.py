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

from ldct_jax.ct.no_data import Range, filled, no_data
from ldct_jax.denoise.models import Denoiser, sample_of
from ldct_jax.denoise.summary import Result
from ldct_jax.denoise.targets import is_finished
from ldct_jax.dicom.derive import NewSeries, Processing, free_number, series_description
from ldct_jax.dicom.header import Header
from ldct_jax.dicom.pixels import Slice, read_slice, to_hu
from ldct_jax.dicom.series import Series
from ldct_jax.dicom.write import encode, instance_uid, to_stored
from ldct_jax.errors import LdctError
from ldct_jax.system.files import PART, sync_folder, telling, write_bytes
from ldct_jax.system.names import shown

READ_AHEAD = 2
"""Batches that are read while one is computed."""
WRITE_BEHIND = 16
"""Slices that may wait to be written."""
SAMPLE_BYTES = 64 << 20
"""Of the slices that a series is judged by, so many bytes are kept until they are computed."""


@dataclasses.dataclass(frozen=True)
class Image:
    """A slice on its way: what was read, its HU with air where it has no data, and where that is.

    ``hu`` is (H, W) float32, ``empty`` (H, W) bool or None.
    """

    slice: Slice
    hu: np.ndarray
    empty: np.ndarray | None


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
                out / _relative(h, root),
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
        self.values = Range()

    def plan(self, finished: dict[str, str]) -> int:
        """How many slices are left to do; raises LdctError where a file is in the way.

        ``finished`` is for volumes: a slice's own UID tells what it is the result of.
        """
        self.result.kept = sum(
            is_finished(
                target.path,
                self.out,
                lambda target=target: instance_uid(target.path) == target.sop_uid,
                overwrite=self.overwrite,
            )
            for target in self.targets
        )
        return len(self.targets) - self.result.kept

    def run(
        self,
        denoiser: Denoiser,
        advance: Callable[[], None],
        doubt: Callable[[Result, str], None],
    ) -> Result:
        """Denoise what is missing and put it in place.

        ``doubt`` is called where the values can't be HU and where the result can't be right; what
        it raises ends the series, of which nothing is written then.

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
                self._compute(todo, denoiser, advance, doubt)
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

    def _compute(self, todo: list[Target], denoiser: Denoiser, advance, doubt) -> None:
        missing = []
        for target in todo:
            if not self.overwrite and self._staged(target).exists():
                self.result.kept += 1
                advance()
            else:
                missing.append(target)
        if not missing:
            return
        now = datetime.datetime.now().astimezone()
        # pydicom runs in one thread only (its warnings are hushed for the whole process); the
        # slow part of writing, waiting for the disk, has another.
        with ThreadPoolExecutor(1) as dicom, ThreadPoolExecutor(1) as disk:
            # An interruption waits for both, so that what was computed is written.
            pending: deque[Future] = deque()
            reader = _Reader()
            # Of all slices, so that a run that goes on does what the one before did.
            for i in sample_of(len(self.targets)):
                image = dicom.submit(reader.sampled, self.targets[i]).result()
                self.values.add(image.hu, image.empty)
            if self.values.doubt:
                doubt(self.result, self.values.doubt)
            of_this = denoiser.for_series(
                lambda i: dicom.submit(reader.sampled, self.targets[i]).result().hu,
                len(self.targets),
            )
            for targets, images in _read_ahead(missing, denoiser.batch, dicom, reader):
                results = of_this.run(np.stack([image.hu for image in images]))
                for target, image, result in zip(targets, images, results, strict=True):
                    data = dicom.submit(self._finish, target, image, result, denoiser, now)
                    pending.append(disk.submit(_write_result, self._staged(target), data))
                    while len(pending) > WRITE_BEHIND:
                        pending.popleft().result()
                    advance()
            while pending:
                pending.popleft().result()
        if self.values.impossible and self.values.impossible not in self.result.warnings:
            doubt(self.result, self.values.impossible)  # a slice that the sample had not
        if self.result.doubt:
            doubt(self.result, self.result.doubt)

    def _finish(self, target: Target, image: Image, result, denoiser: Denoiser, now) -> bytes:
        """The derived file's bytes; counts what happened to the pixels."""
        source, header = image.slice, image.slice.header
        change = self.processing.blend * (result - image.hu)
        new = to_stored(source.stored, change, image.empty, header)
        self.values.add(image.hu, image.empty)
        self.result.add(image.hu, (new.values - source.stored) * header.slope, image.empty)
        self.result.clipped += new.clipped
        self.result.moved += new.moved
        self.result.cut_by_window += denoiser.cut(image.hu, image.empty)
        return encode(
            source,
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


class _Reader:
    """Reads slices, each once: those that the series was judged by wait for their turn."""

    def __init__(self):
        self._kept: dict[Path, Image] = {}
        self._bytes = 0

    def sampled(self, target: Target) -> Image:
        """A slice that is needed again."""
        if (image := self._kept.get(target.path)) is not None:
            return image
        image = _read(target.header)
        if self._bytes + image.slice.stored.nbytes <= SAMPLE_BYTES:
            self._kept[target.path] = image
            self._bytes += image.slice.stored.nbytes
        return image

    def batch(self, targets: list[Target]) -> list[Image]:
        """Slices for the last time."""
        return [self._kept.pop(t.path, None) or _read(t.header) for t in targets]


def _read(header: Header) -> Image:
    source = read_slice(header)
    hu, declared = to_hu(source.stored, header)
    hu = np.asarray(hu, np.float32)
    empty = no_data(hu, declared)
    return Image(source, filled(hu, empty), empty)


def _read_ahead(
    targets: list[Target], batch: int, dicom: ThreadPoolExecutor, reader: _Reader
) -> Iterator[tuple[list[Target], list[Image]]]:
    """Batches of slices in order, the next ones being read meanwhile."""
    batches = [targets[i : i + batch] for i in range(0, len(targets), batch)]
    ahead: deque[Future] = deque()
    for i, group in enumerate(batches):
        while len(ahead) <= READ_AHEAD and i + len(ahead) < len(batches):
            ahead.append(dicom.submit(reader.batch, batches[i + len(ahead)]))
        yield group, ahead.popleft().result()


def _write_result(path: Path, data: Future) -> None:
    write_bytes(path, data.result())


def _relative(header: Header, root: Path) -> Path:
    """Where the result of a slice goes below OUT."""
    if not root.is_dir():
        return Path(header.output_name)
    return header.path.parent.relative_to(root) / header.output_name


def name_of(series: Series, root: Path) -> str:
    """What a series is called in the summary: its folder below IN, or its file."""
    if not root.is_dir():
        return shown(root, root.parent)
    number = "" if series.number is None else f" #{series.number}"
    folder = series.folder
    return (shown(root.resolve(), root.parent) if folder == root else shown(folder, root)) + number
