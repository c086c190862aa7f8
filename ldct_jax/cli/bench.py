"""``ldct bench``: speed, beside PyTorch in one run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command()
@click.option("--torch", is_flag=True, help="Measure PyTorch's twins beside ours.")
@click.option("--torch-python", metavar="PY", default=None, help="Interpreter that has torch.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    default=Path("runs/speed/speed.json"),
    show_default=True,
    help="Where the measurements go; the report is written beside it.",
)
@click.option("--small", is_flag=True, help="The CPU's sizes (a quarter of an hour) also on a GPU.")
@click.option("--only", multiple=True, metavar="GROUP", help="Only this group (repeatable).")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time limit.")
@click.option("--report-only", is_flag=True, help="Make the report of an existing JSON.")
def bench(torch, torch_python, json_path, small, only, minutes, report_only):
    """Measure training steps and whole slices; each row is a process of its own.

    Rows that can't be measured here say why. With --torch the rows of both frameworks take turns,
    from the same weights and patches, and outputs are compared before anything is timed.

    \b
    Example:
      ldct bench --torch --json runs/speed/speed.json
    """
    from ldct_jax.bench import __main__ as program
    from ldct_jax.bench import run
    from ldct_jax.errors import DataError

    if report_only:
        try:
            record = json.loads(json_path.read_text())
        except (OSError, ValueError):
            raise DataError(f"{json_path} is no benchmark's JSON: run ldct bench first") from None
    else:
        flags = [f"--{n}" for n, on in (("torch", torch), ("small", small)) if on]
        record = run.run(
            run.Request(
                out=json_path,
                torch_script=program.script() if torch else None,
                torch_python=torch_python or sys.executable,
                small=small,
                only=only,
                minutes=minutes,
                command=" ".join(["ldct bench", *flags, *(f"--only {n}" for n in only)]),
            )
        )
        click.echo(f"written: {json_path}")
    click.echo(program.report(record, json_path.parent))
