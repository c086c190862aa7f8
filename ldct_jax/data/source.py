"""One name for data → paired slices: a DICOM folder, a store, or ``sample``."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ldct_jax.data.acquisition import same_kernel
from ldct_jax.data.derived import add_low_dose, simulation_digest, thinned
from ldct_jax.data.embedded import dose_words
from ldct_jax.data.feed.choose import host_memory
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.prepare import EVERYTHING, Selection, listing_digest, prepare
from ldct_jax.data.simulate import LowDose
from ldct_jax.data.store import Store, is_store
from ldct_jax.data.store_writer import finished
from ldct_jax.dicom.collections.layouts import Survey
from ldct_jax.dicom.left_out import lines
from ldct_jax.errors import DataError

SAMPLE = "sample"
# Stores larger than this share of the machine's memory stay on the disk and are read by slice.
IN_MEMORY_SHARE = 0.3


def open_store(
    data: str | Path | Store,
    *,
    cache: Path,
    selection: Selection = EVERYTHING,
    attribution: str = "",
    survey: Callable[[Survey], None] | None = None,
) -> Store:
    """The store that ``data`` names, paired or not, prepared in ``cache`` where needed.

    Args:
      data: ``sample``; the folder of a store; or a folder of DICOM series, paired or normal dose
        only. A folder called ``sample`` is given as ``./sample``. An opened store is itself.
      cache: folder for prepared stores, keyed by the DICOM files' names, sizes and times and by
        the options; a second call finds them finished.
      selection: which series.
      attribution: whom to cite, for DICOM folders.
      survey: gets what was found and left out where DICOM is prepared now; None prints what
        was left out.
    """
    if isinstance(data, Store):
        return _selected(data, selection)
    if str(data) == SAMPLE:
        from ldct_jax.data.public_ct import sample_store

        return _selected(sample_store(Path(cache)), selection)
    folder = Path(data)
    if is_store(folder):
        return _selected(Store.open(folder), selection)
    if not folder.is_dir():
        raise DataError(
            f"data {str(data)!r} is no folder; give a folder of DICOM series, a store, or 'sample'"
        )
    digest = listing_digest([folder], selection)
    prepared = Path(cache) / f"dicom-{digest[:16]}"
    store = finished(prepared, digest)
    if store is None:
        store, found = prepare(folder, prepared, selection=selection, attribution=attribution)
        (survey or print_left_out)(found)
    return store


def print_left_out(survey: Survey) -> None:
    """What ``survey`` left out, a line a reason, on standard error."""
    for line in lines(survey.left_out, survey.root):
        print(line, file=sys.stderr)


def _selected(store: Store, selection: Selection) -> Store:
    """The series of a store that are of a thickness (±0.05 mm) and a kernel."""
    mm, kernel = selection.thickness_mm, selection.kernel
    kept = tuple(
        s
        for s in store.series
        if (mm is None or (s.slice_mm is not None and abs(s.slice_mm - mm) <= 0.05))
        and (kernel is None or same_kernel(kernel, s.kernel))
    )
    if not kept:
        have = sorted({f"{s.slice_mm or 0:g} mm {s.kernel}".strip() for s in store.series})
        wanted = " ".join(filter(None, (mm and f"{mm:g} mm", kernel)))
        raise DataError(f"no series is {wanted}: choose one of {', '.join(have)}")
    return dataclasses.replace(store, series=kept)


def load_store(
    data: str | Path | Store,
    *,
    low: LowDose | None = None,
    cache: Path,
    selection: Selection = EVERYTHING,
    attribution: str = "",
) -> Store:
    """The paired store that ``data`` names: as :func:`open_store`, low dose simulated if it lacks.

    Args:
      low: how to simulate the low dose where the data have none; None for ``LowDose()``. Data
        with a scanned low dose keep it.
    """
    store = open_store(data, cache=cache, selection=selection, attribution=attribution)
    if store.is_paired:
        return store
    low = LowDose() if low is None else low
    return add_low_dose(store, Path(cache) / f"pairs-{simulation_digest(store, low)[:16]}", low)


def load_pairs(
    data: str | Path | Store,
    *,
    low: LowDose | None = None,
    cache: Path,
    selection: Selection = EVERYTHING,
    matrix: int | None = None,
    attribution: str = "",
) -> PairedSlices:
    """The paired slices that ``data`` names; see :func:`load_store`.

    Args:
      matrix: keep only series of ``matrix`` x ``matrix`` pixels. Series of several sizes without
        it are a DataError: cropping or padding would change what a network sees at the border.
    """
    store = load_store(data, low=low, cache=cache, selection=selection, attribution=attribution)
    return _pairs(store, matrix)


def load_doses(
    data: str | Path | Store,
    *,
    doses: Sequence[float],
    rule: str = "physics",
    most_slices: int | None = None,
    cache: Path,
) -> PairedSlices:
    """The normal-dose slices that ``data`` names at several doses simulated in the image domain.

    A low dose that was scanned is not used: nothing says what it would be at another dose.

    Args:
      doses: fractions of the normal dose; 1 is the normal dose itself.
      rule: how the noise grows with less dose, see :func:`ldct_jax.ct.dose.noise_ratio`.
      most_slices: of each patient, evenly spread; None for all.
    """
    from ldct_jax.ct.dose import noise_ratio

    opened = open_store(data, cache=cache)
    normal = tuple(dataclasses.replace(s, low=None, low_dose=None) for s in opened.series)
    opened = dataclasses.replace(opened, series=normal)
    if most_slices is not None:
        opened = thinned(opened, Path(cache), most_slices)
    parts = []
    for dose in dict.fromkeys(doses):
        if dose == 1:
            continue
        # LowDose knows physics alone; another rule's noise is physics' noise of a lower dose.
        low = LowDose(fraction=noise_ratio(dose, rule) ** -2, domain="image")
        folder = Path(cache) / f"pairs-{simulation_digest(opened, low)[:16]}"
        parts.append(dataclasses.replace(_pairs(add_low_dose(opened, folder, low)), dose=dose))
    if 1 in doses:
        parts.append(dataclasses.replace(parts[0], low_hu=parts[0].full_hu, dose=1.0))
    words = f"{opened.source}; {dose_words(doses, rule)}"
    return dataclasses.replace(concatenate(parts), source=words)


def _pairs(store: Store, matrix: int | None = None) -> PairedSlices:
    """In memory, or on the disk where they are too large for it."""
    total = sum(2 * math.prod(a.shape) for a in store.array_records())
    return store.pairs(matrix=matrix, mapped=total > IN_MEMORY_SHARE * host_memory())
