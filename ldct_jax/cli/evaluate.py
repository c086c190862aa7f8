"""``ldct evaluate``: score a checkpoint, an artefact or a filter on pairs of images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ldct_jax.cli.options import code_option


@click.command()
@click.argument("low", type=click.Path(path_type=Path))
@click.argument("full", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Run folder, checkpoint, artefact, filter, identity.")
@click.option("--protocol", "protocols", multiple=True, help="Named protocol [pcn]; repeatable.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all rows here.")
@code_option
def evaluate(low, full, model, protocols, json_path):
    """Compare MODEL's images of LOW with FULL, slice by slice and patient by patient.

    LOW and FULL are DICOM folders or files, NIfTI, .npy in HU, or one paired store named twice.
    The low dose as it is and a Gaussian blur are scored beside the model.

    \b
    Example:
      ldct evaluate low/ full/ --model runs/pcn_ablation/full-pcn --protocol mayo-abdomen
    """
    from ldct_jax.denoise.compare import compare, read_pairs
    from ldct_jax.loading import load
    from ldct_jax.metrics.protocols import named
    from ldct_jax.system import accelerator

    chosen = [named(name) for name in protocols or ("pcn",)]
    accelerator.start()
    denoiser = load(model)
    pairs = read_pairs(low, full)
    found = compare(pairs, denoiser, denoiser.name, chosen)
    click.echo(f"model {denoiser.name}, sha256 {denoiser.digest[:16]}…")
    for protocol in chosen:
        click.echo(f"protocol {protocol}")
        click.echo(f"{'method':<24} {'patient':<22} {'slice':>6} {'PSNR dB':>9} {'SSIM':>8} RMSE")
        for comparison in found:
            if comparison.summary.protocol == protocol:
                _print(comparison, protocol.unit)
    if json_path is not None:
        record = {
            "model": {"name": denoiser.name, "sha256": denoiser.digest},
            "source": pairs.source,
            "protocols": {p.name: str(p) for p in chosen},
            "slices": [row for c in found for row in c.rows],
            "summaries": [
                {"method": c.method, "protocol": c.summary.protocol.name, **c.summary.as_record()}
                for c in found
            ],
        }
        json_path.write_text(json.dumps(record, indent=1) + "\n")
        click.echo(f"written: {json_path}")


def _print(comparison, unit: str) -> None:
    for row in comparison.rows:
        click.echo(
            f"{comparison.method:<24} {row['patient']:<22} {row['slice']:>6} "
            f"{row['psnr_db']:>9.3f} {row['ssim']:>8.4f} {row['rmse']:.5g} {unit}"
        )
    for p in comparison.summary.patients:
        click.echo(
            f"{comparison.method:<24} {p.patient:<22} {'mean':>6} {p.psnr_db:>9.3f} "
            f"{p.ssim:>8.4f} {p.rmse:.5g} {unit}"
        )
    s = comparison.summary
    click.echo(
        f"{comparison.method:<24} {'all patients':<22} {'':>6} {s.psnr_db.text(3)} dB, SSIM "
        f"{s.ssim.text(4)}, RMSE {s.rmse.text(5)} {unit} (n = {len(s.patients)}, "
        f"{s.n_slices} slices)"
    )
