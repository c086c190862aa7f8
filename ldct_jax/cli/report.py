"""``ldct report``: rebuild reports from run folders."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def report(runs):
    """Rebuild the reports of study folders (runs/EXP) without training anything.

    \b
    Example:
      ldct report runs/pcn_ablation
    """
    from ldct_jax.study.results import load
    from ldct_jax.study.run import write_report
    from ldct_jax.study.scripts import load_study

    for folder in runs:
        study = load_study(load(folder).study["study"])
        click.echo(f"report: {write_report(study, folder)}")
