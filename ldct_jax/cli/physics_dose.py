"""The report on dose: added noise by body region, photons of a series, the Mayo level."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldct_jax.cli.physics import protocol_of
from ldct_jax.ct import checks
from ldct_jax.ct.calibration import n0_from_tags, rotation_mas
from ldct_jax.ct.dose import sample_noise
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.insertion import Scan
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.dicom.load import read_folder
from ldct_jax.errors import LdctError
from ldct_jax.report.figures import Curve, lines
from ldct_jax.report.tables import Column, Table
from ldct_jax.system.progress import stage, track


def dose_report(
    data: Path | None, *, size: int, views: int, slices: int, seed: int, attribution: str
):
    """Tables and figures of ``ldct physics dose-table``."""
    scan = Scan(1e5, geometry=FanBeam(n_views=views))
    series = _series(data, slices) if data else _phantom_series(slices, size)
    rows, numbers, doses = [], [], (0.25, 0.1)
    for label, hu, pixel_mm, tags in track(series, "series", "series"):
        calibration, found = checks.series_dose(
            hu, pixel_mm=pixel_mm, doses=doses, scan=scan, seed=seed
        )
        numbers.append((label, calibration.n0, calibration.how, *tags))
        for r in found:
            values = [v for d in doses for v in (r.expected(d), r.added[d])]
            rows.append((label, r.region, r.zone, r.slices, r.own, *values))
    source = attribution or ("DICOM series" if data else "random phantoms with 12 HU of noise")
    protocol = f"fan beam, {views} views, kernel smooth; 6 mm windows in flat soft tissue"
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
            note="Expected: sqrt(1/dose - 1) times the own SD of the same windows, which includes "
            "what anatomy they hold. N0 is one number a series; vendors modulate the tube current.",
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
        tables.append(_mayo_table(size, views, scan))
    return tables, [_dose_figure(rows)]


def _mayo_table(size, views, scan):

    targets = [(1.0, 55.0), (1.0, 68.0), (1.0, 82.0), (3.0, 15.0), (3.0, 20.0), (3.0, 25.0)]
    levels = list(checks.mayo_levels(targets, seeds=(3, 13, 21), size=size, scan=scan))
    return Table(
        "mayo_level",
        "Photons for the Mayo quarter-dose level",
        [
            Column("thickness", "mm", 0),
            Column("added SD wanted", "HU", 0),
            Column("N0", digits=0),
            Column("added SD, other noise", "HU", 1),
            Column("N0 from tags at 200 mAs, 120 kVp", digits=0),
        ],
        [
            (
                level.slice_mm,
                level.target_hu,
                level.n0,
                level.measured_hu,
                n0_from_tags(mas=200, slice_mm=level.slice_mm).n0,
            )
            for level in levels
        ],
        protocol=f"{protocol_of(views, size)}, kernel smooth, dose 0.25, liver and spleen",
        data="random abdomens 3, 13, 21",
    )


def _series(folder: Path, slices: int):
    """(label, (n, H, W) HU, pixel mm, N0 from tags and how) of every DICOM series, evenly taken."""

    found = []
    for number, one in enumerate(read_folder(folder), start=1):
        at = np.unique(np.linspace(0, len(one) - 1, slices + 2).round().astype(int)[1:-1])
        try:
            mas, how = rotation_mas(_middle(one.exposure), _middle(one.tube_current_ma))
            n0 = n0_from_tags(mas=mas, slice_mm=one.slice_mm, kvp=one.kvp).n0
        except LdctError:  # such a series has no estimate from tags: an en dash in the table
            n0, how = None, ""
        label = f"{number}: {one.manufacturer} {one.kernel}, {one.slice_mm:g} mm"
        found.append((label, one.hu[at], one.pixel_mm, (n0, how)))
    return found


def _middle(values) -> float:
    """Median of the finite values; NaN where there is none."""

    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _phantom_series(slices: int, size: int):

    found = []
    for region in ("abdomen", "thorax"):
        pixel_mm = 379.0 / size
        p = random_patient(
            3, region=region, n_slices=slices, size=size, pixel_mm=pixel_mm, slice_mm=10
        )
        hu = p.hu + sample_noise(p.hu.shape, 12.0, pixel_mm, 7)
        found.append((f"phantom {region}", hu, pixel_mm, (None, "")))
    return found


def _dose_figure(rows):

    ordered = sorted(rows, key=lambda row: row[4])
    x = list(range(1, len(ordered) + 1))
    return lines(
        "dose_by_region",
        "Added noise by series and body region",
        [
            Curve(label, x, [row[column] for row in ordered])
            for column, label in (
                (5, "25 %, expected"),
                (6, "25 %, measured"),
                (7, "10 %, expected"),
                (8, "10 %, measured"),
            )
        ],
        "row of the table, in the order of the own noise",
        "SD [HU]",
        markers=True,
        caption="Expected: sqrt(1/dose - 1) times the own SD.",
    )
