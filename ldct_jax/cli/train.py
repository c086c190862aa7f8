"""``ldct train``: run an experiment and write its report."""

from __future__ import annotations

from pathlib import Path

import click

from ldct_jax.cli.options import code_option


@click.command()
@click.argument("experiment", metavar="EXP")
@click.option("--data", metavar="DATA", help="DICOM folders, a store, or 'sample' [embedded data].")
@click.option("--scale", metavar="SCALE", default="demo", show_default=True, help="demo or paper.")
@click.option("--variant", "variants", multiple=True, help="Only this variant (repeatable).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs [runs/EXP].")
@click.option("--init", type=click.Path(path_type=Path), help="Start from this checkpoint or run.")
@click.option("--dose", type=float, default=0.25, show_default=True, help="Simulated dose.")
@click.option("--domain", default="projection", show_default=True, help="... or image: faster.")
@click.option("--added-sd", type=float, help="Noise that the simulated low dose adds, HU.")
@click.option("--seeds", type=int, default=1, show_default=True, help="Trainings of each variant.")
@click.option("--feed", default="auto", show_default=True, help="auto, resident or grain.")
@click.option("--profile", is_flag=True, help="Write a jax.profiler trace into each run folder.")
@click.option(
    "--distributed",
    is_flag=True,
    help="One of several processes (SLURM, Open MPI, Kubernetes, TPU pods; docs/many_devices.md).",
)
@code_option
def train(
    experiment,
    data,
    scale,
    variants,
    settings,
    out,
    init,
    dose,
    domain,
    added_sd,
    seeds,
    feed,
    profile,
    distributed,
):
    """Train the variants of EXP, evaluate them, and write a report.

    EXP is an experiment's name (see `ldct experiments`) or a Python file that defines STUDY.
    A run that was interrupted goes on where it stopped; finished ones are kept.

    \b
    Example:
      ldct train pcn_ablation --set epochs=4 --variant "full PCN"
    """
    from ldct_jax.data.simulate import LowDose
    from ldct_jax.errors import UsageError
    from ldct_jax.study.scripts import load_study
    from ldct_jax.system import accelerator

    study = load_study(experiment)
    from ldct_jax.report import write
    from ldct_jax.study.run import run_study
    from ldct_jax.study.study import Request, chosen_variants

    low = LowDose(fraction=dose, domain=domain, added_sd_hu=added_sd)
    request = Request(
        scale=scale,
        out=out or Path("runs") / study.name,
        variants=variants,
        settings=tuple(s for setting in settings for s in setting.split()),
        init=init,
        profile=profile,
        feed=feed,
        seeds=seeds,
        command=_command(study.name, data, scale, variants, settings, seeds, low),
    )
    chosen_variants(study, request)  # wrong names fail before anything is loaded
    if init is not None and not init.exists():
        raise UsageError(f"INIT={init} doesn't exist: name a run folder or a checkpoint in it")
    accelerator.start(distributed=distributed)
    path = run_study(study, request, _loader(study, data, low), write)
    if accelerator.is_first():
        click.echo(f"report: {path}")


def _loader(study, data: str | None, low):
    """A function of the scale that loads the data, late: after the settings were checked."""
    if study.data is not None:
        return lambda scale: study.data(scale, data)

    def embedded(scale):
        from ldct_jax.data.embedded import phantom_pairs

        if scale.all_doses:
            return phantom_pairs(scale.phantoms, scale.all_doses, scale.dose_rule)
        return phantom_pairs(scale.phantoms)

    def given(scale):
        from ldct_jax.data.source import load_doses, load_pairs
        from ldct_jax.system.accelerator import cache_folder

        cache = cache_folder() / "stores"
        if scale.all_doses:
            return load_doses(
                data,
                doses=scale.all_doses,
                rule=scale.dose_rule,
                most_slices=scale.most_slices,
                cache=cache,
            )
        return load_pairs(data, low=low, cache=cache)

    return embedded if data is None else given


def _command(name: str, data, scale, variants, settings, seeds: int, low) -> str:
    """The command as it goes into reports: a path the user named is not repeated there."""
    words = ["make", "train", f"EXP={name}"]
    if data is not None:
        words.append("DATA=" + (data if data == "sample" else "…"))
    if scale != "demo":
        words.append(f"SCALE={scale}")
    words += [f"VARIANT={v!r}" for v in variants]
    if settings:
        words.append(f'SET="{" ".join(settings)}"')
    if seeds > 1:
        words.append(f"SEEDS={seeds}")
    if data is not None and low != type(low)():
        options = {"--dose": low.fraction, "--domain": low.domain, "--added-sd": low.added_sd_hu}
        given = " ".join(f"{k} {v}" for k, v in options.items() if v is not None)
        words.append(f"ARGS='{given}'")
    return " ".join(words)
