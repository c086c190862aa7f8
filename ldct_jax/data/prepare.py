"""DICOM → store, once: series by series, resumable, and what was written is checked."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ldct_jax.ct.no_data import AIR_HU, Range, no_data
from ldct_jax.data.acquisition import same_kernel
from ldct_jax.data.kept_report import read_report, write_report
from ldct_jax.data.noise_estimate import flat_noise_hu
from ldct_jax.data.store import STATE, SeriesRecord, none_if_nan, rounded
from ldct_jax.data.store_writer import begin, finished, put_together, write_array, write_manifest
from ldct_jax.dicom.collections import layouts
from ldct_jax.dicom.collections.pairing import load_pair
from ldct_jax.dicom.left_out import LeftOut, walk
from ldct_jax.dicom.load import load
from ldct_jax.dicom.values import Unusable
from ldct_jax.errors import DataError, UsageError
from ldct_jax.system.progress import Progress
from ldct_jax.system.shard import WHOLE, Shard

PREPARE_VERSION = 2
"""Part of every digest: raise it when the same DICOM would give another store."""
LEFT_OUT = "left_out.json"
"""In the store: what only decoding told, for when the same command is given again."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which of a collection's series to take; None takes all.

    Args:
      layout: see ldct_jax.dicom.collections.layouts.LAYOUTS.
      thickness_mm: only series of this slice thickness (±0.05 mm).
      kernel: only series of this kernel; ``br40f`` takes ``Br40f\\3``, too.
      dose: the low dose as a fraction where the layout doesn't know it.
      derived: take images that were computed from others (ImageType) as normal dose, too.
    """

    layout: str = "auto"
    thickness_mm: float | None = None
    kernel: str | None = None
    dose: float | None = None
    derived: bool = False

    def __post_init__(self):
        if self.dose is not None and not 0 < self.dose < 1:
            raise UsageError(f"dose={self.dose}: the low dose lies between 0 and 1")

    def unwanted(self, thickness_mm: float, kernel: str) -> str:
        """Why a series of that slice thickness (NaN: unknown) and kernel isn't taken, or ""."""
        if self.thickness_mm is not None and not abs(thickness_mm - self.thickness_mm) <= 0.05:
            return f"not {self.thickness_mm:g} mm"
        if self.kernel is not None and not same_kernel(self.kernel, kernel):
            return f"not kernel {self.kernel}"
        return ""


EVERYTHING = Selection()


def survey_of(path: Path | None, *, full=None, low=None, selection: Selection = EVERYTHING):
    """The survey of ``path``, or of ``full`` and ``low`` (files or folders), as selected."""
    derived = selection.derived
    if path is not None:
        found = layouts.survey(path, selection.layout, derived=derived)
    else:
        found = layouts.survey_plain(full, low, dose=selection.dose, derived=derived)
    candidates, everything = [], found.candidates
    for candidate in everything:
        if why := selection.unwanted(candidate.full.thickness_mm, candidate.full.first.kernel):
            found = found.without(candidate, why)
        else:
            dose = candidate.dose if candidate.dose is not None else selection.dose
            candidates.append(dataclasses.replace(candidate, dose=dose))
    if not candidates:
        have = sorted({f"{c.full.thickness_mm:g} mm {c.full.first.kernel}" for c in everything})
        raise DataError(f"nothing is left by thickness and kernel; there are {', '.join(have)}")
    return dataclasses.replace(found, candidates=tuple(candidates))


def prepare(
    path: Path | None,
    out: Path,
    *,
    full: Path | None = None,
    low: Path | None = None,
    selection: Selection = EVERYTHING,
    attribution: str = "",
    shard: Shard = WHOLE,
    wait: bool = False,
):
    """Turn DICOM into a store.

    Args:
      path: a folder whose layout is recognised; or None, with ``full`` and ``low`` (folders or
        single files).
      out: the store's folder. A finished store of the same files and options is opened instead.
      shard, wait: see :func:`ldct_jax.data.store_writer.begin`.

    Returns:
      (Store, Survey): the survey's rows are the table of what was found, skipped and why, its
      ``left_out`` the files that are not in the store. A finished store gives the same again.
      The store is None while other processes have their parts to do.

    Raises:
      DataError: see ldct_jax.dicom.collections.layouts; pairs that don't correlate, equal images
        under two patients, nothing that can be stored, no space.
    """
    sources = [Path(p) for p in (path, full, low) if p is not None]
    if (path is None) == (full is None) or (full is None) != (low is None):
        raise UsageError("give either one folder, or the two folders --full and --low")
    for source in sources:
        if not source.exists():
            raise DataError(f"{source} doesn't exist; give a folder of DICOM files")
        if Path(out).resolve().is_relative_to(source.resolve()):
            raise DataError(f"the store {out} may not lie in its own source {source}")
    digest = listing_digest(sources, selection)
    survey = survey_of(path, full=full, low=low, selection=selection)
    report, parts = Path(out) / LEFT_OUT, Path(out) / STATE
    earlier = [
        o for f in (report, *parts.glob(LEFT_OUT + "*")) for o in read_report(f, sources) or ()
    ]
    if store := finished(Path(out), digest):
        if attribution and attribution != store.attribution:
            store = dataclasses.replace(store, attribution=attribution)
            write_manifest(store)
        return store, _told_again(survey, earlier, len(store.series))
    known = set(survey.left_out)
    if shard.count > 1:
        report = parts / f"{LEFT_OUT}-{shard}"
    mine = [c for i, c in enumerate(survey.candidates) if shard.takes(i)]
    slices = sum(len(c.full.headers) for c in mine)
    needed = sum(
        2 * len(c.full.headers) * c.full.first.rows * c.full.first.columns * (2 if c.low else 1)
        for c in survey.candidates
    )
    with (
        begin(Path(out), digest, needed_bytes=needed, shard=shard, wait=wait) as store,
        Progress("preparing", slices, "slices") as progress,
    ):
        for candidate in survey.candidates:
            resumed, damaged = False, []

            def tell(survey=survey, damaged=damaged) -> None:
                write_report(report, sources, _new(survey.leaving_out(damaged), known))

            label = store.label(candidate.patient_key)
            identity = candidate.full.content_identity
            if candidate.low is not None:
                identity += candidate.low.content_identity
            convert = functools.partial(
                _convert,
                store.folder,
                candidate=candidate,
                label=label,
                damaged=damaged,
                tell=tell,
            )
            try:
                record, resumed = store.series(identity, convert)
                if record is None:
                    continue
            except Unusable as error:
                survey = survey.without(candidate, error.reason, "failed")
            survey = survey.leaving_out(damaged)
            if resumed:
                again = dict.fromkeys(o for o in earlier if o.path in candidate.paths)
                survey = survey.telling(again)
            progress.advance(len(candidate.full.headers), "already there" if resumed else "")
        if not survey.candidates:
            reasons = "; ".join(dict.fromkeys(one.reason for one in survey.left_out))
            raise DataError(f"nothing can be stored: {reasons}")
        if (late := _new(survey, known)) or report.exists():
            write_report(report, sources, late)
        done = store.finish(survey.source, attribution)
    if done is not None:
        return done, survey
    whole = functools.partial(prepare, path, out, full=full, low=low, selection=selection)
    together = functools.partial(whole, attribution=attribution, wait=True)
    return put_together(Path(out), shard, together) or (None, survey)


def _new(survey, known: set[LeftOut]) -> list[LeftOut]:
    """What was left out beside ``known``."""
    return [one for one in survey.left_out if one not in known]


def _told_again(survey, late: list[LeftOut], stored: int):
    """The survey with what decoding told when its store of ``stored`` series was made."""
    known = set(survey.left_out)
    if len(survey.candidates) > stored:
        reasons: dict[Path, set[str]] = {}
        for one in late:
            reasons.setdefault(one.path, set()).add(one.reason)
        for candidate in survey.candidates:
            # Where a whole series failed, all of its files have the reason.
            shared = set.intersection(*(reasons.get(path, set()) for path in candidate.paths))
            if why := next((one.reason for one in late if one.reason in shared), ""):
                survey = survey.without(candidate, why)
    return survey.telling(one for one in late if one not in known)


def _convert(
    folder: Path, stem: str, *, candidate, label: str, damaged: list, tell: Callable[[], None]
) -> SeriesRecord:
    """Decode, cut to common slices, measure and write one candidate.

    ``damaged`` takes the errors of slices that can't be decoded; ``tell`` is called where there
    are any, before the series counts as done. Raises Unusable.
    """
    if candidate.low is None:
        full, low = load(candidate.full, damaged=damaged), None
    else:
        full, low = load_pair(candidate.full, candidate.low, damaged=damaged)
    notes = list(full.skipped)
    full_hu = _checked(full, notes)
    full_array = write_array(folder, f"{stem}-full.npy", full_hu)
    low_array, low_noise = None, None
    if low is not None:
        own: list[str] = list(low.skipped)
        low_hu = _checked(low, own)
        notes += [f"low dose: {note}" for note in own]
        low_array = write_array(folder, f"{stem}-low.npy", low_hu)
        low_noise = flat_noise_hu(low_hu, full.pixel_mm)
    if damaged:
        tell()
    return SeriesRecord(
        patient=label,
        full=full_array,
        low=low_array,
        pixel_mm=full.pixel_mm,
        slice_mm=none_if_nan([full.slice_mm])[0],
        step_mm=none_if_nan([full.step_mm])[0],
        # From the first slice: the scanner's own coordinates are nobody's business.
        offsets_mm=tuple(round(float(p - full.positions[0]), 4) for p in full.positions),
        kernel=_short(full.kernel),
        manufacturer=_short(full.manufacturer),
        kvp=none_if_nan([full.kvp])[0],
        tube_current_ma=none_if_nan(full.tube_current_ma),
        exposure_mas=none_if_nan(full.exposure),
        noise_hu=rounded(flat_noise_hu(full_hu, full.pixel_mm)),
        low_dose_noise_hu=rounded(low_noise),
        dose=candidate.dose if low is not None else None,
        dose_source=candidate.dose_source if low is not None else "",
        notes=tuple(notes),
    )


def _checked(series, notes: list[str]) -> np.ndarray:
    """The (N, H, W) int16 HU to store, with air where there are no data; doubts become notes.

    Raises Unusable for values that can't be HU.
    """
    values = Range()
    for i, image in enumerate(series.hu):
        declared = None if series.padding is None else series.padding[i]
        values.add(image, no_data(image, declared))
    if values.impossible:
        raise Unusable(series.files[0].path.parent, values.impossible)
    if values.doubt:
        notes.append(values.doubt)
    below = int(np.count_nonzero(series.hu < AIR_HU))
    if not below:
        return series.hu
    notes.append(f"{below} pixels below {AIR_HU} HU set to air")
    return np.maximum(series.hu, np.int16(AIR_HU))


def listing_digest(folders: list[Path], selection: Selection) -> str:
    """SHA-256 of names, sizes and times of all files in ``folders`` and of the options."""
    digest = hashlib.sha256(f"prepare {PREPARE_VERSION}\n".encode())
    digest.update(json.dumps(dataclasses.asdict(selection), sort_keys=True).encode())
    for folder in folders:
        digest.update(b"\0folder\0")
        for file in walk(folder, []):
            status = file.stat()
            name = os.fsencode(file.relative_to(folder) if folder.is_dir() else file.name)
            digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _short(text: str) -> str:
    """Free text of a scanner, kept to what a kernel or a maker is called."""
    return "".join(c for c in text if c.isascii() and c.isprintable())[:32].strip()
