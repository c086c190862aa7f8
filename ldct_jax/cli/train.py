"""``ldct train``: run an experiment and write its report."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from ldct_jax.cli.options import code_option


@click.command()
@click.argument("experiment", metavar="EXP")
@click.option("--data", metavar="DATA", help="DICOM folders, a store, or 'sample' [embedded data].")
@click.option(
    "--scale", metavar="SCALE", default="demo", show_default=True, help="smoke, demo or paper."
)
@click.option("--variant", "variants", multiple=True, help="Only this variant (repeatable).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting: steps=200, model.n_filters=32, scale.test_slices=3.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs [runs/EXP].")
@click.option("--init", type=click.Path(path_type=Path), help="Start from this checkpoint or run.")
@click.option("--thickness", type=float, help="Only reconstructions of DATA of so many mm.")
@click.option("--kernel", help="Only reconstructions of DATA with this kernel.")
@click.option("--dose", type=float, help="Simulated dose [0.25].")
@click.option("--domain", help="Where it is simulated: projection, or image, faster [projection].")
@click.option("--added-sd", type=float, help="Noise that the simulated low dose adds, HU.")
@click.option("--seeds", type=int, default=1, show_default=True, help="Trainings of each variant.")
@click.option("--feed", default="auto", show_default=True, help="auto, resident or grain.")
@click.option("--profile", is_flag=True, help="Write a jax.profiler trace into each run folder.")
@click.option(
    "--distributed",
    is_flag=True,
    help="One of several processes (SLURM, Open MPI, Kubernetes, TPU pods; docs/many_devices.md).",
)
@click.option("--dry-run", is_flag=True, help="Say what would run, and how long, and stop.")
@click.option("--rate", type=float, metavar="TFLOP/S", help="For the hours of --dry-run.")
@click.option("--json", "as_json", is_flag=True, help="--dry-run for programs.")
@code_option
@click.pass_context
def train(
    context,
    experiment,
    data,
    scale,
    variants,
    settings,
    out,
    init,
    thickness,
    kernel,
    dose,
    domain,
    added_sd,
    seeds,
    feed,
    profile,
    distributed,
    dry_run,
    rate,
    as_json,
):
    """Train the variants of EXP, evaluate them, and write a report.

    EXP is an experiment's name (see `ldct experiments`) or a Python file that defines STUDY.
    Run the same command again to resume; finished runs are kept.

    \b
    Example:
      ldct train pcn_ablation --set steps=200 --variant "full PCN"
      ldct train pcn_ablation --scale paper --data /path/to/mayo --dry-run
    """
    from ldct_jax.errors import UsageError
    from ldct_jax.study.scripts import load_study
    from ldct_jax.system import accelerator

    study = load_study(experiment)
    from ldct_jax.data.simulate import LowDose
    from ldct_jax.report import verdict, write
    from ldct_jax.study.plan import chosen
    from ldct_jax.study.run import run_study
    from ldct_jax.study.study import Request

    settings = [s for setting in settings for s in setting.split()]
    for key, value in (("thickness_mm", thickness), ("kernel", kernel)):
        if value is not None and (data is None or study.data is not None):
            raise UsageError("--thickness and --kernel select among the series of --data")
        settings += [] if value is None else [f"scale.{key}={value}"]
    if (rate is not None or as_json) and not dry_run:
        raise UsageError("--rate and --json belong to --dry-run")
    simulated = {"fraction": dose, "domain": domain, "added_sd_hu": added_sd}
    simulated = {k: v for k, v in simulated.items() if v is not None}
    request = Request(
        scale=scale,
        out=out,
        data=data,
        low=LowDose(**simulated) if simulated else None,
        variants=variants,
        settings=tuple(settings),
        init=init,
        seeds=seeds,
        feed=feed,
        profile=profile,
        command=_command(context),
    )
    chosen(study, request)  # wrong names fail before anything is loaded
    if init is not None and not init.exists():
        raise UsageError(f"INIT={init} doesn't exist: name a run folder or a checkpoint in it")
    accelerator.start(distributed=distributed)
    if dry_run:
        from ldct_jax.study import dry_run as dry

        rows = dry.rows(study, request, rate)
        click.echo(json.dumps(rows, indent=1) if as_json else dry.text(rows))
        return
    folder = run_study(study, request, report=write)
    if accelerator.is_first():
        click.echo(verdict(folder))
        click.echo(f"report: {folder / 'report.html'}")


def _command(context: click.Context) -> str:
    """The command as it goes into reports, whole; where the user's files lie stays out of it."""
    words = ["ldct", "train"]
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if parameter.name is None or source is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params.get(parameter.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(parameter, click.Option):
                words.append(parameter.opts[0])
            if one is not True:
                words.append(shlex.quote(_shown(parameter.name, one)))
    return " ".join(words)


def _shown(name: str, value) -> str:
    path = Path(str(value))
    if name == "experiment":
        return path.name
    private = path.is_absolute() or ".." in path.parts or (name == "data" and value != "sample")
    return "…" if name in ("data", "out", "init", "code") and private else str(value)
