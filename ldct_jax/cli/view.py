"""``ldct view``: one self-contained page to look at images and to compare them."""

from __future__ import annotations

from pathlib import Path

import click

from ldct_jax.cli.options import Number

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("before", type=PATH)
@click.argument("after", type=PATH, nargs=-1)
@click.option("--out", type=PATH, default="view.html", show_default=True, help="The page.")
@click.option("--label", "labels", multiple=True, help="Name of an image on the page, in order.")
@click.option("--series", "number", type=int, help="SeriesNumber, or which of a store.")
@click.option("--slices", metavar="A:B", help="Only these slices, counted from 1.")
@click.option("--max-mb", type=Number(1), default=60.0, show_default=True, help="Largest page.")
@click.option("--overwrite", is_flag=True, help="Replace the page of an earlier run.")
def view(before, after, out, labels, number, slices, max_mb, overwrite):
    """Write a page that shows BEFORE, and compares it with each AFTER.

    Each is a DICOM file or folder of one series, a NIfTI file or .npy in HU; a store alone shows
    both its doses. The page scrolls, zooms, changes windows, has a movable border, the difference,
    and the statistics of a square. It is one file, needs no network, and holds pixels but no names
    and IDs (what is burnt into the pixels stays). Values are kept in steps of 1 HU, or of 2, 4 or 8
    where the page would be larger than --max-mb; the page says so.

    \b
    Example:
      ldct view scans/chest denoised/chest --out chest.html
    """
    from ldct_jax.errors import UsageError
    from ldct_jax.report.viewed import both_doses, check_same, read
    from ldct_jax.report.viewer import Viewer
    from ldct_jax.system.files import write_bytes
    from ldct_jax.system.names import printable
    from ldct_jax.system.progress import track

    if out.is_dir():
        raise UsageError(f"{out} is a folder: --out names the page, as view.html")
    if any(out.resolve() == path.resolve() for path in (before, *after)):
        raise UsageError(f"{out} is an input: --out names the page, as view.html")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists: choose another --out, or say --overwrite")

    def warn(text: str) -> None:
        click.echo(f"warning: {printable(text)}", err=True)

    stacks = both_doses(before, number, warn) if not after else None
    if stacks is None:
        first = read(before, number, warn)
        stacks = {"before" if after else "image": first}
        for i, path in enumerate(after):
            one = read(path, None, warn, like=first)
            check_same(first, one, path)
            # File names can hold a patient's name, so they aren't used.
            stacks["after" if len(after) == 1 else f"after {i + 1}"] = one
    if labels:
        if len(labels) != len(stacks) or len(set(labels)) < len(labels):
            raise UsageError(f"--label is given once for each of {len(stacks)} images, all unlike")
        stacks = dict(zip(labels, stacks.values(), strict=True))
    chosen = _slices(slices, len(next(iter(stacks.values())).hu))
    viewer = Viewer(
        {label: one.hu[chosen] for label, one in stacks.items()},
        caption="",
        max_megabytes=max_mb - 0.1,  # the program and the controls
        pixel_mm=next(iter(stacks.values())).pixel_mm,
        steps=(1, 2, 4, 8),
    )
    page = viewer.page(
        " · ".join(stacks), lambda shown: track(shown, "packing", "slices", len(shown))
    ).encode()
    write_bytes(out, page)
    click.echo(f"{printable(str(out))}: {len(page) / 1e6:.1f} MB")


def _slices(text: str | None, n: int) -> slice:
    if text is None:
        return slice(None)
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= n):
        raise click.UsageError(f"--slices {text}: write it as A:B within 1:{n}")
    return slice(int(first) - 1, int(last))
