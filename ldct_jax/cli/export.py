"""``ldct export``: a checkpoint as StableHLO, ONNX or safetensors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from ldct_jax.cli.options import code_option

FORMATS = {"stablehlo": ".stablehlo", "onnx": ".onnx", "safetensors": ".safetensors"}


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(list(FORMATS)), help="Repeatable [all]."
)
@click.option("--size", metavar="HxW", help="Slice size, or 'any' [StableHLO: any; ONNX: 512x512].")
@click.option(
    "--check", type=click.Path(path_type=Path), help="Real slices to verify with: DICOM or .npy."
)
@click.option("--overwrite", is_flag=True, help="Replace files in OUT.")
@click.option("--latency", is_flag=True, help="Time a slice in JAX, StableHLO and onnxruntime.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@code_option
def export(run, out, formats, size, check, overwrite, latency, as_json):
    """Write the checkpoint RUN as artefacts into the folder OUT, each verified while it is made.

    RUN may also be the name of the model that ships.

    model.stablehlo (+ .json) runs where jax is, on CPU, CUDA and TPU; model.onnx runs in
    onnxruntime; both map HU to HU. model.safetensors (+ .json) holds the parameters.

    \b
    Example:
      ldct export runs/pcn_ablation/full-pcn exported --format onnx
    """
    from ldct_jax.denoise.models import SHIPPED
    from ldct_jax.errors import UsageError
    from ldct_jax.system import accelerator

    sides = _size(size)
    run = SHIPPED.get(str(run), run)
    targets = {f: out / f"model{FORMATS[f]}" for f in formats or FORMATS}
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: OUT is a folder")
    for target in targets.values():
        if target.exists() and not overwrite:
            raise UsageError(f"{target} exists: choose another OUT folder, or say --overwrite")
    if not run.exists():
        names = ", ".join(SHIPPED)
        raise UsageError(f"{run} doesn't exist: give a run folder, a checkpoint in it, or {names}")
    accelerator.start()
    from ldct_jax.export.source import Source

    source = Source.open(run)
    done = {}
    if not as_json:
        click.echo(f"checkpoint sha256 {source.digest[:16]}…")
    for name, target in targets.items():
        card = _export(name, source, target, sides, check)
        worst = max(card.verified.values())
        done[name] = {"file": str(target), "bytes": target.stat().st_size, "largest_hu": worst}
        if not as_json:
            click.echo(
                f"{target}: {target.stat().st_size:,} bytes, verified on "
                f"{', '.join(card.verified)}: largest difference {worst:.2g} HU"
            )
    if latency:
        from ldct_jax.export.latency import measure, table

        measured = measure(source, size=sides or (512, 512))
        done["latency"] = measured
        if not as_json:
            click.echo(table(measured))
    if as_json:
        click.echo(json.dumps(done, indent=1))


def _export(name: str, source, target: Path, size, check):
    from ldct_jax.export import onnx_model, stablehlo, tensors

    if name == "safetensors":
        return tensors.export(source, target, check=check)
    if name == "stablehlo":
        return stablehlo.export(source, target, size=size or None, check=check)
    # Networks whose layers don't pad lose pixels, which ONNX shapes can't say for any size.
    size = (512, 512) if size is None else size or None
    return onnx_model.export(source, target, size=size, check=check)


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
