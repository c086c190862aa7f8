"""Grey natural images with Gaussian noise, for pre-training as dncnn_dose does it."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.hu import Window

# Photographs that scikit-image ships inside its package.
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "rocket",
)


@dataclasses.dataclass(frozen=True)
class NaturalImages:
    """Noisy and clean tiles of natural photographs.

    The paper pre-trains on 400 grey images with σ = 25; the photographs at hand are eleven, cut
    into tiles.

    Args:
      sigma: SD of the Gaussian noise, of 255 grey levels.
      tile: side of a tile, pixels.
      seed: of the noise.
    """

    sigma: float = 25.0
    tile: int = 256
    seed: int = 400

    def pairs(self, window: Window) -> PairedSlices:
        """The tiles, grey 0 … 1 written as HU of ``window``, so that networks see grey values."""
        from skimage import color, data

        clean, names = [], []
        for name in PHOTOGRAPHS:
            image = np.asarray(getattr(data, name)())
            grey = color.rgb2gray(image) if image.ndim == 3 else image / 255.0
            for top in range(0, grey.shape[0] - self.tile + 1, self.tile):
                for left in range(0, grey.shape[1] - self.tile + 1, self.tile):
                    clean.append(grey[top : top + self.tile, left : left + self.tile])
                    names.append(name)
        grey = np.stack(clean)
        noise = np.random.default_rng(self.seed).normal(0.0, self.sigma / 255, grey.shape)
        n = len(names)
        return PairedSlices(
            low_hu=_int16(window.to_hu(grey + noise)),
            full_hu=_int16(window.to_hu(grey)),
            patients=tuple(names),
            pixel_mm=np.ones(n),
            slice_mm=np.ones(n),
            source=(
                f"{len(PHOTOGRAPHS)} natural photographs in {n} tiles of {self.tile} pixels (the "
                f"paper: 400 images) with Gaussian noise, σ = {self.sigma:g} of 255"
            ),
            attribution="photographs shipped with scikit-image",
        )


def _int16(hu: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(hu, -32768, 32767)).astype(np.int16)
