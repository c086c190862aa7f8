"""``ldct denoise``: DICOM, NIfTI or arrays in, the same out."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ldct_jax.cli.options import code_option, quality_option, shard_option, texture_option


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--model", metavar="M", help="Checkpoint, artefact, or filter [the shipped model].")
@texture_option
@quality_option
@click.option("--blend", default=1.0, show_default=True, help="Share of the result in the output.")
@click.option("--strict", is_flag=True, help="Refuse what would only be warned of.")
@click.option("--overwrite", is_flag=True, help="Replace files of another result in OUT.")
@click.option(
    "--keep", multiple=True, metavar="CREATOR", help="Keep this private creator, or 'overlays'."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@shard_option
@code_option
def denoise(source, out, model, texture, quality, blend, strict, overwrite, keep, as_json, shard):
    """Denoise the images at or below IN into the folder OUT.

    IN is a DICOM file, a series, or a folder of series; .npy (HU) and NIfTI files too. Results
    keep their names and formats. M is a run folder or checkpoint, an exported .stablehlo or .onnx
    file, a package of `ldct export`, a filter (gaussian, median, wiener, bilateral, nlm, tv) or
    identity. The same command goes on after an interruption. For research only.

    \b
    Example:
      ldct denoise scans/patient1 denoised --model runs/pcn_ablation/full-pcn
      ldct denoise image.npy denoised --model gaussian --blend 0.7
      ldct denoise archive denoised --shard 2/4
    """
    from ldct_jax.denoise.models import find
    from ldct_jax.denoise.run import Options, check_complete, denoise_path

    def start():
        from ldct_jax.system import accelerator

        accelerator.start()

    summary = denoise_path(
        source,
        out,
        find(model).chosen(texture=texture, quality=quality),
        Options(blend=blend, strict=strict, overwrite=overwrite, keep=keep, shard=shard),
        warn=lambda text: click.echo(f"warning: {text}", err=True),
        note=lambda text: click.echo(f"note: {text}", err=True),
        start=start,
    )
    click.echo(json.dumps(summary.record(), indent=1) if as_json else summary.text())
    check_complete(summary)
