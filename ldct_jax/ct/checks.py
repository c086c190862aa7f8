"""Measurements that show whether the physics holds: spectra, dose laws, body regions, speed.

They return plain records; ``ldct physics`` makes tables and figures of them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from scipy import ndimage

from ldct_jax.ct.calibration import Calibration, n0_from_added_sd, n0_from_noise
from ldct_jax.ct.dose import mtf, sample_noise
from ldct_jax.ct.fbp import filtered_back_projection
from ldct_jax.ct.geometry import Geometry
from ldct_jax.ct.insertion import Scan, insert_projection_domain, reconstruct_scan, simulate_scan
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.ct.projector import forward_project
from ldct_jax.errors import DataError
from ldct_jax.metrics.noise import PowerSpectrum, power_spectrum, regions

SOFT_TISSUE_HU = (0.0, 200.0)
WINDOW_MM = 6.0


def water(size: int, pixel_mm: float, half_axes_mm, bones=()) -> np.ndarray:
    """A water ellipse in air, (size, size) HU; ``bones``: (x, y, radius) mm of 900 HU discs."""
    axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
    x, y = axis[None, :], axis[:, None]

    def share(distance_mm):
        return np.clip(0.5 - distance_mm / pixel_mm, 0, 1)

    a, b = half_axes_mm
    rho = np.hypot(x / a, y / b) + 1e-9
    hu = -1000 + 1000 * share((rho - 1) / np.hypot(x / a**2, y / b**2).clip(1e-6) * rho)
    for bx, by, radius in bones:
        hu += (900 - hu) * share(np.hypot(x - bx, y - by) - radius)
    return hu.astype(np.float32)


def measured_curve(frequency_per_mm) -> np.ndarray:
    """f · MTF(f)², the noise power measured on B30f images (data.md), in arbitrary units."""
    return np.asarray(frequency_per_mm) * np.asarray(mtf(frequency_per_mm)) ** 2


def added_noise_spectra(
    scan: Scan, *, size: int, pixel_mm: float, slices: int, dose: float, seed: int
) -> dict[str, PowerSpectrum]:
    """Power spectra of quarter-dose-like noise in a water disc: each domain and kernel."""
    disc = water(size, pixel_mm, (0.36 * size * pixel_mm,) * 2)
    stack = np.repeat(disc[None], slices, axis=0)
    side = size // 8
    axis = np.arange(size) - (size - 1) / 2
    core = np.hypot(axis[None, :], axis[:, None]) < 0.22 * size
    mask = np.broadcast_to(core, stack.shape)
    found = {}
    for kernel in ("smooth", "sharp"):
        own = dataclasses.replace(scan, kernel=kernel)
        noise = insert_projection_domain(stack, seed=seed, dose=dose, scan=own, pixel_mm=pixel_mm)
        found[f"projection domain, {kernel}"] = power_spectrum(
            regions(noise - stack, mask, side), pixel_mm
        )
    noise = sample_noise(stack.shape, 30.0, pixel_mm, seed)
    found["image domain"] = power_spectrum(regions(noise, mask, side), pixel_mm)
    return found


@dataclasses.dataclass(frozen=True)
class DoseLaw:
    """Variances in HU² in the middle of a body: ``added`` by insertion, ``whole`` of a scan."""

    dose: float
    added: float
    whole: float


def variance_by_dose(
    hu, mask, doses: Sequence[float], *, scan: Scan, pixel_mm: float, seed: int
) -> list[DoseLaw]:
    """Noise variance of (N, H, W) ``hu`` inside ``mask`` at each dose, both ways of making it."""
    exact = reconstruct_scan(hu, scan=scan, pixel_mm=pixel_mm)
    laws = []
    for dose in doses:
        options = {"seed": seed, "dose": dose, "scan": scan, "pixel_mm": pixel_mm}
        added = insert_projection_domain(hu, **options) - hu
        whole = simulate_scan(hu, **options) - exact
        laws.append(DoseLaw(dose, float(added[mask].var()), float(whole[mask].var())))
    return laws


@dataclasses.dataclass(frozen=True)
class Streaks:
    """Noise of a region averaged along lines, SD in HU: ``lateral`` lines run from side to side.

    Noise without a direction gives the same both ways. Where the rays from side to side are short
    of photons, each of them leaves a line, which averaging along it keeps.
    """

    lateral: float
    frontal: float
    pixels: float

    @property
    def ratio(self) -> float:
        """How many times stronger along the lateral rays; 1 without streaks."""
        return self.lateral / self.frontal


def streaks(noise, mask, pixel_mm: float, length_mm: float = 40.0) -> Streaks:
    """Directions in the (H, W) ``noise`` (HU) of the pixels in ``mask``, by means over lines."""
    length = max(2, round(length_mm / pixel_mm))
    lateral, frontal = (ndimage.uniform_filter1d(noise, length, axis=a)[mask].std() for a in (1, 0))
    return Streaks(float(lateral), float(frontal), float(noise[mask].std()))


def between(size: int, pixel_mm: float, half_mm: tuple[float, float], y_mm: float = 0.0):
    """(H, W) bool: a box about the middle of the image, ``y_mm`` further back."""
    axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
    return (np.abs(axis[None, :]) < half_mm[0]) & (np.abs(axis[:, None] - y_mm) < half_mm[1])


# -- real images -----------------------------------------------------------------------------


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
    calibration = n0_from_noise(hu, flat, own, scan=scan, pixel_mm=pixel_mm, seed=seed)
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


# -- speed -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a warm call (median, least, most) and from nothing to the first result; memory."""

    what: str
    median_s: float
    least_s: float
    most_s: float
    first_s: float
    memory_mib: float


def timings(*, size: int, geometry: Geometry, repeats: int) -> list[Timing]:
    """One slice of ``size``²: forward projection, FBP, quarter dose, on jax's default device.

    ``memory_mib`` is the compiled program's temporary memory, without input, output and, for the
    quarter dose, the sum of its two parts.
    """
    pixel_mm = 379.0 / size
    hu = random_patient(1, n_slices=1, size=size, pixel_mm=pixel_mm).hu
    mu = jax.numpy.asarray(0.019 * np.maximum(1 + hu[0] / 1000, 0))
    sinogram = jax.numpy.zeros((geometry.n_views, geometry.n_detectors))
    programs = {
        "forward projection": (lambda a: forward_project(a, geometry, pixel_mm), mu),
        "filtered back-projection": (
            lambda a: filtered_back_projection(a, geometry, size=(size, size), pixel_mm=pixel_mm),
            sinogram,
        ),
    }
    found = []
    for what, (program, argument) in programs.items():
        began = time.perf_counter()
        compiled = jax.jit(program).lower(argument).compile()
        compiled(argument).block_until_ready()
        first_s = time.perf_counter() - began
        memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
        times = _repeat(lambda c=compiled, a=argument: c(a).block_until_ready(), repeats)
        found.append(Timing(what, *times, first_s, memory))
    scan = Scan(1e5, geometry=geometry)

    def quarter():
        insert_projection_domain(hu[0], seed=1, dose=0.25, scan=scan, pixel_mm=pixel_mm)

    began = time.perf_counter()
    quarter()
    first_s = time.perf_counter() - began
    times = _repeat(quarter, repeats)
    memory = sum(t.memory_mib for t in found)
    found.append(Timing("quarter dose, whole", *times, first_s, memory))
    return found


def _repeat(call, repeats: int) -> tuple[float, float, float]:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times)), min(times), max(times)
