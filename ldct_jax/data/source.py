"""One name for data → paired slices: a DICOM folder, a store, or ``sample``."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ldct_jax.ct.add_noise_to_images import noise_ratio
from ldct_jax.data.derived import add_low_dose, simulation_digest
from ldct_jax.data.embedded import dose_words
from ldct_jax.data.feed.choose import host_memory
from ldct_jax.data.kept_report import read_report, write_report
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.prepare import EVERYTHING, Selection, listing_digest, prepare
from ldct_jax.data.public_ct import sample_store
from ldct_jax.data.simulate import MTF, OWN, LowDose
from ldct_jax.data.store import Store, is_store
from ldct_jax.data.store_writer import finished
from ldct_jax.dicom.left_out import incomplete, lines
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
    left_out: Callable[[list[str], str], None] | None = None,
) -> Store:
    """The store that ``data`` names, paired or not, prepared in ``cache`` where needed.

    Args:
      data: ``sample``; the folder of a store; or a folder of DICOM series, paired or normal dose
        only. A folder called ``sample`` is given as ``./sample``. An opened store is itself.
      cache: folder for prepared stores, keyed by the DICOM files' names, sizes and times and by
        the options; a second call finds them finished.
      selection: which series.
      attribution: whom to cite, for DICOM folders.
      left_out: gets the report of a DICOM folder's files that are not in the store, and the error
        line where images are among them or "" (:mod:`ldct_jax.dicom.left_out`); None prints the
        report on standard error. A second call gets the same report.
    """
    if isinstance(data, Store):
        return _selected(data, selection)
    if str(data) == SAMPLE:
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
    report = prepared.with_suffix(".left_out.json")
    store, found = finished(prepared, digest), read_report(report, [folder])
    if store is None or found is None:
        store, survey = prepare(folder, prepared, selection=selection, attribution=attribution)
        found = survey.left_out
        write_report(report, [folder], found)
    told = lines(found, folder)
    if left_out is not None:
        left_out(told, incomplete(found))
    else:
        for line in told:
            print(line, file=sys.stderr)
    return store


def _selected(store: Store, selection: Selection) -> Store:
    """The series of a store that are of a thickness and a kernel."""
    kept = tuple(
        s for s in store.series if not selection.unwanted(s.slice_mm or math.nan, s.kernel)
    )
    if not kept:
        mm, kernel = selection.thickness_mm, selection.kernel
        have = sorted({f"{s.slice_mm or 0:g} mm {s.kernel}".strip() for s in store.series})
        wanted = " ".join(filter(None, (mm and f"{mm:g} mm", kernel)))
        raise DataError(f"no series is {wanted}: choose one of {', '.join(have)}")
    return dataclasses.replace(store, series=kept)


def load_pairs(
    data: str | Path | Store, *, low: LowDose | None = None, cache: Path
) -> PairedSlices:
    """The paired slices that ``data`` names, as :func:`open_store` finds them.

    Args:
      low: how to simulate the low dose where the data have none; None for ``LowDose()``. Data
        with a scanned low dose keep it.
    """
    store = open_store(data, cache=cache)
    if not store.is_paired:
        low = LowDose() if low is None else low
        folder = Path(cache) / f"pairs-{simulation_digest(store, low)[:16]}"
        store = add_low_dose(store, folder, low)
    return _pairs(store)


def load_doses(
    data: str | Path | Store,
    *,
    doses: Sequence[float],
    rule: str = "physics",
    spectrum: str = "sqrt_f_mtf",
    cache: Path,
) -> PairedSlices:
    """The normal-dose slices that ``data`` names at several doses simulated in the image domain.

    A low dose that was scanned is not used: nothing says what it would be at another dose.

    Args:
      doses: fractions of the normal dose; 1 is the normal dose itself.
      rule: how the noise grows with less dose, see
        :func:`ldct_jax.ct.add_noise_to_images.noise_ratio`.
      spectrum: shape of the added noise: the series' own, or its plain MTF (``mtf``).
    """
    opened = open_store(data, cache=cache)
    normal = tuple(dataclasses.replace(s, low=None, low_dose=None) for s in opened.series)
    opened = dataclasses.replace(opened, series=normal)
    parts = []
    for dose in dict.fromkeys(doses):
        if dose == 1:
            continue
        # LowDose knows physics alone; another rule's noise is physics' noise of a lower dose.
        kernel = MTF if spectrum == "mtf" else OWN
        low = LowDose(fraction=noise_ratio(dose, rule) ** -2, domain="image", kernel=kernel)
        folder = Path(cache) / f"pairs-{simulation_digest(opened, low)[:16]}"
        parts.append(dataclasses.replace(_pairs(add_low_dose(opened, folder, low)), dose=dose))
    if 1 in doses:
        parts.append(dataclasses.replace(parts[0], low_hu=parts[0].full_hu, dose=1.0))
    words = f"{opened.source}; {dose_words(doses, rule, spectrum)}"
    return dataclasses.replace(concatenate(parts), source=words)


def _pairs(store: Store) -> PairedSlices:
    """In memory, or on the disk where they are too large for it."""
    total = sum(2 * math.prod(a.shape) for a in store.array_records())
    return store.pairs(mapped=total > IN_MEMORY_SHARE * host_memory())
