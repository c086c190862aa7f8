"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click


def _use(context, parameter, path: Path | None) -> None:
    if path is not None:
        from ldct_jax.record import use_code

        use_code(path)


code_option = click.option(
    "--code",
    metavar="SCRIPT",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_use,
    help="Your own script, where a run of it is loaded: it is imported.",
)
