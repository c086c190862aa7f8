"""``ldct models``: every network with its size, measured by building it."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def models(as_json):
    """List the networks of the papers: parameters, receptive field, work for a 512x512 slice.

    All figures are counted on the network itself. GFLOP: two operations a product, products with
    padding left out, clone networks in the paper's plain form with the outputs of all clones.

    \b
    Example:
      ldct models
      ldct models --json
    """
    from ldct_jax.models.flops import model_rows
    from ldct_jax.system.tables import plain_table

    rows = model_rows()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    cells = []
    for row in rows:
        field, work = row["receptive_field"], row["flops_512"]
        cells.append(
            (
                row["name"],
                row["paper"],
                f"{row['parameters']:,}",
                f"(+ {row['batch_stats']:,})" if row["batch_stats"] else "",
                "whole image" if field is None else f"{field} px",
                "" if work is None else f"{work / 1e9:,.1f}",
            )
        )
    head = ("name", "paper", "parameters", "(+ batch_stats)", "receptive field", "GFLOP/512²")
    click.echo(plain_table(head, cells, right="  rrrr"))
