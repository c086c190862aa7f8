"""``ldct report``: rebuild reports from run folders."""

from __future__ import annotations

from pathlib import Path

import click

from ldct_jax.cli.options import code_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@code_option
def report(runs):
    """Rebuild the reports of study folders (runs/EXP) without training anything.

    \b
    Example:
      ldct report runs/pcn_ablation
    """
    from ldct_jax.report import write
    from ldct_jax.study.results import load
    from ldct_jax.study.scripts import recorded_study

    for folder in runs:
        study = recorded_study(load(folder).study)
        click.echo(f"report: {write(study, folder)}")
