"""Options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path

import click


class Number(click.FloatRange):
    """A number with bounds; "nan" and "inf" are none."""

    def convert(self, value, param, context):
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, context)
        return number


def _use(context, parameter, path: Path | None) -> None:
    if path is not None:
        from ldct_jax.user_script import use_code

        use_code(path)


code_option = click.option(
    "--code",
    metavar="SCRIPT",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_use,
    help="Your own script, where a run of it is loaded: it is imported.",
)


def _shard(context, parameter, text: str):
    from ldct_jax.system.shard import parse_shard

    return parse_shard(text)


shard_option = click.option(
    "--shard",
    metavar="K/N",
    default="1/1",
    callback=_shard,
    help="Do the K-th of N parts of the series; N processes may share one OUT.",
)

texture_option = click.option(
    "--texture",
    metavar="T",
    default="routine",
    show_default=True,
    help="Noise that the shipped model keeps: routine, smooth, or HU by its own measure.",
)
quality_option = click.option(
    "--quality",
    metavar="Q",
    default="normal",
    show_default=True,
    help="normal, or best: mean over flips and rotations, eight times slower.",
)
