"""Two pages on the physics: the dose of real or random series, and random patients.

    python -m experiments.physics dose docs/results/dose_table --data scans/ct   # 10 min on 2 cores
    python -m experiments.physics phantoms docs/results/phantoms                 # 2 min

What must hold for the physics is asserted in tests/ct; this writes down the numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.ct.add_noise_to_projections import Scan, insert_projection_domain
from ldct_jax.ct.calibration import n0_from_added_sd, n0_from_tags, rotation_mas
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.no_data import filled, no_data
from ldct_jax.ct.noise_spectrum import window_law
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.data.noise_estimate import BLUR_MM, flat_tissue, window_moments, window_side
from ldct_jax.data.simulate import add_in_proportion, own_scan, required_noise
from ldct_jax.dicom.load import read_folder
from ldct_jax.errors import DataError, LdctError
from ldct_jax.hu import ABDOMEN, Window
from ldct_jax.report.images import panels
from ldct_jax.report.tables import Column, Table
from ldct_jax.system.files import write_bytes
from ldct_jax.system.progress import stage, track

SEED, FIELD_MM = 1, 379.0
LUNG = Window(-1350, 150, clip=True)
REGIONS = {"abdomen": {"": ABDOMEN}, "thorax": {"": ABDOMEN, "_lung": LUNG}}
REGIONS["pelvis"] = {"": ABDOMEN}


def dose_table(data: Path | None, *, size: int, views: int, slices: int) -> list[Table]:
    """SD that 25 % and 10 % dose add by body region, expected and measured; photons; Mayo level.

    Without ``data`` random phantoms with 12 HU of noise of their own stand for patients.
    """
    geometry = FanBeam(n_views=views)
    series = series_of(data, slices) if data else phantom_series(slices, size)
    rows, numbers, doses = [], [], (0.25, 0.1)
    for label, hu, pixel_mm, tags in track(series, "series", "series"):
        scan, how, found = series_dose(hu, pixel_mm, doses, geometry)
        numbers.append((label, scan.n0, how, *tags))
        for r in found:
            values = [v for d in doses for v in (r.own * (1 / d - 1) ** 0.5, r.added[d])]
            rows.append((label, r.region, r.zone, r.slices, r.own, *values))
    source = "DICOM series" if data else "random phantoms with 12 HU of noise"
    protocol = f"fan beam, {views} views, each series' own kernel; 6 mm windows in flat soft tissue"
    columns = [Column("series"), Column("region"), Column("zone"), Column("slices", digits=0)]
    columns.append(Column("own SD", "HU", 1))
    for dose in doses:
        columns += [
            Column(f"{dose:.0%} expected", "HU", 1),
            Column(f"{dose:.0%} measured", "HU", 1),
        ]
    tables = [
        Table(
            "dose_by_region",
            "SD of the added noise by body region",
            columns,
            rows,
            protocol=protocol,
            data=source,
            note="Expected: sqrt(1/dose - 1) times the own SD of the same windows. Own noise is "
            "measured once a series, with what changes within slices and between them.",
        ),
        Table(
            "n0",
            "Photons a ray of each series",
            [
                Column("series"),
                Column("N0 from noise", digits=0),
                Column("how"),
                Column("N0 from tags", digits=0),
                Column("tags"),
            ],
            numbers,
            protocol=protocol,
            data=source,
            note="Tags don't know bow-tie, kernel, modulation and iterative reconstruction.",
        ),
    ]
    with stage("Mayo level"):
        tables.append(mayo_table(size, views))
    return tables


@dataclasses.dataclass(frozen=True)
class RegionNoise:
    """SD in HU in flat tissue of one body region and zone: ``own``, and ``added`` by dose."""

    region: str
    zone: str
    slices: int
    own: float
    added: dict[float, float]


def series_dose(hu, pixel_mm: float, doses, geometry: FanBeam):
    """A series' scan, how its photons were found, and a :class:`RegionNoise` for each place.

    hu: (N, H, W) HU, to which every dose is simulated as for training pairs.
    """
    hu = filled(np.asarray(hu, np.float32), no_data(hu))
    own = required_noise(hu, pixel_mm)
    scan, how = own_scan(own)
    scan = dataclasses.replace(scan, geometry=geometry)
    tissue = flat_tissue(hu, pixel_mm)
    side = window_side(pixel_mm)
    # Of noise of that spectrum, what windows show; tissue.variance is free of it.
    seen = window_law(own.kernel, pixel_mm, BLUR_MM / pixel_mm, side).whole
    added = {}
    for number, dose in enumerate(doses):
        low = add_in_proportion(hu, own, dose, scan=scan, pixel_mm=pixel_mm, seed=SEED + 1 + number)
        added[dose] = np.stack([window_moments(image, side)[1] / seen for image in low - hu])
    names = [body_region(image) for image in hu]
    rows = []
    for region in dict.fromkeys(names):
        at = [i for i, name in enumerate(names) if name == region]
        for zone in ("centre", "edge"):
            mask = np.stack([zones(hu[i])[zone] & tissue.flat[i] for i in at])
            if mask.sum() < 200:
                continue
            sds = [float(v[at][mask].mean() ** 0.5) for v in (tissue.variance, *added.values())]
            rows.append(
                RegionNoise(region, zone, len(at), sds[0], dict(zip(doses, sds[1:], strict=True)))
            )
    return scan, how, rows


def body_region(image) -> str:
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


def mayo_table(size: int, views: int) -> Table:
    """Photons for the noise of the Mayo archive's quarter-dose images."""
    pixel_mm = FIELD_MM / size
    patients = [random_patient(s, n_slices=1, size=size, pixel_mm=pixel_mm) for s in (3, 13, 21)]
    hu = np.concatenate([p.hu for p in patients])
    liver = np.concatenate([p.mask("liver") | p.mask("spleen") for p in patients])
    rows = []
    for slice_mm, wanted in ((1, 55.0), (1, 68.0), (1, 82.0), (3, 15.0), (3, 20.0), (3, 25.0)):
        scan = Scan(1.0, geometry=FanBeam(n_views=views))
        how = {"dose": 0.25, "pixel_mm": pixel_mm}
        n0 = n0_from_added_sd(hu, liver, wanted, scan=scan, **how).n0
        scan = dataclasses.replace(scan, n0=n0)
        drawn = insert_projection_domain(hu, seed=999, scan=scan, **how) - hu
        tags = n0_from_tags(mas=200, slice_mm=slice_mm).n0
        rows.append((slice_mm, wanted, n0, float(drawn[liver].std()), tags))
    return Table(
        "mayo_level",
        "Photons for the Mayo quarter-dose level",
        [
            Column("thickness", "mm", 0),
            Column("added SD wanted", "HU", 0),
            Column("N0", digits=0),
            Column("added SD, drawn", "HU", 1),
            Column("N0 from tags at 200 mAs, 120 kVp", digits=0),
        ],
        rows,
        protocol=f"fan beam, {views} views, {size}x{size} pixels on {FIELD_MM:g} mm, kernel "
        "smooth, dose 0.25, liver and spleen",
        data="random abdomens 3, 13, 21",
    )


def series_of(folder: Path, slices: int) -> list:
    """(label, (n, H, W) HU, pixel mm, N0 from tags and how) of every DICOM series, evenly taken."""
    found = []
    for number, one in enumerate(read_folder(folder), start=1):
        at = np.unique(np.linspace(0, len(one) - 1, slices + 2).round().astype(int)[1:-1])
        try:
            mas, how = rotation_mas(middle(one.exposure), middle(one.tube_current_ma))
            n0 = n0_from_tags(mas=mas, slice_mm=one.slice_mm, kvp=one.kvp).n0
        except LdctError:  # such a series has no estimate from tags: an en dash in the table
            n0, how = None, ""
        label = f"{number}: {one.manufacturer} {one.kernel}, {one.slice_mm:g} mm"
        found.append((label, one.hu[at], one.pixel_mm, (n0, how)))
    return found


def middle(values) -> float:
    """Median of the finite values; NaN where there is none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def phantom_series(slices: int, size: int) -> list:
    """The same of two random phantoms."""
    found = []
    for region in ("abdomen", "thorax"):
        pixel_mm = FIELD_MM / size
        p = random_patient(
            3, region=region, n_slices=slices, size=size, pixel_mm=pixel_mm, slice_mm=10
        )
        hu = p.hu + sample_noise(p.hu.shape, 12.0, pixel_mm, 7)
        found.append((f"phantom {region}", hu, pixel_mm, (None, "")))
    return found


def phantoms(*, size: int, patients: int) -> tuple[list[Table], list]:
    """Random patients of each region, with the time that they took: a table, pictures."""
    rows, figures = [], []
    for region, windows in REGIONS.items():
        pictures = {}
        for seed in range(SEED, SEED + patients):
            began = time.perf_counter()
            p = random_patient(seed, region=region, n_slices=4, size=size, pixel_mm=FIELD_MM / size)
            rate = 60 * 4 / (time.perf_counter() - began)
            lesions = ", ".join(
                f"{q.organ} {q.radius_mm:.0f} mm {q.contrast_hu:+.0f} HU" for q in p.lesion_table
            )
            rows.append((region, seed, rate, len(p.lesion_table), lesions or "–"))
            pictures[f"{region} {seed}"] = p.hu[2]
        title = f"Random patients, {region}, no noise"
        for suffix, window in windows.items():
            name = f"phantoms_{region}{suffix}"
            figures.append(panels(name, title, pictures, window=window))
    columns = [
        Column("region"),
        Column("seed", digits=0),
        Column("slices a minute", digits=0),
        Column("number of lesions", digits=0),
        Column("lesions (radius, contrast)"),
    ]
    protocol = f"{size}x{size} pixels, 4 slices of 3 mm, one process"
    table = Table(
        "phantoms",
        "Random patients",
        columns,
        rows,
        protocol=protocol,
        data="phantoms, no patients",
    )
    return [table], figures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m experiments.physics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("page", choices=("dose", "phantoms"))
    parser.add_argument("out", type=Path, help="folder")
    parser.add_argument("--data", type=Path, help="folder of DICOM series [random phantoms]")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", type=int, default=1152)
    parser.add_argument("--slices", type=int, default=5, help="of each series")
    parser.add_argument("--patients", type=int, default=6, help="of each region")
    asked = parser.parse_args(arguments)
    try:
        if asked.page == "dose":
            figures: list = []
            tables = dose_table(asked.data, size=asked.size, views=asked.views, slices=asked.slices)
        else:
            tables, figures = phantoms(size=asked.size, patients=asked.patients)
        for table in tables:
            table.write(asked.out)
            print(table.markdown())
        for figure in figures:
            write_bytes(asked.out / f"{figure.name}.png", figure.png)
    except LdctError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
