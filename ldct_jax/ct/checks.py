"""Whether simulated noise is that of a lower dose: by series, body region and zone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from ldct_jax.ct.calibration import Calibration, n0_from_added_sd, n0_from_noise
from ldct_jax.ct.insertion import Scan, insert_projection_domain
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.errors import DataError

SOFT_TISSUE_HU = (0.0, 200.0)
WINDOW_MM = 6.0


def local_sd(image, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of the 6 mm window around every pixel of (H, W), HU."""
    side = max(3, round(WINDOW_MM / pixel_mm) | 1)
    image = np.asarray(image, np.float64)
    mean = ndimage.uniform_filter(image, side)
    square = ndimage.uniform_filter(image * image, side)
    n = side * side
    return mean, np.sqrt(np.maximum(square - mean * mean, 0) * (n / (n - 1)))


def flat_tissue(image, pixel_mm: float, quantile: float = 0.3) -> np.ndarray:
    """(H, W) bool: middles of windows in soft tissue where anatomy is flattest.

    Flatness is judged on a blurred copy, in which anatomy is left and noise is not: judging by
    the noise itself would pick its lucky low values.
    """
    mean, _ = local_sd(image, pixel_mm)
    _, structure = local_sd(ndimage.gaussian_filter(np.float64(image), 2.5 / pixel_mm), pixel_mm)
    soft = (mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])
    if soft.sum() < 500:
        return np.zeros(soft.shape, bool)
    return soft & (structure <= np.quantile(structure[soft], quantile))


def body_region(image, pixel_mm: float) -> str:
    """``chest``, ``upper abdomen`` (some lung), ``pelvis`` (much bone) or ``abdomen``."""
    solid = ndimage.binary_opening(np.asarray(image) > -300, iterations=2)
    labels, n = ndimage.label(solid)
    if n == 0:
        raise DataError("a slice shows no body")
    largest = labels == 1 + np.argmax(ndimage.sum_labels(solid, labels, range(1, n + 1)))
    body = ndimage.binary_fill_holes(largest)
    lung = (body & (image < -500)).sum() / body.sum()
    bone = (body & (image > 250)).sum() / body.sum()
    if lung > 0.15:
        return "chest"
    if lung > 0.03:
        return "upper abdomen"
    return "pelvis" if bone > 0.055 else "abdomen"


def zones(image) -> dict[str, np.ndarray]:
    """``centre`` and ``edge`` of the body: inside and outside half its size, (H, W) bool."""
    body = ndimage.binary_fill_holes(ndimage.binary_opening(np.asarray(image) > -300, iterations=2))
    rows, columns = np.nonzero(body)
    y, x = np.ogrid[: body.shape[0], : body.shape[1]]
    depth, width = max(np.ptp(rows), 1) / 2, max(np.ptp(columns), 1) / 2
    rho = np.hypot((y - rows.mean()) / depth, (x - columns.mean()) / width)
    return {"centre": rho < 0.5, "edge": rho >= 0.5}


@dataclasses.dataclass(frozen=True)
class RegionNoise:
    """Noise of one series in one body region and zone, HU.

    ``own``: of the normal-dose images. ``added``: dose → measured SD of what insertion added;
    sqrt(1/dose − 1) · own is expected.
    """

    region: str
    zone: str
    slices: int
    own: float
    added: dict[float, float]

    def expected(self, dose: float) -> float:
        return (1 / dose - 1) ** 0.5 * self.own


def series_dose(
    hu, *, pixel_mm: float, doses: Sequence[float], scan: Scan, seed: int
) -> tuple[Calibration, list[RegionNoise]]:
    """Calibrate N₀ on the series' own noise, insert each dose, measure by region and zone.

    hu: (N, H, W) of one series. Windows without flat soft tissue don't count.
    """
    hu = np.asarray(hu, np.float32)
    flat = np.stack([flat_tissue(image, pixel_mm) for image in hu])
    sd = np.stack([local_sd(image, pixel_mm)[1] for image in hu])
    if flat.sum() < 500:
        raise DataError("too little flat soft tissue to measure noise: use other slices")
    own = float(np.median(sd[flat]))
    calibration = n0_from_noise(hu, flat, own, scan=scan, pixel_mm=pixel_mm)
    scan = dataclasses.replace(scan, n0=calibration.n0)
    added = {}
    for dose in doses:
        low = insert_projection_domain(hu, seed=seed + 1, dose=dose, scan=scan, pixel_mm=pixel_mm)
        added[dose] = np.stack([local_sd(image, pixel_mm)[1] for image in low - hu])
    names = [body_region(image, pixel_mm) for image in hu]
    rows = []
    for region in dict.fromkeys(names):
        at = [i for i, name in enumerate(names) if name == region]
        for zone in ("centre", "edge"):
            mask = np.stack([zones(hu[i])[zone] & flat[i] for i in at])
            if mask.sum() < 200:
                continue
            measured = {dose: float(np.median(a[at][mask])) for dose, a in added.items()}
            rows.append(
                RegionNoise(region, zone, len(at), float(np.median(sd[at][mask])), measured)
            )
    return calibration, rows


@dataclasses.dataclass(frozen=True)
class Level:
    """A quarter-dose noise level: N₀ set for ``target_hu``, and what other noise then measures."""

    slice_mm: float
    target_hu: float
    n0: float
    measured_hu: float


def mayo_levels(
    targets: Sequence[tuple[float, float]], *, seeds: Sequence[int], size: int, scan: Scan
) -> Iterator[Level]:
    """N₀ for each (thickness mm, added SD HU) in the livers of random abdomens."""
    pixel_mm = 379.0 / size
    patients = [random_patient(seed, n_slices=1, size=size, pixel_mm=pixel_mm) for seed in seeds]
    hu = np.concatenate([p.hu for p in patients])
    liver = np.concatenate([p.mask("liver") | p.mask("spleen") for p in patients])
    for slice_mm, target in targets:
        found = n0_from_added_sd(hu, liver, target, dose=0.25, scan=scan, pixel_mm=pixel_mm)
        scan = dataclasses.replace(scan, n0=found.n0)
        low = insert_projection_domain(hu, seed=999, dose=0.25, scan=scan, pixel_mm=pixel_mm)
        yield Level(slice_mm, target, found.n0, float((low - hu)[liver].std()))
