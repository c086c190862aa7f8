"""``ldct export``: a checkpoint as StableHLO, ONNX, safetensors, or a package of all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from ldct_jax.cli.options import code_option

PACKAGE = "package"
FORMATS = {"stablehlo": ".stablehlo", "onnx": ".onnx", "safetensors": ".safetensors"}


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice([*FORMATS, PACKAGE]),
    help="Repeatable [all three files].",
)
@click.option("--size", metavar="HxW", help="Slice size, or 'any' [StableHLO: any; ONNX: 512x512].")
@click.option(
    "--check", type=click.Path(path_type=Path), help="Real slices to verify with: DICOM or .npy."
)
@click.option(
    "--licence", type=click.Path(path_type=Path), help="Text for a package's weights [Apache-2.0]."
)
@click.option("--overwrite", is_flag=True, help="Replace files in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@code_option
def export(run, out, formats, size, check, licence, overwrite, as_json):
    """Write the checkpoint RUN as artefacts into the folder OUT, each verified while it is made.

    RUN may also be the name of the model that ships.

    model.stablehlo (+ .json) runs where jax is, on CPU, CUDA and TPU; model.onnx runs in
    onnxruntime; both map HU to HU. model.safetensors (+ .json) holds the parameters. A package is
    a folder for others: all three, a model card, an example image and script, licence and digests;
    `ldct denoise --model` takes it.

    \b
    Example:
      ldct export runs/pcn_ablation/full-pcn exported --format onnx
    """
    from ldct_jax.errors import UsageError
    from ldct_jax.shipped import SHIPPED
    from ldct_jax.system import accelerator

    sides = _size(size)
    run = SHIPPED.get(str(run), run)
    if PACKAGE in formats and len(formats) > 1:
        raise UsageError("--format package holds all three files: name it alone")
    if licence and PACKAGE not in formats:
        raise UsageError("--licence is for --format package")
    names = FORMATS if PACKAGE in formats else formats or FORMATS
    targets = {f: out / f"model{FORMATS[f]}" for f in names}
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: OUT is a folder")
    there = [target.name for target in targets.values() if target.exists()]
    if PACKAGE in formats:
        from ldct_jax.export.package import in_the_way

        there = in_the_way(out)
    if there and not overwrite:
        raise UsageError(f"{out / there[0]} exists: choose another OUT folder, or say --overwrite")
    if not run.exists():
        names = ", ".join(SHIPPED)
        raise UsageError(f"{run} doesn't exist: give a run folder, a checkpoint in it, or {names}")
    accelerator.start()
    from ldct_jax.export.source import Source

    source = Source.open(run)
    done = {}
    if not as_json:
        click.echo(f"checkpoint sha256 {source.digest[:16]}…")
    if PACKAGE in formats:
        made = _package(source, run, out, sides, check, licence)
    else:
        made = ((f, _export(f, source, t, sides, check).verified) for f, t in targets.items())
    for name, verified in made:
        target, worst = targets[name], max(verified.values())
        done[name] = {"file": str(target), "bytes": target.stat().st_size, "largest_hu": worst}
        if not as_json:
            click.echo(
                f"{target}: {target.stat().st_size:,} bytes, verified on "
                f"{', '.join(verified)}: largest difference {worst:.2g} HU"
            )
    if as_json:
        click.echo(json.dumps(done, indent=1))


def _export(name: str, source, target: Path, size, check):
    from ldct_jax.export import onnx_model, stablehlo, tensors

    if name == "safetensors":
        return tensors.export(source, target, check=check)
    if name == "stablehlo":
        return stablehlo.export(source, target, size=size or None, check=check)
    return onnx_model.export(source, target, size=_onnx_size(size), check=check)


def _package(source, run: Path, out: Path, size, check, licence):
    from ldct_jax.export import package
    from ldct_jax.export.package import Facts
    from ldct_jax.shipped import SHIPPED
    from ldct_jax.study import results

    if run in SHIPPED.values():
        about = run.with_suffix(".md").read_text("utf-8").partition("\n")[2]
        facts = Facts.of_record(results.read_json(run.with_suffix(".json")) | {"about": about})
    else:
        facts = results.facts(run)
    verified = package.export(
        source,
        out,
        facts=facts,
        onnx_size=_onnx_size(size),
        size=size or None,
        check=check,
        licence=licence,
    )
    return ((Path(name).suffix[1:], found) for name, found in verified.items())


def _onnx_size(size) -> tuple[int, int] | None:
    # Networks whose layers don't pad lose pixels, which ONNX shapes can't say for any size.
    return (512, 512) if size is None else size or None


def _size(text: str | None) -> tuple[int, int] | tuple[()] | None:
    """(H, W); () for 'any'; None where nothing was said."""
    if text is None:
        return None
    if text.lower() == "any":
        return ()
    found = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text)
    if not found:
        raise click.UsageError(f"--size {text}: write it as 512x512, or any")
    return int(found[1]), int(found[2])
