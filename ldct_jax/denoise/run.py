"""``ldct denoise``: a path of images → a folder of denoised ones.

The order matters: names and images are judged first, without jax; then the model is loaded; then
it is settled what is left to do; only then anything is computed or written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from ldct_jax.data.volumes import is_volume, open_volume
from ldct_jax.denoise.models import Denoiser, Found
from ldct_jax.denoise.series import SeriesJob
from ldct_jax.denoise.summary import Result, Summary, grouped
from ldct_jax.denoise.targets import check_folders
from ldct_jax.denoise.volumes import VolumeJob
from ldct_jax.dicom.derive import Processing
from ldct_jax.dicom.left_out import LeftOut, incomplete, lines, nothing_found
from ldct_jax.dicom.series import Series
from ldct_jax.dicom.survey import Survey, survey
from ldct_jax.errors import DataError, LdctError, UsageError
from ldct_jax.system.files import locked, write_bytes
from ldct_jax.system.names import counted, printable, shown
from ldct_jax.system.progress import Progress, track
from ldct_jax.system.shard import Shard

RECORD = "ldct_denoise.json"
"""In OUT: what was done to what, and how an interrupted run knows finished volumes."""
SHARDS = ".shards"
"""In OUT: locks of processes that share it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """``blend``: share of the model's result. ``strict``: warnings are errors. ``keep``: private
    creators (and ``overlays``) that stay in the derived headers. ``shard``: which of the series."""

    blend: float = 1.0
    strict: bool = False
    overwrite: bool = False
    keep: tuple[str, ...] = ()
    shard: Shard = Shard()

    def __post_init__(self):
        if not 0 <= self.blend <= 1:  # NaN included
            raise UsageError(f"--blend {self.blend}: a share between 0 and 1 is needed")


def judge(source: Path, out: Path, *, quiet: bool = False) -> Survey:
    """Look at everything at or below ``source``; jax is not needed. ``quiet``: show no progress.

    Raises:
      UsageError: no such path, or an OUT that can't be one.
      DataError: nothing usable, with the reasons.
    """
    if not source.exists():
        raise UsageError(f"{source} doesn't exist: give a DICOM file or folder, .npy or NIfTI")
    check_folders(source, out)
    if source.is_file() and is_volume(source):
        open_volume(source)
    found = survey(
        source,
        derivable=True,
        volumes=is_volume,
        track=lambda files: (
            files if quiet or source.is_file() else track(files, "checking", "files")
        ),
    )
    volumes, left_out = [], list(found.left_out)
    for path in found.volumes:
        try:
            open_volume(path)
        except DataError as error:
            reason = str(error).removeprefix(str(path)).lstrip(": ")
            left_out.append(LeftOut(path, reason, "failed"))
        else:
            volumes.append(path)
    if not found.series and not volumes:
        raise DataError(nothing_found(source, left_out))
    return dataclasses.replace(found, volumes=tuple(volumes), left_out=tuple(left_out))


def denoise_path(
    source: Path | str,
    out: Path | str,
    model: Found | Denoiser,
    options: Options = Options(),
    *,
    warn: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] = lambda text: None,
    start: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> Summary:
    """Denoise every image at or below ``source`` into the folder ``out``.

    Args:
      model: what :func:`ldct_jax.denoise.models.find` found, or a loaded denoiser.
      warn: is told every warning as it is found; ``note`` what is worth knowing and no doubt.
      start: called before jax is first needed.
      quiet: show no progress.

    Returns: what happened. Files that could not be used and series that failed (a result with NaN
      or infinite values, or with ``strict`` values that can't be HU; nothing of such a series is
      written) are listed in it and don't keep the others from being denoised:
      :func:`check_complete` raises for them.

    Raises:
      UsageError, DataError: see :func:`judge`; with ``strict`` also for images that were left out,
        files that weren't read, images outside the training range, gaps and the like.
      LdctError: files in the way, a full disk.
    """
    source, out = Path(source), Path(out)
    judged = judge(source, out, quiet=quiet)
    if options.strict and incomplete(judged.left_out):
        raise DataError(f"{lines(judged.left_out, source)[0]}; --strict refuses it")
    if isinstance(model, Found):
        if model.needs_jax:
            start()
        denoiser = model.open()
    else:
        denoiser = model
    new = not out.exists()
    summary = _Run(judged, out, denoiser, options, warn, note, quiet).run()
    if new and summary.failed:
        # Where everything failed, no empty folder stays behind.
        with contextlib.suppress(OSError):
            out.rmdir()
    return summary


class _Run:
    def __init__(
        self, judged: Survey, out: Path, denoiser: Denoiser, options: Options, warn, note, quiet
    ):
        self.judged, self.out, self.denoiser = judged, out, denoiser
        self.options, self.warn, self.note, self.quiet = options, warn, note, quiet
        self.volumes_done: dict[str, str] = {}
        self.failed: list[tuple[str, str]] = []
        self.late: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []
        trained = denoiser.trained_on
        self.processing = Processing(
            model=denoiser.name,
            digest=denoiser.digest,
            trained_on=trained.words if trained else "",
            blend=options.blend,
            keep=options.keep,
        )

    def run(self) -> Summary:
        # All of them whatever the shard, so that each series gets the number that it would have.
        jobs = [job for i, job in enumerate(self._jobs()) if self.options.shard.takes(i)]
        self._tell_warnings(jobs)
        with self._locked():
            _, finished = self._earlier()
            left = sum(job.plan(finished) for job in jobs)
            results = []
            with Progress("denoising", left, "slices", quiet=self.quiet) as progress:
                for job in jobs:

                    def advance(slices: int = 1, name: str = job.result.name) -> None:
                        progress.advance(slices, name)

                    try:
                        result = job.run(self.denoiser, advance, self._doubt)
                    except LdctError as error:
                        if isinstance(error.__cause__, OSError):
                            raise  # the disk's state is that of the next series too
                        self.failed.append((job.result.title, str(error)))
                        continue
                    self._after(result)
                    results.append(result)
                    if result.written:
                        if isinstance(job, VolumeJob):
                            self.volumes_done[job.name] = job.key
                        self._write_record(results)
            for text in grouped(self.late):
                self.warn(text)
            for text in grouped(self.notes):
                self.note(text)
            return self._summary(results)

    @contextlib.contextmanager
    def _locked(self):
        shard = self.options.shard
        if shard.count == 1:
            with locked(self.out):
                yield
        else:
            with locked(self.out, shared=True), locked(self.out / SHARDS / str(shard)):
                yield

    def _jobs(self) -> list[SeriesJob | VolumeJob]:
        where = self.judged.root, self.out, self.processing
        overwrite = self.options.overwrite
        numbers = set(self.judged.numbers)
        jobs: list[SeriesJob | VolumeJob] = []
        for series in self.judged.series:
            together = self.denoiser.of_series is not None
            job = SeriesJob(series, *where, numbers, overwrite=overwrite, together=together)
            job.result.warnings += self._series_warnings(series)
            job.result.remarks += series.remarks
            jobs.append(job)
        return jobs + [VolumeJob(p, *where, overwrite=overwrite) for p in self.judged.volumes]

    def _doubt(self, result: Result, text: str) -> None:
        if self.options.strict:
            raise DataError(f"{text}; --strict refuses it")
        result.warnings.append(text)
        self.late.append((result.title, text))

    def _series_warnings(self, series: Series) -> list[str]:
        first, denoiser = series.first, self.denoiser
        found = list(series.warnings)
        if not series.is_axial:
            found.append(
                "its slices don't lie across the body: the model was trained on axial ones"
            )
        if series.is_ours:
            found.append("is a result of ldct_jax already: it would be denoised twice")
        if denoiser.learned and denoiser.trained_on is None:
            found.append(
                "the model doesn't say on which kernels and slice thickness it was trained"
            )
        elif denoiser.trained_on is not None:
            found += denoiser.trained_on.outside(
                kernel=first.kernel,
                thickness_mm=first.thickness_mm,
                field_of_view_mm=max(
                    s * n for s, n in zip(first.pixel_mm, (first.rows, first.columns), strict=True)
                ),
                kvp=first.kvp,
            )
        if denoiser.window is not None and denoiser.window.clip:
            found.append(f"the model cuts everything to its window {denoiser.window}")
        return found

    def _tell_warnings(self, jobs) -> None:
        told = [*self.denoiser.doubts]
        told += grouped((job.result.title, w) for job in jobs for w in job.result.warnings)
        if told and self.options.strict:
            more = f" and {len(told) - 1} more" if len(told) > 1 else ""
            raise DataError(f"{told[0]}{more}; --strict refuses it")
        for text in told:
            self.warn(text)
        for text in grouped((job.result.title, r) for job in jobs for r in job.result.remarks):
            self.note(text)

    def _after(self, result: Result) -> None:
        """What happened to single pixels."""
        for count, what in (
            (result.clipped, "were cut to the file's range of values"),
            (result.moved, "were moved off the padding value"),
            (result.cut_by_window, "lay outside the model's window and were cut to it"),
        ):
            if count:
                result.remarks.append(f"{counted(count, 'pixel')} {what}")
                self.notes.append((result.title, result.remarks[-1]))

    def _earlier(self) -> tuple[list[dict], dict[str, str]]:
        """The rows and finished volumes that runs before this one recorded in OUT."""
        try:
            record = json.loads((self.out / RECORD).read_text())
            return list(record["results"]), dict(record["volumes"])
        except (OSError, ValueError, KeyError, TypeError):
            return [], {}

    def _write_record(self, results: list[Result]) -> None:
        """Add what was written now to what was recorded before, by other shards, too."""
        if self.options.shard.count > 1:
            with locked(self.out / SHARDS / "record", wait=True):
                self._add_to_record(results)
        else:
            self._add_to_record(results)

    def _add_to_record(self, results: list[Result]) -> None:
        rows, volumes = self._earlier()
        summary = self._summary([r for r in results if r.written]).record()
        new = {r["name"] for r in summary["results"]}
        shared = {k: summary[k] for k in ("model", "digest", "step", "blend")}
        rows = [r for r in rows if r.get("name") not in new]
        rows += [shared | r for r in summary["results"]]
        rows.sort(key=lambda r: str(r.get("name")))
        record = {"results": rows, "volumes": volumes | self.volumes_done}
        write_bytes(self.out / RECORD, json.dumps(record, indent=1).encode())

    def _summary(self, results: list[Result]) -> Summary:
        root, left_out = self.judged.root, self.judged.left_out
        return Summary(
            model=self.denoiser.name,
            digest=self.denoiser.digest,
            step=self.denoiser.step,
            blend=self.options.blend,
            results=tuple(results),
            left_out=tuple((shown(one.path, root), one.reason, one.kind) for one in left_out),
            left_out_lines=tuple(lines(left_out, root)),
            incomplete=incomplete(left_out),
            failed=tuple(self.failed),
            out=printable(str(self.out)),
        )


def check_complete(summary: Summary) -> None:
    """Raise LdctError where a series failed or images were left out; the rest is done."""
    if summary.failed:
        name, why = summary.failed[0]
        more = f" ({len(summary.failed) - 1} more failed)" if len(summary.failed) > 1 else ""
        raise LdctError(f"{name}: {why}{more}; nothing of it was written")
    if summary.incomplete:
        raise DataError(f"{summary.incomplete}; everything else was denoised")
