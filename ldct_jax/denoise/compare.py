"""Score a denoiser on files: low dose in, compared with normal dose, under named protocols."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ldct_jax.ct.no_data import NO_DATA_BELOW_HU, filled, no_data
from ldct_jax.data.store import Store, is_store, manifest_sha256
from ldct_jax.data.volumes import checked_slices, is_nifti, is_volume, open_volume, same_place
from ldct_jax.denoise.filters import Gaussian
from ldct_jax.denoise.filters import run as run_filter
from ldct_jax.denoise.models import for_series
from ldct_jax.denoise.score_parts import Scored
from ldct_jax.dicom.left_out import incomplete, lines
from ldct_jax.errors import DataError
from ldct_jax.metrics.protocols import Protocol, Summary, concatenate, table
from ldct_jax.system.progress import Progress


@dataclasses.dataclass(frozen=True)
class PairedSeries:
    """One series at both doses: (N, H, W) HU of any real type, read slice by slice."""

    low: np.ndarray = dataclasses.field(repr=False)
    full: np.ndarray = dataclasses.field(repr=False)
    patient: str


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What is scored, and what isn't.

    ``warnings``: what was left out or looks odd, a line each. ``incomplete``: the error line where
    images were left out that should have been scored, else "". ``digest``: of a store, else "".
    """

    series: tuple[PairedSeries, ...]
    source: str
    warnings: tuple[str, ...] = ()
    incomplete: str = ""
    digest: str = ""

    def __len__(self) -> int:
        return sum(len(s.low) for s in self.series)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One method under one protocol: a row a slice, and mean ± SD over patients."""

    method: str
    rows: list[dict]
    summary: Summary


@contextlib.contextmanager
def read_pairs(low: Path, full: Path) -> Iterator[Pairs]:
    """Series at both doses; DICOM is decoded into a temporary store, which goes with the context.

    LOW and FULL are DICOM files or folders of series (paired by slice position), two NIfTI or
    ``.npy`` files in HU of one shape, or one store named twice. Raises DataError for files that
    are missing, damaged, of different kinds, don't belong together, or can't be HU.
    """
    for path in (low, full):
        if not path.exists():
            raise DataError(f"{path} doesn't exist; give DICOM, NIfTI, .npy in HU, or a store")
    kinds = _kind(low), _kind(full)
    if kinds[0] != kinds[1]:
        raise DataError(f"{low} is {kinds[0]} and {full} is {kinds[1]}: give two of one kind")
    if kinds[0] == "a store":
        yield _store(low, full)
    elif kinds[0] == "DICOM":
        with tempfile.TemporaryDirectory() as folder:
            yield _dicom(low, full, Path(folder) / "store")
    else:
        yield _volumes(low, full)


def compare(
    pairs: Pairs,
    model: Callable[[np.ndarray], np.ndarray],
    name: str,
    protocols: Sequence[Protocol],
) -> list[Comparison]:
    """Scores of the low dose as it is, of a Gaussian blur, and of ``model`` (HU → HU).

    Where either dose holds no data, every method sees air, and nothing is scored.
    """
    with Progress("evaluating", len(pairs), "slices") as progress:
        scored = [
            score(series, model, name, protocols, advance=progress.advance)
            for series in pairs.series
        ]
    return compared(scored, pairs, protocols)


def score(
    series: PairedSeries,
    model: Callable[[np.ndarray], np.ndarray],
    name: str,
    protocols: Sequence[Protocol],
    *,
    advance: Callable[[], None],
) -> Scored:
    """The scores of one series' slices by (method, protocol's name)."""
    scores: dict[tuple[str, str], list] = {}
    n = len(series.low)
    methods: dict[str, Callable] = {
        "undenoised": lambda hu: hu,
        # Stands in every table: PSNR alone can be won by blurring.
        "gaussian blur": lambda hu: run_filter(Gaussian(), hu),
        name: for_series(model, lambda k: _slice(series, k)[0][0], n),
    }
    for k in range(n):
        low, full, empty = _slice(series, k)
        for method, run in methods.items():
            image = filled(np.asarray(run(low)), empty)
            for protocol in protocols:
                found = protocol.score(image, full, no_data=empty)
                scores.setdefault((method, protocol.name), []).append(found)
        advance()
    return {key: concatenate(parts) for key, parts in scores.items()}


def compared(
    scored: Sequence[Scored], pairs: Pairs, protocols: Sequence[Protocol]
) -> list[Comparison]:
    """The comparison that the scores of all series of ``pairs`` make."""
    patients = [s.patient for s in pairs.series for _ in s.low]
    methods = dict.fromkeys(method for method, _ in scored[0])
    found = []
    for protocol in protocols:
        for method in methods:
            whole = concatenate([one[method, protocol.name] for one in scored])
            rows = [
                {"method": method, "patient": patient, "slice": i, **row}
                for i, (patient, row) in enumerate(zip(patients, whole, strict=True))
            ]
            found.append(Comparison(method, rows, table(whole, patients)))
    return found


def _slice(series: PairedSeries, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(low, full, where either holds no data) of one slice, (1, H, W) float32 with air there."""
    low, full = (np.asarray(stack[k : k + 1], np.float32) for stack in (series.low, series.full))
    # A constant corner of one of them alone is data: the air of a target without noise.
    masks = [no_data(low), no_data(full)]
    empty = (low < NO_DATA_BELOW_HU) | (full < NO_DATA_BELOW_HU)
    if masks[0] is not None and masks[1] is not None:
        empty |= masks[0] & masks[1]
    empty = empty if empty.any() else None
    return filled(low, empty), filled(full, empty), empty


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a store" if is_store(path) else "DICOM"
    if is_volume(path):
        return "a NIfTI file" if is_nifti(path) else "a .npy file"
    return "DICOM"


def _store(low: Path, full: Path) -> Pairs:
    if low.resolve() != full.resolve():
        raise DataError("two different stores can't be paired: name one paired store twice")
    store = Store.open(low)
    paired = _paired(store)
    lacking = len(store.series) - len(paired)
    told = (f"{lacking} series of normal dose only: not scored",) if lacking else ()
    # The arrays' own digests: what made the store says nothing of a label or a later change.
    digest = manifest_sha256({"series": [dataclasses.asdict(s) for s in store.series]})
    return Pairs(paired, store.source, told, digest=digest)


def _paired(store) -> tuple[PairedSeries, ...]:
    paired = [i for i, record in enumerate(store.series) if record.low is not None]
    if not paired:
        raise DataError(
            f"{store.folder} holds normal dose only; simulate a low dose first (`ldct data "
            "simulate`)"
        )
    return tuple(PairedSeries(store.low(i), store.full(i), store.series[i].patient) for i in paired)


def _dicom(low: Path, full: Path, folder: Path) -> Pairs:
    from ldct_jax.data.prepare import prepare  # it needs jax

    store, survey = prepare(None, folder, full=full, low=low)
    told = [
        f"not scored: {row.what or 'series'} of {row.slices} slices in {row.folder}: {row.note}"
        for row in survey.rows
        if not row.used
    ]
    for row, record in zip((r for r in survey.rows if r.used), store.series, strict=True):
        told += [f"{row.folder}: {note}" for note in record.notes]
    told += lines(survey.left_out, low if low == full else Path("/"))
    return Pairs(_paired(store), store.source, tuple(told), incomplete(survey.left_out))


def _volumes(low: Path, full: Path) -> Pairs:
    files = [open_volume(path) for path in (low, full)]
    if files[0].shape != files[1].shape:
        raise DataError(
            f"{low} has {files[0].shape} pixels and {full} {files[1].shape}: they are not a pair"
        )
    if not same_place(*files):
        raise DataError(
            f"{low} and {full} lie at different places, by their affines: they are not a pair"
        )
    stacks, doubts = zip(*map(checked_slices, files), strict=True)
    return Pairs((PairedSeries(*stacks, "files"),), "two files", tuple(filter(None, doubts)))
