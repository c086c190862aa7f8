"""Stores made of a store's normal dose: with a simulated low dose, or with a few slices each.

All are made series by series, resume after an interruption, and are opened where they are finished.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ldct_jax.data.noise_estimate import flat_noise_hu
from ldct_jax.data.simulate import SIMULATION_VERSIONS, LowDose, simulate
from ldct_jax.data.store import ArrayRecord, SeriesRecord, Store, rounded
from ldct_jax.data.store_writer import begin, finished, put_together, write_array
from ldct_jax.errors import DataError, UsageError
from ldct_jax.record import to_record
from ldct_jax.system.files import json_sha256
from ldct_jax.system.progress import Progress
from ldct_jax.system.shard import WHOLE, Shard

Make = Callable[[int, Path, str, Callable[[int], None]], SeriesRecord]
"""(series, folder, file name stem, function that counts finished slices) → its record."""


def derived_digest(store: Store, **how) -> str:
    """SHA-256 of the normal-dose pixels, the patients, and how another store is made of them."""
    what = {**how, "series": [(s.patient, s.full.sha256) for s in store.series]}
    return json_sha256(what)


def derive(
    store: Store,
    out: Path,
    digest: str,
    make: Make,
    *,
    what: str,
    slices: Sequence[int],
    arrays: int = 2,
    source: str | None = None,
    shard: Shard = WHOLE,
    wait: bool = False,
) -> Store | None:
    """The store ``out`` that ``make`` makes of ``store``; opened where it is finished.

    Args:
      digest: see :func:`derived_digest`.
      what: is done, for the progress.
      slices: how many each series gets; series without any are left out.
      arrays: how many are written for a series.
      source: the new store's; None for that of ``store``.
      shard, wait: see :func:`ldct_jax.data.store_writer.begin`; None is returned while other
        processes have their parts to do.
    """
    if done := finished(Path(out), digest):
        return done
    pixels = [int(np.prod(s.full.shape[1:])) for s in store.series]
    needed = sum(2 * arrays * n * each for n, each in zip(slices, pixels, strict=True))
    mine = sum(n for k, n in enumerate(filter(None, slices)) if shard.takes(k))
    with (
        begin(Path(out), digest, needed_bytes=needed, shard=shard, wait=wait) as unfinished,
        Progress(what, mine, "slices") as progress,
    ):
        for i, record in enumerate(store.series):
            if not slices[i]:
                continue

            def made(stem: str, i=i) -> SeriesRecord:
                return make(i, unfinished.folder, stem, progress.advance)

            _, resumed = unfinished.series(f"{i}\0{record.full.sha256}", made)
            if resumed:
                progress.advance(slices[i], "already there")
        words = store.source if source is None else source
        done = unfinished.finish(words, store.attribution)
    if done is not None:
        return done
    whole = functools.partial(derive, store, out, digest, make, what=what, slices=slices)
    whole = functools.partial(whole, arrays=arrays, source=source, wait=True)
    return put_together(Path(out), shard, whole)


def check_normal_dose(store: Store) -> None:
    """DataError for a store that has low doses already."""
    if any(s.low is not None for s in store.series):
        raise DataError(f"{store.folder} already holds low-dose slices; simulate from normal dose")


# -- a simulated low dose --------------------------------------------------------------------------


def simulation_digest(store: Store, low: LowDose) -> str:
    """SHA-256 of the normal-dose pixels, the patients and the simulation."""
    version = SIMULATION_VERSIONS[low.domain]
    return derived_digest(store, version=version, low=to_record(low))


def add_low_dose(store: Store, out: Path, low: LowDose, *, shard: Shard = WHOLE) -> Store | None:
    """A store with the same normal dose and a simulated low dose for every series.

    The normal-dose arrays are linked where the file system can, copied elsewhere. ``shard``: do
    this part of the series; None is returned while other processes have theirs to do.

    Raises:
      DataError: the store already has low doses, or a series whose noise can't be measured.
    """
    check_normal_dose(store)

    def make(i: int, folder: Path, stem: str, advance) -> SeriesRecord:
        record = store.series[i]
        full = _link(store.folder / record.full.file, folder, f"{stem}-full.npy", record.full)
        low_hu, made = simulate(store.full(i), low, pixel_mm=record.pixel_mm, advance=advance)
        return dataclasses.replace(
            record,
            full=full,
            low=write_array(folder, f"{stem}-low.npy", low_hu),
            low_dose_noise_hu=rounded(flat_noise_hu(low_hu, record.pixel_mm)),
            dose=low.fraction,
            dose_source=low.describe(),
            low_dose=made,
        )

    slices = [s.full.shape[0] for s in store.series]
    digest = simulation_digest(store, low)
    what = "simulating low dose"
    return derive(store, out, digest, make, what=what, slices=slices, shard=shard)


def _link(source: Path, folder: Path, name: str, record: ArrayRecord) -> ArrayRecord:
    target = folder / name
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        return write_array(folder, name, np.load(source, mmap_mode="r", allow_pickle=False))
    return dataclasses.replace(record, file=name)


# -- a few slices of every patient, where all of them would take too long --------------------------


def thinned(store: Store, cache: Path, max_slices: int) -> Store:
    """A store with at most ``max_slices`` slices of each patient, evenly spread over the series.

    Normal dose only. ``store`` itself where nobody has more; otherwise made in ``cache``, once.
    """
    if max_slices < 1:
        raise UsageError(f"{max_slices} slices of a patient: at least one")
    chosen = _chosen(store, max_slices)
    slices = [len(indices) for indices in chosen]
    if sum(slices) == sum(s.full.shape[0] for s in store.series):
        return store

    def make(i: int, folder: Path, stem: str, advance) -> SeriesRecord:
        record, indices = store.series[i], chosen[i]
        hu = np.asarray(store.full(i)[indices])
        advance(len(hu))

        def of(values: tuple) -> tuple:
            return tuple(values[k] for k in indices) if values else ()

        return dataclasses.replace(
            record,
            full=write_array(folder, f"{stem}-full.npy", hu),
            step_mm=None,  # the slices that were left out are no gaps of the scan
            low=None,
            low_dose=None,
            low_dose_noise_hu=None,
            offsets_mm=of(record.offsets_mm),
            tube_current_ma=of(record.tube_current_ma),
            exposure_mas=of(record.exposure_mas),
        )

    digest = derived_digest(store, most=max_slices)
    return derive(
        store,
        Path(cache) / f"thinned-{digest[:16]}",
        digest,
        make,
        what="choosing slices",
        slices=slices,
        arrays=1,
        source=f"{store.source}; at most {max_slices} evenly spread slices of a patient",
    )


def _chosen(store: Store, max_slices: int) -> list[list[int]]:
    """The slices to keep of each series."""
    chosen: list[list[int]] = [[] for _ in store.series]
    for patient in store.patients:
        every = [
            (i, k)
            for i, s in enumerate(store.series)
            if s.patient == patient
            for k in range(s.full.shape[0])
        ]
        n = min(max_slices, len(every))
        # The middles of n equal parts: neither end of a scan shows much.
        for at in (np.arange(n) + 0.5) * len(every) / n:
            i, k = every[int(at)]
            chosen[i].append(k)
    return chosen
