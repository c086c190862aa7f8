"""``ldct adapt``: fine-tune the model that ships on one's own scans."""

from __future__ import annotations

import json
from pathlib import Path

import click

NOT_BETTER = 3
"""Exit code where the model before stays, because the adapted one isn't better."""


@click.command()
@click.argument("series", metavar="SERIES", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file, m.npz.")
@click.option("--model", metavar="M", help="Start from this one [the shipped model].")
@click.option("--steps", type=click.IntRange(1), help="Of training [500: some 10 minutes].")
@click.option("--json", "as_json", is_flag=True, help="Print the record for programs.")
def adapt(series, out, model, steps, as_json):
    """Fine-tune the shipped model on the scans in SERIES; no pairs are needed.

    SERIES is a folder of DICOM series or a store, of the kernel and thickness that are to be
    denoised. Noise is added to the scans and the model learns to take it away. Slices that are held
    out decide: where the result is better, it is written to OUT; otherwise nothing is, and the exit
    code is 3. Run the same command again to resume. For research only.

    \b
    Example:
      ldct adapt scans/chest --out chest.npz
      ldct denoise scans/chest denoised --model chest.npz
    """
    from ldct_jax.study import adapt as adaptation
    from ldct_jax.system import accelerator
    from ldct_jax.system.names import printable

    accelerator.start()
    record = adaptation.adapt(
        series,
        out,
        model=model,
        steps=adaptation.STEPS if steps is None else steps,
        say=lambda text: click.echo(text, err=as_json),
    )
    if as_json:
        click.echo(json.dumps(record, indent=1))
    elif record["better"]:
        click.echo(printable(f"better: {out}"))
    else:
        click.echo(f"not better: nothing is written, {record['base']['name']} stays")
    if not record["better"]:
        raise click.exceptions.Exit(NOT_BETTER)
