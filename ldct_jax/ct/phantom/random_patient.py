"""Random patients: noise-free CT of abdomen, thorax or pelvis with labels and known lesions.

Not a Shepp-Logan: organs, vessel trees, gut, ribs and a textured spine that differ from patient
to patient and run on from slice to slice. Anatomy is a function of the seed alone; matrix size,
pixel, thickness and the number of slices only sample it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import fft, ndimage

from ldct_jax.ct.phantom.abdomen import Abdomen
from ldct_jax.ct.phantom.canvas import LABEL, TEXTURES_MM, TISSUES, Canvas, Warp
from ldct_jax.ct.phantom.lesions import Lesion, draw_lesions, paint_lesions
from ldct_jax.ct.phantom.pelvis import Pelvis
from ldct_jax.ct.phantom.thorax import Thorax
from ldct_jax.errors import UsageError

__all__ = ["LABEL", "REGIONS", "TISSUES", "Lesion", "Phantom", "random_patient"]

REGIONS = {"abdomen": Abdomen, "thorax": Thorax, "pelvis": Pelvis}
BLUR_MM = 0.42  # standard deviation of the anatomy's point spread, finer than a smooth kernel's


@dataclasses.dataclass(frozen=True)
class Phantom:
    """A patient's slices, from the feet upwards; the image's left is the patient's right.

    Args:
      hu: (N, H, W) float32, HU without noise, fine tissue texture included.
      tissue: (N, H, W) uint8, indices into :data:`TISSUES` (the tissue that fills most of a voxel).
      lesions: (N, H, W) uint8, 0 or 1 + the index into ``lesion_table``.
      lesion_table: what the lesions are.
      pixel_mm, slice_mm: sampling, mm.
      region: one of :data:`REGIONS`.
    """

    hu: np.ndarray
    tissue: np.ndarray
    lesions: np.ndarray
    lesion_table: tuple[Lesion, ...]
    pixel_mm: float
    slice_mm: float
    region: str

    def mask(self, tissue: str) -> np.ndarray:
        """(N, H, W) bool: voxels of the named tissue outside all lesions."""
        if tissue not in LABEL:
            raise UsageError(f"no tissue {tissue!r}: use one of {', '.join(TISSUES)}")
        return (self.tissue == LABEL[tissue]) & (self.lesions == 0)


def random_patient(
    seed: int,
    *,
    region: str = "abdomen",
    n_slices: int = 8,
    size: int = 512,
    pixel_mm: float = 0.74,
    slice_mm: float = 3.0,
) -> Phantom:
    """Patient number ``seed``: (n_slices, size, size) of contiguous slices.

    The field of view is ``size`` · ``pixel_mm``; below about 370 mm it cuts large patients.

    Raises:
      UsageError: for an unknown region or a size that holds no anatomy.
    """
    if region not in REGIONS:
        raise UsageError(f"unknown region {region!r}: use one of {', '.join(REGIONS)}")
    if n_slices < 1 or size < 32 or not (0 < pixel_mm < np.inf and 0 < slice_mm < np.inf):
        raise UsageError(
            f"{n_slices} slices of {size}x{size} pixels of {pixel_mm} mm, {slice_mm} mm thick: "
            "a phantom needs at least one slice of 32x32 pixels and positive lengths"
        )
    anatomy_rng, texture_rng, lesion_rng = (
        np.random.default_rng([seed, list(REGIONS).index(region), part]) for part in range(3)
    )
    patient = REGIONS[region](anatomy_rng)
    warp = Warp(anatomy_rng, 5.0)
    low, high = patient.z_range
    middle = anatomy_rng.uniform(low, high)
    heights = middle + (np.arange(n_slices) - (n_slices - 1) / 2) * slice_mm

    hu = np.empty((n_slices, size, size), np.float32)
    tissue = np.empty((n_slices, size, size), np.uint8)
    textures = _textures(texture_rng, size, pixel_mm, slice_mm)
    for i, z in enumerate(heights):
        canvas = Canvas(size, pixel_mm, slice_mm, z, warp, next(textures))
        patient.paint(canvas)
        hu[i], tissue[i] = canvas.hu, canvas.tissue
    table = draw_lesions(lesion_rng, tissue, heights, pixel_mm, slice_mm, patient.lesion_kinds)
    lesions = paint_lesions(hu, tissue, table, heights, pixel_mm, slice_mm, texture_rng)
    for plane in hu:
        ndimage.gaussian_filter(plane, BLUR_MM / pixel_mm, output=plane, truncate=3.0)
    return Phantom(hu, tissue, lesions, table, pixel_mm, slice_mm, region)


def _textures(rng, size: int, pixel_mm: float, slice_mm: float):
    """Endless unit-variance fields (H, W) by name, correlated from slice to slice.

    Neighbouring slices are an autoregression whose correlation falls with the distance measured
    in grains, so that a 5 mm grain runs through several thin slices and a fine one does not.
    """
    fx = fft.rfftfreq(size, pixel_mm).astype(np.float32)[None, :]
    fy = fft.fftfreq(size, pixel_mm).astype(np.float32)[:, None]
    f2 = fx**2 + fy**2
    filters, correlation = {}, {}
    for name, sigma in TEXTURES_MM.items():
        response = np.exp(-2 * np.pi**2 * sigma**2 * f2)
        response[0, 0] = 0
        power = (response**2).sum() * 2 - (response[:, [0, -1]] ** 2).sum()
        filters[name] = response * np.float32(size / power**0.5)
        correlation[name] = float(np.exp(-((slice_mm / (3 * sigma)) ** 2)))
    fields: dict[str, np.ndarray] = {}
    while True:
        for name, response in filters.items():
            white = rng.standard_normal((size, size), dtype=np.float32)
            fresh = fft.irfft2(fft.rfft2(white) * response, s=(size, size))
            if name in fields:
                c = np.float32(correlation[name])
                fresh = c * fields[name] + np.sqrt(1 - c * c) * fresh
            fields[name] = fresh
        yield fields
