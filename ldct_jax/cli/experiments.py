"""``ldct experiments``: what can be reproduced."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def experiments(as_json):
    """List the experiments with the table or figure that each reproduces.

    \b
    Example:
      ldct experiments
    """
    from ldct_jax.study.scripts import load_study, names
    from ldct_jax.system.tables import plain_table

    studies = [load_study(name) for name in names()]
    if as_json:
        rows = [
            {
                "name": s.name,
                "reproduces": s.reproduces,
                "title": s.title,
                "scales": {k: v.words for k, v in s.scales.items()},
                "variants": list(s.rows("demo")),
            }
            for s in studies
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    rows = [(s.name, s.reproduces, s.title) for s in studies]
    click.echo(plain_table(("experiment", "reproduces", "title"), rows))
