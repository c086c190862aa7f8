"""``ldct physics``: reports on the CT physics, each one command with PNG and JSON in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
DOSES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)


@click.group()
def physics():
    """Check projector, dose simulation and phantoms; write figures and numbers.

    \b
    Example:
      ldct physics noise reports/physics
    """


def common(command):
    """Options that all reports share: the output folder, matrix, views."""
    command = click.argument("out", type=FOLDER)(command)
    command = click.option("--size", default=512, show_default=True, help="Matrix size.")(command)
    return click.option("--views", default=1152, show_default=True, help="Views on 360°.")(command)


def _geometry(views: int):
    from ldct_jax.ct.geometry import FanBeam

    return FanBeam(n_views=views)


def _protocol(views: int, size: int) -> str:
    return f"fan beam, {views} views, 736 channels, {size}x{size} pixels on 379 mm"


def _write(out: Path, name: str, record: dict, tables, figures) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {**record, "tables": [json.loads(table.json()) for table in tables]}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    for figure in figures:
        (out / f"{figure.name}.png").write_bytes(figure.png)
    for table in tables:
        (out / f"{table.name}.md").write_text(table.markdown())
        click.echo(table.markdown())
    click.echo(f"{out}: {name}.json, " + ", ".join(f"{f.name}.png" for f in figures))


@physics.command()
@common
@click.option("--slices", default=2, show_default=True, help="Slices that are averaged.")
@click.option("--n0", default=2e5, show_default=True, help="Photons a ray at normal dose.")
@click.option("--seed", default=1, show_default=True, help="Seed of the noise.")
def noise(out, size, views, slices, n0, seed):
    """Noise power against the measured curve; variance against dose; streaks.

    \b
    Example:
      ldct physics noise reports/physics
    """
    import numpy as np

    from ldct_jax.ct import checks
    from ldct_jax.ct.insertion import Scan
    from ldct_jax.progress import stage
    from ldct_jax.report.figures import Curve, lines
    from ldct_jax.report.tables import Column, Table

    pixel_mm = 379.0 / size
    scan = Scan(n0, geometry=_geometry(views))
    with stage("noise power spectra"):
        spectra = checks.added_noise_spectra(
            scan, size=size, pixel_mm=pixel_mm, slices=slices, dose=0.25, seed=seed
        )
    with stage(f"variance at {len(DOSES)} doses"):
        body = checks.water(size, pixel_mm, (150, 105))[None].repeat(slices, axis=0)
        axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
        core = np.hypot(axis[None, :], axis[:, None]) < 50
        laws = checks.variance_by_dose(
            body,
            np.broadcast_to(core, body.shape),
            DOSES,
            scan=scan,
            pixel_mm=pixel_mm,
            seed=seed,
        )
    with stage("streaks"):
        streaks, images = _streaks(size, pixel_mm, scan, seed)

    first = next(iter(spectra.values()))
    f = first.frequency_per_mm
    step = f[1] - f[0]

    def unit_area(values):
        return np.asarray(values) / (np.sum(values) * step)

    curves = [Curve(label, f, unit_area(s.nps)) for label, s in spectra.items()]
    curves.append(Curve("measured, B30f", f, unit_area(checks.measured_curve(f))))
    protocol = _protocol(views, size)
    data = f"water ellipses, N0 = {n0:g}, seed {seed}"
    spectrum = lines(
        "noise_spectrum",
        "Noise that a quarter dose adds",
        curves,
        "spatial frequency [1/mm]",
        "noise power, area 1 [mm]",
        caption=f"{protocol}; {data}",
    )
    law = lines(
        "variance_by_dose",
        "Variance against dose",
        [
            Curve("added by insertion", [w.dose for w in laws[1:]], [w.added for w in laws[1:]]),
            Curve("whole scan", [w.dose for w in laws], [w.whole for w in laws]),
            Curve("1/dose", DOSES, [laws[0].whole / d for d in DOSES]),
        ],
        "dose",
        "variance [HU²]",
        caption=f"{protocol}; {data}",
        log_x=True,
        log_y=True,
        markers=True,
    )
    unit = laws[0].whole
    tables = [
        Table(
            "variance_by_dose",
            "Variance in the reconstructed image against dose",
            [
                Column("dose", digits=2),
                Column("added SD", "HU", 1),
                Column("added variance / (1/dose - 1) / normal dose's", digits=3),
                Column("whole SD", "HU", 1),
                Column("whole variance x dose / normal dose's", digits=3),
            ],
            [
                (
                    w.dose,
                    w.added**0.5,
                    w.added / (1 / w.dose - 1) / unit if w.dose < 1 else None,
                    w.whole**0.5,
                    w.whole * w.dose / unit,
                )
                for w in laws
            ],
            protocol=protocol,
            data=data,
            note="Ratios leave 1 where electronic noise and the logarithm of few photons begin.",
        ),
        Table(
            "noise_spectrum",
            "Noise power spectra of the added noise",
            [
                Column("noise"),
                Column("peak", "1/mm", 3),
                Column("mean frequency", "1/mm", 3),
                Column("correlation with the measured curve", digits=3),
            ],
            [
                (
                    label,
                    s.peak_per_mm,
                    s.mean_per_mm,
                    float(np.corrcoef(s.nps, checks.measured_curve(s.frequency_per_mm))[0, 1]),
                )
                for label, s in spectra.items()
            ],
            protocol=protocol,
            data=data,
        ),
        streaks,
    ]
    _write(out, "noise", {"seed": seed, "n0": n0}, tables, [spectrum, law, images])


def _streaks(size, pixel_mm, scan, seed):
    """Noise between the bones of shoulders at low dose: table and panels."""
    import numpy as np

    from ldct_jax.ct import checks
    from ldct_jax.ct.insertion import insert_projection_domain
    from ldct_jax.report.images import panels
    from ldct_jax.report.tables import Column, Table

    bones = [(side * 0.30 * size * pixel_mm, 0, 24) for side in (-1, 1)]
    half = (0.46 * size * pixel_mm, 0.24 * size * pixel_mm)
    bodies = {
        "without bones": checks.water(size, pixel_mm, half),
        "shoulders": checks.water(size, pixel_mm, half, bones),
    }
    axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
    band = (np.abs(axis[:, None]) < 15) & (np.abs(axis[None, :]) < 60)
    shift = max(1, round(10 / pixel_mm))
    rows, images = [], {}
    for label, body in bodies.items():
        for dose in (0.25, 0.05):
            low = insert_projection_domain(body, seed=seed, dose=dose, scan=scan, pixel_mm=pixel_mm)
            field = low - body
            along, across = (
                float(np.corrcoef(field[band], np.roll(field, shift, axis=a)[band])[0, 1])
                for a in (1, 0)
            )
            rows.append((label, dose, float(field[band].std()), along, across))
            images[f"{label}, dose {dose:g}"] = low
    table = Table(
        "streaks",
        "Streaks through the shoulders: noise on the line between the bones",
        [
            Column("body"),
            Column("dose", digits=2),
            Column("added SD", "HU", 1),
            Column("correlation 10 mm along", digits=2),
            Column("correlation 10 mm across", digits=2),
        ],
        rows,
        protocol=f"{scan.geometry.n_views} views, N0 = {scan.n0:g}",
        data="a water ellipse without and with two discs of 900 HU",
    )
    return table, panels("streaks", "Streaks at low dose", images, columns=4)


@physics.command("dose-table")
@common
@click.option("--data", type=click.Path(path_type=Path), help="Folder of DICOM series.")
@click.option("--slices", default=6, show_default=True, help="Slices of each series, evenly.")
@click.option("--seed", default=1, show_default=True, help="Seed of the noise.")
@click.option("--attribution", default="", help="Whom to cite for the images.")
def dose_table(out, size, views, data, slices, seed, attribution):
    """SD that 25 % and 10 % dose add by body region, expected and measured; the Mayo level.

    Without --data random phantoms with 12 HU of noise of their own stand for patients.

    \b
    Example:
      ldct physics dose-table reports/physics --data scans/ct
    """
    from ldct_jax.ct import checks
    from ldct_jax.ct.insertion import Scan
    from ldct_jax.progress import stage, track
    from ldct_jax.report.tables import Column, Table

    scan = Scan(1e5, geometry=_geometry(views))
    series = _series(data, slices) if data else _phantom_series(slices, size)
    rows, numbers, doses = [], [], (0.25, 0.1)
    for label, hu, pixel_mm, tags in track(series, "series", "series"):
        calibration, found = checks.series_dose(
            hu, pixel_mm=pixel_mm, doses=doses, scan=scan, seed=seed
        )
        numbers.append((label, calibration.n0, calibration.how, tags))
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
            ],
            numbers,
            protocol=protocol,
            data=source,
            note="Tags don't know bow-tie, kernel, modulation and iterative reconstruction.",
        ),
    ]
    with stage("Mayo level"):
        tables.append(_mayo_table(size, views, scan))
    figure = _dose_figure(rows)
    _write(out, "dose_table", {"seed": seed}, tables, [figure])


def _mayo_table(size, views, scan):
    from ldct_jax.ct import checks
    from ldct_jax.ct.calibration import n0_from_tags
    from ldct_jax.report.tables import Column, Table

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
        protocol=f"{_protocol(views, size)}, kernel smooth, dose 0.25, liver and spleen",
        data="random abdomens 3, 13, 21",
    )


def _series(folder: Path, slices: int):
    """(label, (n, H, W) HU, pixel mm, N0 from tags or None) of every DICOM series, evenly taken."""
    import numpy as np

    from ldct_jax.ct.calibration import n0_from_tags
    from ldct_jax.dicom.read import read_folder

    found = []
    for number, one in enumerate(read_folder(folder), start=1):
        at = np.unique(np.linspace(0, len(one) - 1, slices + 2).round().astype(int)[1:-1])
        mas = float(np.nanmedian(one.exposure)) if np.isfinite(one.exposure).any() else np.nan
        n0 = None
        if mas > 0 and one.kvp > 0 and one.slice_mm > 0:
            n0 = n0_from_tags(mas=mas, slice_mm=one.slice_mm, kvp=one.kvp).n0
        label = f"{number}: {one.manufacturer} {one.kernel}, {one.slice_mm:g} mm"
        found.append((label, one.hu[at], one.pixel_mm, n0))
    return found


def _phantom_series(slices: int, size: int):
    from ldct_jax.ct.dose import sample_noise
    from ldct_jax.ct.phantom import random_patient

    found = []
    for region in ("abdomen", "thorax"):
        pixel_mm = 379.0 / size
        p = random_patient(
            3, region=region, n_slices=slices, size=size, pixel_mm=pixel_mm, slice_mm=10
        )
        hu = p.hu + sample_noise(p.hu.shape, 12.0, pixel_mm, 7)
        found.append((f"phantom {region}", hu, pixel_mm, None))
    return found


def _dose_figure(rows):
    from ldct_jax.report.figures import Curve, lines

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


@physics.command()
@click.argument("out", type=FOLDER)
@click.option("--patients", default=6, show_default=True, help="Of each region.")
@click.option("--size", default=512, show_default=True, help="Matrix size.")
@click.option("--seed", default=1, show_default=True, help="Of the first patient.")
def phantoms(out, patients, size, seed):
    """A page of random patients, with the time that they took.

    \b
    Example:
      ldct physics phantoms reports/physics
    """
    import time

    from ldct_jax import hu
    from ldct_jax.ct.phantom import random_patient
    from ldct_jax.report.images import panels
    from ldct_jax.report.tables import Column, Table

    rows, figures = [], []
    for region, windows in (
        ("abdomen", {"": hu.ABDOMEN}),
        ("thorax", {"": hu.ABDOMEN, "_lung": hu.Window(-1350, 150, clip=True)}),
    ):
        pictures = {}
        for i in range(patients):
            began = time.perf_counter()
            p = random_patient(
                seed + i, region=region, n_slices=4, size=size, pixel_mm=379.0 / size
            )
            seconds = time.perf_counter() - began
            lesions = ", ".join(
                f"{q.organ} {q.radius_mm:.0f} mm {q.contrast_hu:+.0f} HU" for q in p.lesion_table
            )
            rows.append((region, seed + i, 60 * 4 / seconds, len(p.lesion_table), lesions or "–"))
            pictures[f"{region} {seed + i}"] = p.hu[2]
        for suffix, window in windows.items():
            figures.append(
                panels(
                    f"phantoms_{region}{suffix}",
                    f"Random patients, {region}, no noise",
                    pictures,
                    window=window,
                    columns=3,
                )
            )
    table = Table(
        "phantoms",
        "Random patients",
        [
            Column("region"),
            Column("seed", digits=0),
            Column("slices a minute", digits=0),
            Column("number of lesions", digits=0),
            Column("lesions (radius, contrast)"),
        ],
        rows,
        protocol=f"{size}x{size} pixels, 4 slices of 3 mm, one process",
        data="phantoms, no patients",
    )
    _write(out, "phantoms", {"seed": seed}, [table], figures)


@physics.command()
@common
@click.option("--repeats", default=5, show_default=True, help="Timed calls of each part.")
def speed(out, size, views, repeats):
    """Time and memory of projecting and of a quarter-dose slice.

    \b
    Example:
      ldct physics speed reports/physics
    """
    import os

    import jax

    from ldct_jax.ct import checks
    from ldct_jax.report.figures import Point, points
    from ldct_jax.report.tables import Column, Table

    found = checks.timings(size=size, geometry=_geometry(views), repeats=repeats)
    device = jax.devices()[0].device_kind
    where = f"{device}, {os.cpu_count()} processors, jax {jax.__version__}"
    table = Table(
        "speed",
        "Time of one slice",
        [
            Column("what"),
            Column("median", "s", 3),
            Column("least", "s", 3),
            Column("most", "s", 3),
            Column("compiling", "s", 1),
            Column("working memory", "MiB", 0),
        ],
        [(t.what, t.median_s, t.least_s, t.most_s, t.compile_s, t.memory_mib) for t in found],
        protocol=f"{_protocol(views, size)}; {repeats} calls after warming up, float32",
        data=where,
    )
    figure = points(
        "speed",
        "Time and memory of one slice",
        [Point(t.what, t.memory_mib, t.median_s) for t in found],
        "working memory [MiB]",
        "time [s]",
        caption=where,
    )
    _write(out, "speed", {"device": where}, [table], [figure])
