"""Grey natural images with Gaussian noise, for pre-training as dncnn_dose does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.errors import DataError
from ldct_jax.hu import Window, whole_hu

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
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclasses.dataclass(frozen=True)
class NaturalImages:
    """Noisy and clean tiles of natural photographs.

    The paper pre-trains on 400 grey images with σ = 25; the photographs at hand are eleven, cut
    into tiles.

    Args:
      folder: the user's own images (PNG, JPEG, TIFF) in place of those; images smaller than a tile
        are left out.
      sigma: SD of the Gaussian noise, of 255 grey levels.
      tile: side of a tile, pixels.
      seed: of the noise.
    """

    sigma: float = 25.0
    tile: int = 256
    seed: int = 400
    folder: str | None = None

    def pairs(self, window: Window) -> PairedSlices:
        """The tiles, grey 0 … 1 written as HU of ``window``, so that networks see grey values."""
        clean, names = [], []
        for name, grey in self._images():
            for top in range(0, grey.shape[0] - self.tile + 1, self.tile):
                for left in range(0, grey.shape[1] - self.tile + 1, self.tile):
                    clean.append(grey[top : top + self.tile, left : left + self.tile])
                    names.append(name)
        if not clean:
            raise DataError(f"no image in {self.folder} has {self.tile}x{self.tile} pixels")
        grey = np.stack(clean)
        noise = np.random.default_rng(self.seed).normal(0.0, self.sigma / 255, grey.shape)
        n = len(names)
        return PairedSlices(
            low_hu=whole_hu(window.to_hu(grey + noise)),
            full_hu=whole_hu(window.to_hu(grey)),
            patients=tuple(names),
            pixel_mm=np.ones(n),
            slice_mm=np.ones(n),
            source=(
                f"{len(set(names))} natural photographs in {n} tiles of {self.tile} pixels (the "
                f"paper: 400 images) with Gaussian noise, σ = {self.sigma:g} of 255"
            ),
            attribution="" if self.folder else "photographs shipped with scikit-image",
        )

    def _images(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, grey image 0 … 1); an own folder's images are numbered, for names may tell."""
        from skimage import color, data, io

        if self.folder is None:
            found = ((name, name, getattr(data, name)()) for name in PHOTOGRAPHS)
        else:
            paths = sorted(p for p in Path(self.folder).glob("*") if p.suffix.lower() in SUFFIXES)
            if not paths:
                raise DataError(f"{self.folder} holds no images ({', '.join(SUFFIXES)})")
            found = ((f"image-{i + 1:04d}", p, io.imread(p)) for i, p in enumerate(paths))
        for name, where, image in found:
            image = np.asarray(image)
            # Of other kinds nothing says where white is, or which axis holds the colours.
            grey, coloured = image.ndim == 2, image.ndim == 3 and image.shape[2] in (3, 4)
            if image.dtype not in (np.uint8, np.uint16) or not (grey or coloured):
                raise DataError(
                    f"{where}: {image.dtype} values of shape {image.shape}; photographs are grey "
                    "or RGB, of 8 or 16 bits: save it as such an image"
                )
            if coloured:
                yield name, color.rgb2gray(image[..., :3])
            else:
                yield name, image / float(np.iinfo(image.dtype).max)
