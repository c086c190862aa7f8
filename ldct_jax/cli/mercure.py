"""``ldct mercure``: the folder contract of mercure's processing modules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from ldct_jax.errors import UsageError
from ldct_jax.system.names import counted

SETTINGS = {
    "model": (str,),
    "texture": (str, float),
    "quality": (str,),
    "blend": (float,),
    "strict": (bool,),
}
"""What the module's settings in mercure may hold; as the options of ``ldct denoise``."""
FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("source", metavar="IN", type=FOLDER, envvar="MERCURE_IN_DIR")
@click.argument("out", metavar="OUT", type=FOLDER, envvar="MERCURE_OUT_DIR")
def mercure(source, out):
    """Denoise a series or study that mercure hands over in IN, into OUT.

    IN and OUT default to MERCURE_IN_DIR and MERCURE_OUT_DIR. The module's settings in IN/task.json
    may hold model, texture, quality, blend and strict. Results are named SERIES#INSTANCE.dcm by
    their new UIDs; they come all together, and only where every CT image could be done.

    \b
    Example:
      MERCURE_IN_DIR=/in MERCURE_OUT_DIR=/out ldct mercure
    """
    from ldct_jax.denoise import choices
    from ldct_jax.denoise.models import find
    from ldct_jax.denoise.run import Options, check_complete, denoise_path
    from ldct_jax.dicom.header import read_header
    from ldct_jax.system import accelerator

    settings = read_settings(source / "task.json")
    found = find(settings.pop("model", None)).chosen(
        texture=settings.pop("texture", choices.ROUTINE),
        quality=settings.pop("quality", choices.NORMAL),
    )
    work = out / ".ldct"
    summary = denoise_path(
        source,
        work,
        found,
        Options(**settings),
        warn=lambda text: click.echo(f"warning: {text}", err=True),
        note=lambda text: click.echo(f"note: {text}", err=True),
        start=accelerator.start,
        quiet=True,
    )
    check_complete(summary)
    for file in sorted(work.rglob("*.dcm")):
        if file.is_file():
            header = read_header(file)
            file.rename(out / f"{header.series_uid}#{header.instance_uid}.dcm")
    shutil.rmtree(work)
    slices = sum(result.slices for result in summary.results)
    click.echo(f"{counted(slices, 'slice')} of {len(summary.results)} series denoised")


def read_settings(path: Path) -> dict:
    """The settings of our module in mercure's ``task.json``; empty without that file.

    Raises UsageError for a damaged file, and for settings that aren't ours.
    """
    if not path.exists():
        return {}
    try:
        process = json.loads(path.read_text()).get("process") or {}
        # A list where several modules are chained; mercure gives each its own.
        process = process[0] if isinstance(process, list) else process
        found = dict(process.get("settings") or {})
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        raise UsageError(f"{path} is not a task of mercure's") from None
    for name, value in found.items():
        if name not in SETTINGS:
            raise UsageError(f"{path}: unknown setting {name}; use {', '.join(SETTINGS)}")
        given = float if type(value) is int else type(value)
        if given not in SETTINGS[name]:
            kinds = " or a ".join(kind.__name__ for kind in SETTINGS[name])
            raise UsageError(f"{path}: {name} = {value!r} must be a {kinds}")
    return found
