"""``ldct denoise``: a path of images → a folder of denoised ones.

The order matters: names and images are judged first, without jax; then the model is loaded; then
it is settled what is left to do; only then anything is computed or written.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from ldct_jax.denoise.models import Denoiser, Found
from ldct_jax.denoise.series import SeriesJob
from ldct_jax.denoise.summary import Result, Summary
from ldct_jax.denoise.targets import check_folders
from ldct_jax.denoise.volumes import VolumeJob, is_volume
from ldct_jax.dicom.derive import Processing
from ldct_jax.dicom.left_out import LeftOut, nothing_found
from ldct_jax.dicom.series import Series
from ldct_jax.dicom.survey import Survey, survey
from ldct_jax.errors import DataError, LdctError, UsageError
from ldct_jax.system.files import locked, write_bytes
from ldct_jax.system.progress import Progress

RECORD = "ldct_denoise.json"
"""In OUT: what was done to what, and how an interrupted run knows finished volumes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """``blend``: share of the model's result. ``strict``: warnings are errors. ``keep``: private
    creators (and ``overlays``) that stay in the derived headers."""

    blend: float = 1.0
    strict: bool = False
    overwrite: bool = False
    keep: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 <= self.blend <= 1:  # NaN included
            raise UsageError(f"--blend {self.blend}: a share between 0 and 1 is needed")


@dataclasses.dataclass(frozen=True)
class Judged:
    """The usable images of one IN, all of them read once."""

    root: Path
    inputs: Survey
    volumes: tuple[Path, ...]

    @property
    def damaged(self) -> tuple[LeftOut, ...]:
        return tuple(r for r in self.inputs.left_out if r.kind != "other")


def judge(source: Path, out: Path) -> Judged:
    """Look at everything below ``source``; jax is not needed.

    Raises:
      UsageError: no such path, or an OUT that can't be one.
      DataError: nothing usable, with the reasons.
    """
    if not source.exists():
        raise UsageError(f"{source} doesn't exist: give a DICOM file or folder, .npy or NIfTI")
    check_folders(source, out)
    inputs = survey(source, derivable=True, volumes=is_volume)
    volumes, rejected = [], []
    for path in inputs.volumes:
        try:
            VolumeJob(path, source, out)
        except DataError as error:
            if not source.is_dir():
                raise
            reason = str(error).removeprefix(f"{path}").lstrip(": ")
            rejected.append(LeftOut(path, reason, "failed"))
        else:
            volumes.append(path)
    inputs = dataclasses.replace(inputs, left_out=(*inputs.left_out, *rejected))
    if not inputs.series and not volumes:
        raise DataError(nothing_found(source, inputs.left_out))
    return Judged(source, inputs, tuple(volumes))


def denoise_path(
    source: Path | str,
    out: Path | str,
    model: Found | Denoiser,
    options: Options = Options(),
    *,
    warn: Callable[[str], None] = lambda text: None,
    start: Callable[[], None] = lambda: None,
) -> Summary:
    """Denoise every image at or below ``source`` into the folder ``out``.

    Args:
      model: what :func:`ldct_jax.denoise.models.find` found, or a loaded denoiser.
      warn: is told every warning as it is found.
      start: called before jax is first needed.

    Returns: what happened. Files that could not be used and series that failed (a result with NaN
      or infinite values; nothing of such a series is written) are listed in it and don't keep
      the others from being denoised: :func:`check_complete` raises for them.

    Raises:
      UsageError, DataError: see :func:`judge`; with ``strict`` also for damaged files, images
        outside the training range, gaps and the like.
      LdctError: files in the way, a full disk.
    """
    source, out = Path(source), Path(out)
    judged = judge(source, out)
    if options.strict and judged.damaged:
        raise DataError(_damaged(judged) + "; --strict refuses it")
    if isinstance(model, Found):
        if model.needs_jax:
            start()
        denoiser = model.open()
    else:
        denoiser = model
    return _Run(judged, out, denoiser, options, warn).run()


class _Run:
    def __init__(self, judged: Judged, out: Path, denoiser: Denoiser, options: Options, warn):
        self.judged, self.out, self.denoiser = judged, out, denoiser
        self.options, self.warn = options, warn
        self.volumes_done: dict[str, str] = {}
        self.failed: list[tuple[str, str]] = []
        trained = denoiser.trained_on
        self.processing = Processing(
            model=denoiser.name,
            digest=denoiser.digest,
            trained_on=trained.words if trained else "",
            blend=options.blend,
            keep=options.keep,
        )

    def run(self) -> Summary:
        jobs = self._series_jobs() + self._volume_jobs()
        self._tell_warnings(jobs)
        with locked(self.out):
            _, finished = self._earlier()
            plans = [
                job.plan() if isinstance(job, SeriesJob) else job.plan(self.processing, finished)
                for job in jobs
            ]
            results = []
            with Progress("denoising", sum(plans), "slices") as progress:
                for job in jobs:
                    try:
                        result = self._run_one(job, progress)
                    except LdctError as error:
                        if isinstance(error.__cause__, OSError):
                            raise  # the disk's state is that of the next series too
                        self.failed.append((job.result.name, str(error)))
                        continue
                    self._after(job, result)
                    results.append(result)
                    if result.written:
                        if isinstance(job, VolumeJob):
                            self.volumes_done[job.name] = job.key
                        self._write_record(results)
            return self._summary(results)

    def _series_jobs(self) -> list:
        numbers = set(self.judged.inputs.numbers)
        jobs = []
        for series in self.judged.inputs.series:
            job = SeriesJob(
                series,
                self.judged.root,
                self.out,
                self.processing,
                numbers,
                overwrite=self.options.overwrite,
                together=self.denoiser.of_series is not None,
            )
            job.result.warnings += self._series_warnings(series)
            jobs.append(job)
        return jobs

    def _volume_jobs(self) -> list:
        root, overwrite = self.judged.root, self.options.overwrite
        return [VolumeJob(p, root, self.out, overwrite=overwrite) for p in self.judged.volumes]

    def _run_one(self, job, progress: Progress) -> Result:
        def advance(slices: int = 1) -> None:
            progress.advance(slices, job.result.name)

        if isinstance(job, SeriesJob):
            return job.run(self.denoiser, advance)
        return job.run(self.denoiser, self.processing, advance)

    def _series_warnings(self, series: Series) -> list[str]:
        first, denoiser = series.first, self.denoiser
        found = list(series.warnings)
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
        told = [f"{job.result.name}: {w}" for job in jobs for w in job.result.warnings]
        if told and self.options.strict:
            more = f" and {len(told) - 1} more" if len(told) > 1 else ""
            raise DataError(f"{told[0]}{more}; --strict refuses it")
        for text in told:
            self.warn(text)

    def _after(self, job, result: Result) -> None:
        """Warnings that only the pixels tell."""
        for count, what in (
            (result.clipped, "were cut to the file's range of values"),
            (result.moved, "were moved off the padding value"),
            (result.cut_by_window, "lay outside the model's window and were cut to it"),
        ):
            if count:
                result.warnings.append(f"{count} pixel{'s' * (count > 1)} {what}")
                self.warn(f"{result.name}: {result.warnings[-1]}")

    def _earlier(self) -> tuple[list[dict], dict[str, str]]:
        """The rows and finished volumes that runs before this one recorded in OUT."""
        try:
            record = json.loads((self.out / RECORD).read_text())
            return list(record["results"]), dict(record["volumes"])
        except (OSError, ValueError, KeyError, TypeError):
            return [], {}

    def _write_record(self, results: list[Result]) -> None:
        """Add what was written now to what was recorded before."""
        rows, volumes = self._earlier()
        summary = self._summary([r for r in results if r.written]).record()
        new = {r["name"] for r in summary["results"]}
        shared = {k: summary[k] for k in ("model", "digest", "blend")}
        rows = [r for r in rows if r.get("name") not in new]
        rows += [shared | r for r in summary["results"]]
        record = {"results": rows, "volumes": volumes | self.volumes_done}
        write_bytes(self.out / RECORD, json.dumps(record, indent=1).encode())

    def _summary(self, results: list[Result]) -> Summary:
        rejected = self.judged.inputs.left_out
        return Summary(
            model=self.denoiser.name,
            digest=self.denoiser.digest,
            blend=self.options.blend,
            results=tuple(results),
            left_out=tuple((_shown(r.path, self.judged.root), r.reason) for r in rejected),
            damaged=len(self.judged.damaged),
            failed=tuple(self.failed),
            out=str(self.out),
        )


def check_complete(summary: Summary) -> None:
    """Raise LdctError where a series failed or damaged files were left out; the rest is done."""
    if summary.failed:
        name, why = summary.failed[0]
        more = f" ({len(summary.failed) - 1} more failed)" if len(summary.failed) > 1 else ""
        raise LdctError(f"{name}: {why}{more}; nothing of it was written")
    if summary.damaged:
        files = f"{summary.damaged} damaged file{'s' * (summary.damaged > 1)}"
        raise DataError(f"{files} left out (see above); everything else was denoised")


def _damaged(judged: Judged) -> str:
    first = judged.damaged[0]
    more = f" and {len(judged.damaged) - 1} more damaged files" if len(judged.damaged) > 1 else ""
    return f"{_shown(first.path, judged.root)}: {first.reason}{more}"


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if root.is_dir() else path.name
