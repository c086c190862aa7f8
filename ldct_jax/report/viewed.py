"""The stacks that ``ldct view`` compares: DICOM series, NIfTI, ``.npy`` and stores, in HU."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ldct_jax.data.store import Store, is_store
from ldct_jax.data.volumes import checked_slices, is_volume, open_volume, same_place
from ldct_jax.errors import DataError, UsageError

SAME_PLACE_MM = 1.0


@dataclasses.dataclass(frozen=True)
class Viewed:
    """``hu`` (S, H, W), upwards; ``pixel_mm`` or None; ``place`` compares with another's."""

    hu: np.ndarray = dataclasses.field(repr=False)
    pixel_mm: float | None
    place: object = dataclasses.field(repr=False)


def read(path: Path, number: int | None, warn: Callable[[str], None], like=None) -> Viewed:
    """One stack: a DICOM file or folder, NIfTI or .npy.

    number: SeriesNumber, for a folder with several series. like: a DICOM stack whose slices' places
    choose among several series instead.

    Raises DataError: damaged, several series, or not HU.
    """
    if not path.exists():
        raise UsageError(f"{path} doesn't exist: give DICOM, NIfTI, .npy in HU, or a store")
    if is_store(path):
        raise UsageError(f"{path} is a store, which shows its own two doses: give it alone")
    if path.is_file() and is_volume(path):
        if number is not None:
            raise UsageError(f"--series chooses among several series, and {path} holds one volume")
        file = open_volume(path)
        stack, doubt = checked_slices(file)
        if doubt:
            warn(doubt)
        pixel = float(file.pixel_mm)
        return Viewed(stack, pixel if np.isfinite(pixel) else None, file)
    return _dicom(path, number, warn, like)


def both_doses(
    path: Path, number: int | None, warn: Callable[[str], None]
) -> dict[str, Viewed] | None:
    """The low and the normal dose of a store's series; None where ``path`` isn't a store.

    number: of the series, counted from 1; None for the first.
    """
    if not is_store(path):
        return None
    store = Store.open(path)
    n = len(store.series)
    if number is None and n > 1:
        warn(f"{path} holds {n} series; this is the first, --series N shows another")
    i = (number or 1) - 1
    if not 0 <= i < n:
        raise UsageError(f"--series {number}: {path} holds the series 1 to {n}")
    shown = store.series[i]
    stacks = {"low dose": store.low(i)} if shown.low is not None else {}
    stacks["normal dose"] = store.full(i)
    return {label: Viewed(s, float(shown.pixel_mm), None) for label, s in stacks.items()}


def check_same(before: Viewed, after: Viewed, path: Path) -> None:
    """Raise DataError where ``after`` (of ``path``) doesn't show the same place as ``before``."""
    if before.hu.shape != after.hu.shape:
        sizes = [" x ".join(map(str, one.hu.shape)) for one in (after, before)]
        raise DataError(
            f"{path} has {sizes[0]} slices, rows and columns, BEFORE {sizes[1]}: they can't be "
            "compared"
        )
    a, b = before.place, after.place
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = bool((np.abs(a - b) < SAME_PLACE_MM).all())
    elif isinstance(a, np.ndarray) or isinstance(b, np.ndarray) or a is None or b is None:
        same = True  # files of two kinds
    else:
        same = same_place(a, b)
    if not same:
        raise DataError(f"{path} and BEFORE lie at different places: they can't be compared")


def _dicom(path: Path, number: int | None, warn, like: Viewed | None) -> Viewed:
    from ldct_jax.dicom.left_out import LeftOut, lines
    from ldct_jax.dicom.load import load
    from ldct_jax.dicom.survey import found_series
    from ldct_jax.dicom.values import Unusable

    found = found_series(path, damaged="skip")
    for line in lines(found.left_out, found.root):
        warn(line)
    chosen = list(found.series)
    if number is not None:
        chosen = [s for s in chosen if s.first.series_number == number]
    if len(chosen) > 1 and like is not None and isinstance(like.place, np.ndarray):
        chosen = [s for s in chosen if _lies_at(s, like.place)]
    if len(chosen) != 1:
        way = ""
        numbers = Counter(s.first.series_number for s in found.series)
        told = [str(n) for n, count in numbers.items() if n is not None and count == 1]
        if like is None and told:
            way = f", or choose by its number, as --series N (here: {', '.join(told)})"
        raise UsageError(
            f"{path} holds {len(found.series)} series, of which {len(chosen)} would do: name a "
            f"folder with one{way}"
        )
    damaged: list[Unusable] = []
    series = load(chosen[0], damaged=damaged)
    for line in lines(map(LeftOut.of, damaged), found.root):
        warn(line)
    return Viewed(series.hu, float(series.pixel_mm), series.origins)


def _lies_at(series, places: np.ndarray) -> bool:
    origins = np.array([h.position for h in series.headers])
    return origins.shape == places.shape and bool((np.abs(origins - places) < SAME_PLACE_MM).all())
