"""CNR of a low-contrast lesion that is put into a slice before it is denoised.

Real slices seldom say where a lesion lies; one of known size and contrast can be put anywhere, and
a denoiser has to bring it through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from ldct_jax.errors import DataError
from ldct_jax.metrics.contrast import cnr, cnr_hrnet
from ldct_jax.metrics.noise import flat_mask

SOFT_TISSUE = (0.0, 120.0)
FOREGROUND, BACKGROUND = 1, 2


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A disc of ``contrast_hu`` against its surroundings and ``radius_mm``.

    Foreground: the inner 0.8 radii. Background: the ring from 1.2 to 1.9 radii.
    """

    contrast_hu: float = -40.0
    radius_mm: float = 8.0

    def place(self, full_hu: np.ndarray, pixel_mm: float) -> tuple[int, int] | None:
        """(row, column) in the middle of the largest piece of soft tissue of a slice (H, W), or
        None where nothing holds two radii around it."""
        # The reference's own noise must not decide what is flat.
        smooth = ndimage.gaussian_filter(np.asarray(full_hu, np.float32), 2.0)
        room = ndimage.distance_transform_edt(flat_mask(smooth[None], *SOFT_TISSUE, size=3)[0])
        if room.max() < 2 * self.radius_mm / pixel_mm:
            return None
        row, column = np.unravel_index(room.argmax(), room.shape)
        return int(row), int(column)

    def cnr(
        self,
        denoise: Callable[[np.ndarray], np.ndarray],
        low_hu: np.ndarray,
        full_hu: np.ndarray,
        pixel_mm: float,
    ) -> dict[str, float | None]:
        """``cnr`` and ``cnr_hrnet`` of the denoised slice, and both ``…_normal`` of the normal
        dose: (H, W) HU each; ``denoise`` takes and gives (N, H, W) HU.

        None where there is no room for the lesion, or where a ratio isn't defined (a network that
        has learnt nothing may give a constant).
        """
        rules = {"cnr": cnr, "cnr_hrnet": cnr_hrnet}
        seen = self.images(denoise, low_hu, full_hu, pixel_mm)
        if seen is None:
            return {f"{name}{which}": None for which in ("", "_normal") for name in rules}
        inside, around = (seen["regions"] == which for which in (FOREGROUND, BACKGROUND))
        return {
            f"{name}{which}": _or_none(rule, image[inside], image[around])
            for which, image in {"": seen["result"], "_normal": seen["full"]}.items()
            for name, rule in rules.items()
        }

    def images(
        self,
        denoise: Callable[[np.ndarray], np.ndarray],
        low_hu: np.ndarray,
        full_hu: np.ndarray,
        pixel_mm: float,
    ) -> dict[str, np.ndarray] | None:
        """What :meth:`cnr` measures: ``low`` and ``full`` with the lesion, the denoised ``result``,
        (H, W) HU each, and ``regions``: :data:`FOREGROUND`, :data:`BACKGROUND` or 0.

        None where there is no room for the lesion.
        """
        site = self.place(full_hu, pixel_mm)
        if site is None:
            return None
        y, x = np.ogrid[: full_hu.shape[0], : full_hu.shape[1]]
        away = np.hypot(y - site[0], x - site[1]) * pixel_mm / self.radius_mm
        disc = np.where(away <= 1, np.float32(self.contrast_hu), np.float32(0))
        regions = np.where(away <= 0.8, FOREGROUND, 0)
        regions[(away >= 1.2) & (away <= 1.9)] = BACKGROUND
        return {
            "low": low_hu + disc,
            "full": full_hu + disc,
            "result": denoise((low_hu + disc)[None])[0],
            "regions": regions.astype(np.int8),
        }


def _or_none(rule, *regions) -> float | None:
    try:
        return float(rule(*regions))
    except DataError:
        return None
