"""``ldct evaluate``: score a checkpoint, an artefact or a filter on pairs of images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ldct_jax.cli.options import code_option, quality_option, shard_option, texture_option
from ldct_jax.system.names import counted


@click.command()
@click.argument("low", type=click.Path(path_type=Path))
@click.argument("full", type=click.Path(path_type=Path))
@click.option("--model", help="Checkpoint, artefact, or filter [the shipped model].")
@texture_option
@quality_option
@click.option("--protocol", "protocols", multiple=True, help="Named protocol [pcn]; repeatable.")
@click.option("--strict", is_flag=True, help="Refuse what would only be warned of.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all rows here.")
@shard_option
@code_option
def evaluate(low, full, model, texture, quality, protocols, strict, json_path, shard):
    """Compare MODEL's images of LOW with FULL, slice by slice and patient by patient.

    LOW and FULL are DICOM folders or files, NIfTI, .npy in HU, or one paired store named twice.
    The low dose as it is and a Gaussian blur are scored beside the model. What was left out is
    told, and if images were, the exit code is 1.

    \b
    Example:
      ldct evaluate low/ full/ --model runs/pcn_ablation/full-pcn --protocol mayo-abdomen
    """
    from ldct_jax.denoise.compare import compare, read_pairs
    from ldct_jax.denoise.models import find
    from ldct_jax.denoise.summary import model_line
    from ldct_jax.errors import DataError, UsageError
    from ldct_jax.metrics.protocols import named
    from ldct_jax.system import accelerator
    from ldct_jax.system.files import telling, write_bytes

    if shard.count > 1 and json_path is None:
        raise UsageError("--shard needs --json FILE: the parts' scores lie beside it")
    if json_path is not None and json_path.is_dir():
        raise UsageError(f"{json_path} is a folder: --json names the file, as scores.json")
    chosen = [named(name) for name in protocols or ("pcn",)]
    found = find(model).chosen(texture=texture, quality=quality)
    with read_pairs(low, full) as pairs:
        _tell(pairs.warnings, strict)
        if json_path is not None:  # a folder that can't be made is told before anything is scored
            with telling(json_path):
                json_path.parent.mkdir(parents=True, exist_ok=True)
        accelerator.start()
        denoiser = found.open()
        _tell(denoiser.doubts, strict)
        if shard.count == 1:
            scored = compare(pairs, denoiser, denoiser.name, chosen)
        else:
            parts, scored = _shared(pairs, denoiser, chosen, shard, json_path)
    if scored is None:
        click.echo(f"part {shard.index} of {shard.count} is done; the last one writes {json_path}")
        return
    click.echo(model_line(denoiser.name, denoiser.step, denoiser.digest))
    for protocol in chosen:
        click.echo(f"protocol {protocol}")
        of_this = [c for c in scored if c.summary.protocol == protocol]
        click.echo(_table(of_this, protocol))
        for comparison in of_this:
            click.echo(_sentence(comparison, protocol))
    if json_path is not None:
        record = {
            "model": {
                "name": denoiser.name,
                "sha256": denoiser.digest,
                "step": denoiser.step,
            },
            "source": pairs.source,
            "warnings": pairs.warnings,
            "protocols": {p.name: str(p) for p in chosen},
            "slices": [row for c in scored for row in c.rows],
            "summaries": [
                {"method": c.method, "protocol": c.summary.protocol.name, **c.summary.as_record()}
                for c in scored
            ],
        }
        write_bytes(json_path, (json.dumps(record, indent=1) + "\n").encode())
        if shard.count > 1:
            parts.remove()
        click.echo(f"written: {json_path}")
    if pairs.incomplete:
        raise DataError(f"{pairs.incomplete}; everything else was scored")


def _tell(warnings, strict: bool) -> None:
    from ldct_jax.errors import DataError

    for text in warnings:
        if strict:
            raise DataError(f"{text}; --strict refuses it")
        click.echo(f"warning: {text}", err=True)


def _shared(pairs, denoiser, protocols, shard, json_path: Path):
    """(parts, comparison or None while other processes have parts of it to do)."""
    from ldct_jax.denoise.compare import compared, score
    from ldct_jax.denoise.score_parts import ScoreParts
    from ldct_jax.errors import UsageError
    from ldct_jax.system.progress import Progress

    if not pairs.digest:
        raise UsageError("--shard shares a store: make one first (`ldct data prepare`)")
    of = {"pairs": pairs.digest, "model": denoiser.digest, "protocols": list(map(str, protocols))}
    parts = ScoreParts(json_path, len(pairs.series), protocols, of)
    mine = sum(len(s.low) for i, s in enumerate(pairs.series) if shard.takes(i))
    with Progress("evaluating", mine, "slices") as progress:

        def one(i: int):
            series = pairs.series[i]
            return score(series, denoiser, denoiser.name, protocols, advance=progress.advance)

        parts.score(shard, one)
    found = parts.all_of_them()
    return parts, None if found is None else compared(found, pairs, protocols)


def _table(comparisons, protocol) -> str:
    """A line a slice and patient."""
    from ldct_jax.system.tables import plain_table

    rows = []
    for comparison in comparisons:
        for row in comparison.rows:
            rows.append((comparison.method, row["patient"], str(row["slice"]), *_scores(row)))
        for patient in comparison.summary.patients:
            rows.append((comparison.method, patient.patient, "mean", *_scores(vars(patient))))
    rmse = "RMSE HU" if protocol.rmse_in_hu else f"RMSE (of {protocol.window.width:g} HU)"
    return plain_table(
        ("method", "patient", "slice", "PSNR dB", "SSIM", rmse), rows, right="  rrrr"
    )


def _scores(row: dict) -> tuple[str, str, str]:
    return f"{row['psnr_db']:.3f}", f"{row['ssim']:.4f}", f"{row['rmse']:.5g}"


def _sentence(comparison, protocol) -> str:
    s = comparison.summary
    unit = "HU" if protocol.rmse_in_hu else f"(of {protocol.window.width:g} HU)"
    return (
        f"{comparison.method}, all patients: {s.psnr_db.text(3)} dB, SSIM {s.ssim.text(4)}, RMSE "
        f"{s.rmse.text(5)} {unit} (n = {len(s.patients)}, {counted(s.n_slices, 'slice')})"
    )
