"""``ldct physics``: reports on the CT physics, each one command with PNG and JSON in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, file_okay=False)


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


def protocol_of(views: int, size: int) -> str:
    """The geometry in words."""
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
    from ldct_jax.cli.physics_noise import noise_report

    tables, figures = noise_report(size=size, views=views, slices=slices, n0=n0, seed=seed)
    _write(out, "noise", {"seed": seed, "n0": n0}, tables, figures)


@physics.command()
@common
@click.option("--n0", default=1e5, show_default=True, help="Photons a ray at normal dose.")
@click.option("--seed", default=1, show_default=True, help="Of the patients and the noise.")
def streaks(out, size, views, n0, seed):
    """Streaks between the hips at low dose: a pelvis, an abdomen and a water disc.

    \b
    Example:
      ldct physics streaks reports/physics
    """
    from ldct_jax.cli.physics_streaks import streaks_report

    tables, figures = streaks_report(size=size, views=views, n0=n0, seed=seed)
    _write(out, "streaks_pelvis", {"seed": seed, "n0": n0}, tables, figures)


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
    from ldct_jax.cli.physics_dose import dose_report

    tables, figures = dose_report(
        data, size=size, views=views, slices=slices, seed=seed, attribution=attribution
    )
    _write(out, "dose_table", {"seed": seed}, tables, figures)


@physics.command()
@click.argument("out", type=FOLDER)
@click.option("--data", default="sample", show_default=True, help="'sample', a store, or DICOM.")
def sample(out, data):
    """A page of the CT series in DATA: three slices of each, geometry, kernel, noise.

    \b
    Example:
      ldct physics sample reports/sample
    """
    from ldct_jax.cli.physics_sample import sample_report

    tables, figures = sample_report(data)
    _write(out, "sample", {"data": data if data == "sample" else "…"}, tables, figures)


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
    from ldct_jax.ct.phantom.random_patient import random_patient
    from ldct_jax.report.images import panels
    from ldct_jax.report.tables import Column, Table

    rows, figures = [], []
    for region, windows in (
        ("abdomen", {"": hu.ABDOMEN}),
        ("thorax", {"": hu.ABDOMEN, "_lung": hu.Window(-1350, 150, clip=True)}),
        ("pelvis", {"": hu.ABDOMEN}),
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
    from ldct_jax.ct.geometry import FanBeam
    from ldct_jax.report.figures import Point, points
    from ldct_jax.report.tables import Column, Table

    found = checks.timings(size=size, geometry=FanBeam(n_views=views), repeats=repeats)
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
            Column("first call with compiling", "s", 1),
            Column("working memory", "MiB", 0),
        ],
        [(t.what, t.median_s, t.least_s, t.most_s, t.first_s, t.memory_mib) for t in found],
        protocol=f"{protocol_of(views, size)}; {repeats} calls after warming up, float32",
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
