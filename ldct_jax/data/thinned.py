"""A few slices of every patient, where all of them would take too long."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from ldct_jax.data.store import SeriesRecord, Store
from ldct_jax.data.store_writer import begin, finished, write_array
from ldct_jax.errors import UsageError


def thinned(store: Store, cache: Path, most: int) -> Store:
    """A store with at most ``most`` slices of each patient, evenly spread over all of his series.

    Normal dose only. ``store`` itself where nobody has more; otherwise made in ``cache``, once.
    """
    if most < 1:
        raise UsageError(f"{most} slices of a patient: at least one")
    chosen = _chosen(store, most)
    if sum(map(len, chosen)) == sum(s.full.shape[0] for s in store.series):
        return store
    what = {"most": most, "series": [(s.patient, s.full.sha256) for s in store.series]}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    folder = Path(cache) / f"thinned-{digest[:16]}"
    if done := finished(folder, digest):
        return done
    kept = [i for i, indices in enumerate(chosen) if indices]
    needed = sum(2 * len(chosen[i]) * int(np.prod(store.series[i].full.shape[1:])) for i in kept)
    with begin(folder, digest, needed_bytes=needed) as unfinished:
        for i in kept:
            record, indices = store.series[i], chosen[i]

            def make(stem: str, i=i, record=record, indices=indices) -> SeriesRecord:
                name = f"{stem}-full.npy"
                full = write_array(unfinished.folder, name, np.asarray(store.full(i)[indices]))
                return _record(record, indices, full)

            unfinished.series(f"{i}\0{record.full.sha256}", make)
        source = f"{store.source}; at most {most} evenly spread slices of a patient"
        return unfinished.finish(source, store.attribution)


def _record(record: SeriesRecord, indices: list[int], full) -> SeriesRecord:
    def of(values: tuple) -> tuple:
        return tuple(values[k] for k in indices) if values else ()

    return dataclasses.replace(
        record,
        full=full,
        step_mm=None,  # the slices that were left out are no gaps of the scan
        low=None,
        low_dose=None,
        low_dose_noise_hu=None,
        offsets_mm=of(record.offsets_mm),
        tube_current_ma=of(record.tube_current_ma),
        exposure_mas=of(record.exposure_mas),
    )


def _chosen(store: Store, most: int) -> list[list[int]]:
    """The slices to keep of each series."""
    chosen: list[list[int]] = [[] for _ in store.series]
    for patient in store.patients:
        all_of_him = [
            (i, k)
            for i, s in enumerate(store.series)
            if s.patient == patient
            for k in range(s.full.shape[0])
        ]
        n = min(most, len(all_of_him))
        # The middles of n equal parts: neither end of a scan shows much.
        for at in (np.arange(n) + 0.5) * len(all_of_him) / n:
            i, k = all_of_him[int(at)]
            chosen[i].append(k)
    return chosen
