"""One series' pixels in HU, in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ldct_jax.dicom.header import Header
from ldct_jax.dicom.pixels import read_stored, to_hu, to_int16
from ldct_jax.dicom.series import SAME_PLACE_MM, Series
from ldct_jax.dicom.spacing import steps_of
from ldct_jax.dicom.survey import found_series
from ldct_jax.dicom.trial import Trials
from ldct_jax.dicom.values import Unusable


@dataclasses.dataclass(frozen=True)
class SeriesHU:
    """One CT series in HU, one slice a position.

    Args:
      hu: (N, H, W) int16, ascending along the normal; declared padding is AIR_HU.
      padding: (N, H, W) bool, True where the scanner stored "no data"; None where it names no
        padding value.
      pixel_mm: side of a pixel. slice_mm: slice thickness. step_mm: usual distance of slices.
      positions: (N,) mm along the normal. origins: (N, 3) mm, ImagePositionPatient.
      kernel, kvp, manufacturer: as the file says.
      tube_current_ma, exposure: (N,), NaN where unknown; exposure in mAs.
      skipped: notes on left-out files, duplicates and gaps; free of names, UIDs and paths.
      patient_key: identifies the patient in memory; never write it anywhere.
      files: the slices' headers, for writing derived objects and for pairing.
    """

    hu: np.ndarray = dataclasses.field(repr=False)
    padding: np.ndarray | None = dataclasses.field(repr=False)
    pixel_mm: float
    slice_mm: float
    step_mm: float
    positions: np.ndarray = dataclasses.field(repr=False)
    origins: np.ndarray = dataclasses.field(repr=False)
    kernel: str
    kvp: float
    tube_current_ma: np.ndarray = dataclasses.field(repr=False)
    exposure: np.ndarray = dataclasses.field(repr=False)
    manufacturer: str
    skipped: tuple[str, ...]
    patient_key: str = dataclasses.field(repr=False)
    files: tuple[Header, ...] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.hu)


def load(series: Series, *, damaged: list | None = None) -> SeriesHU:
    """Decode one series. Compressed pixels are decoded on trial first, in a process of their own.

    Args:
      damaged: takes the errors of slices that can't be decoded, which are left out with a note;
        without it the first one is raised.

    Raises:
      Unusable: pixels that are not square, two different images at one position, no slice left.
    """
    first = series.first
    if abs(first.pixel_mm[0] - first.pixel_mm[1]) > 1e-3 * first.pixel_mm[0]:
        raise Unusable(
            series.folder,
            f"pixels of {first.pixel_mm[0]:g} x {first.pixel_mm[1]:g} mm aren't square",
        )
    notes, kept, places = list(series.notes), [], []
    hu = np.empty((len(series.headers), first.rows, first.columns), np.int16)
    padding, cut, copies = np.zeros(hu.shape, bool), 0, 0
    with Trials() as trials:
        for header, place in zip(series.headers, series.positions_mm, strict=True):
            try:
                trials.check(header)
                values, mask = to_hu(read_stored(header), header)
            except Unusable as error:
                if damaged is None:
                    raise
                damaged.append(error)
                notes.append(f"a slice skipped: {error.reason}")
                continue
            hu[len(kept)], clipped = to_int16(values)
            if kept and place - places[-1] <= SAME_PLACE_MM:
                if not np.array_equal(hu[len(kept)], hu[len(kept) - 1]):
                    raise _crowded(series)
                copies += 1
                continue
            if mask is not None:
                padding[len(kept)] = mask
            cut += clipped
            kept.append(header)
            places.append(place)
    if not kept:
        raise Unusable(series.folder, f"none of its {len(series.headers)} slices can be decoded")
    if copies:
        notes.append(f"{copies} second image{'s' * (copies > 1)} with the same pixels skipped")
    if cut:
        notes.append(f"{cut} pixels beyond int16 HU were cut")
    hu, padding, steps = hu[: len(kept)], padding[: len(kept)], steps_of(places, kept)
    notes += [note for header in kept for note in header.notes]
    notes += filter(None, [steps.warning, steps.remark])
    return SeriesHU(
        hu=hu,
        padding=padding if any(h.padding is not None for h in kept) else None,
        pixel_mm=first.pixel_mm[0],
        slice_mm=series.thickness_mm,
        step_mm=steps.step_mm,
        positions=np.array(places),
        origins=np.array([h.position for h in kept]),
        kernel=first.kernel,
        kvp=first.kvp,
        tube_current_ma=np.array([h.tube_current_ma for h in kept]),
        exposure=np.array([h.exposure_mas for h in kept]),
        manufacturer=first.manufacturer,
        skipped=tuple(dict.fromkeys(notes)),
        patient_key=series.patient_key,
        files=tuple(kept),
    )


def _crowded(series: Series) -> Unusable:
    n = len(series.headers)
    return Unusable(
        series.folder,
        f"{n} different images at {n - series.crowded} positions and no tag that tells them apart "
        "(several phases?); separate them first",
    )


def read_folder(path: Path, *, damaged: str = "error") -> list[SeriesHU]:
    """Every CT series at or below ``path``.

    Args:
      damaged: ``error`` raises for an image that can't be used, ``skip`` leaves it out.

    Raises:
      DataError: nothing usable; see :func:`load` and :func:`found_series`.
    """
    found = found_series(path, damaged=damaged)
    return [load(s, damaged=None if damaged == "error" else []) for s in found.series]
