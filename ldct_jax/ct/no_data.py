"""Which pixels of a CT image hold data, and whether its numbers are HU at all.

The one rule for DICOM, NIfTI and ``.npy``, for denoising, scoring, storing and simulating alike.
Pixels without data are air for a network, come out as they went in, and have no share in any
statistic. Everything here is numpy.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from ldct_jax.errors import DataError

AIR_HU = -1024
"""What a network sees where there is no data: the lowest value of 12-bit CT."""
NO_DATA_BELOW_HU = -1500
"""No matter has less than air's -1000 HU; scanners write -2000 to -3024 where they saw nothing."""
NETWORK_UNITS = 10
"""Values that stay within this of zero are network units or standard scores, not HU."""
AIR_OR_FAT_HU = -200
"""Every whole slice has air around or inside the body."""
MAX_HU = 32000
"""Beyond any CT scale: the extended ones for metal end at 30,710 and 31,743 HU."""
RIM = 0.015
"""Of the scan circle's radius: how far its edge may lie from the inscribed circle."""
MAX_ASPECT = 4
"""Axial slices are square or nearly so; 160 x 12 pixels are a cut across the wrong axis."""


def no_data(hu: np.ndarray, declared: np.ndarray | None = None) -> np.ndarray | None:
    """Where (H, W) or (N, H, W) HU hold no data: bool of that shape, or None for nowhere.

    That is what the file declares as padding (``declared``, bool), what lies below -1500 HU, and
    the corners outside the scan circle of a slice where all of them have one constant value. NaN
    and infinite values are not judged here.
    """
    mask = hu < NO_DATA_BELOW_HU
    if declared is not None:
        mask |= declared
    for image, marked in zip(_stack(hu), _stack(mask), strict=True):
        corner = image[0, 0]
        if marked[0, 0] or not (image[0, -1] == corner == image[-1, 0] == image[-1, -1]):
            continue
        radius = _radius(*image.shape)
        if (image[radius > 1 + RIM] == corner).all() and not (image == corner).all():
            marked |= (radius > 1 - RIM) & (image == corner)
    return mask if mask.any() else None


def filled(hu: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """HU with air where ``mask`` says that there is no data."""
    return hu if mask is None else np.where(mask, hu.dtype.type(AIR_HU), hu)


def air_filled(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(float32 HU as a network should see them, where they hold no data or None)."""
    hu = np.asarray(hu, np.float32)
    empty = no_data(hu)
    return filled(hu, empty), empty


@dataclasses.dataclass
class Range:
    """The lowest and highest HU with data of images that come one by one."""

    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, hu: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Count the pixels of ``hu`` outside ``mask`` (bool of its shape)."""
        values = hu if mask is None else hu[~mask]
        if values.size:
            self.lowest = min(self.lowest, float(values.min()))
            self.highest = max(self.highest, float(values.max()))

    @property
    def impossible(self) -> str:
        """Why these can't be HU, as the end of a sentence; "" where they can."""
        if self.lowest > self.highest:
            return "no pixel holds data"
        if max(-self.lowest, self.highest) <= NETWORK_UNITS:
            return (
                f"its values hardly differ from 0 ({self._span}): are these HU? (network units "
                "must be turned back into HU)"
            )
        if self.highest > MAX_HU:
            return (
                f"its values reach {self.highest:g}, beyond any CT scale: are these HU? (negative "
                "numbers wrapped into unsigned ones?)"
            )
        return ""

    @property
    def doubt(self) -> str:
        """Why these are hardly HU, as the end of a sentence; "" for plausible values."""
        if self.impossible or self.lowest < AIR_OR_FAT_HU:
            return self.impossible
        return (
            f"nothing in it lies below {AIR_OR_FAT_HU} HU ({self._span}), so there is no air: are "
            "these HU? (is a rescale intercept such as -1024 missing?)"
        )

    @property
    def _span(self) -> str:
        return f"{self.lowest:.4g} to {self.highest:.4g}"


def value_range(hu: np.ndarray) -> Range:
    """The :class:`Range` of (N, H, W) HU, without what holds no data."""
    found = Range()
    for image in hu:
        found.add(image, no_data(image))
    return found


def check_slices_first(shape: tuple[int, ...], name: str) -> None:
    """Refuse an array (N, H, W) whose last axis looks like that of the slices.

    ``name`` stands in the DataError, which names the transpose. An array knows nothing of its
    axes, so the shape decides: (512, 512, 40) and (512, 400, 1) have their slices last.
    """
    n, rows, columns = shape
    if (n == rows != columns) or columns * MAX_ASPECT < rows:
        raise DataError(
            f"{name} has the shape {n} x {rows} x {columns}: its slices seem to lie along the last "
            "axis, and slices come first here; save numpy.moveaxis(volume, -1, 0), with rows "
            "running from front to back"
        )


def _stack(array: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == 2 else array


@functools.lru_cache(maxsize=8)
def _radius(rows: int, columns: int) -> np.ndarray:
    """Distance from the centre, 1 on the inscribed circle (of pixels that needn't be square)."""
    y = (np.arange(rows) - (rows - 1) / 2) / (rows / 2)
    x = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    radius = np.hypot(y[:, None], x).astype(np.float32)
    radius.setflags(write=False)
    return radius
