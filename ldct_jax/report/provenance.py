"""How a report's numbers were made: data, splits, settings, versions, wall time."""

from __future__ import annotations

from ldct_jax.record import short_name
from ldct_jax.report import page
from ldct_jax.study.results import Results


def provenance(results: Results, protocol: str, data: str) -> page.Provenance:
    """Data, protocol, scale, versions, and where the wall time went; two captions are given."""
    study = results.study
    wall = {"data and set-up": study["wall_s"].get("data", 0.0)}
    for section in ("compile", "train", "evaluate", "save", "other"):
        wall[section] = sum(r.result["seconds"].get(section, 0.0) for r in results.runs)
    wall["report"] = study["wall_s"].get("report", 0.0)
    device = study["device"]
    every_split = (
        f"test {', '.join(s['test'])}, validation {', '.join(s['validation']) or 'none'}, "
        f"training {', '.join(s['train'])}"
        for s in study["splits"]
    )
    splits = "; ".join(dict.fromkeys(every_split))  # several seeds share one
    started = begun(results)
    experiment = results.runs[0].result["record"]["experiment"]
    optimizer, patches = experiment["optimizer"], experiment["patches"]
    return page.Provenance(
        data=data,
        protocol=protocol,
        scale=f"{study['scale']['name']}: {study['scale']['words']}",
        commands=[study["command"]],
        versions={**study["versions"], "source revision": study["revision"]},
        device=(
            f"{device['count']} × {device['kind']} ({device['backend']}), {device['cpu']}, "
            f"{device['cores']} cores"
        ),
        wall_seconds=wall,
        extra={
            "split by patient": splits,
            "training": (
                f"first row: {_length(experiment)}, batch {patches['batch']}, patches of "
                f"{patches['size']}x{patches['size']} {_places(patches)}, {_call(optimizer)}; "
                f"{_seeds(results)}; tables use the "
                f"{experiment['select']} checkpoint"
            ),
            **({"begun with other parameters": started} if started else {}),
        },
    )


def begun(results: Results) -> str:
    """The rows whose first seed began with other parameters, and the digest of these; or ''."""
    digests = {
        r.variant: r.result.get("record", {}).get("init") for r in results.runs if r.repeat == 0
    }
    return "; ".join(f"{row} from sha256 {sha[:16]}" for row, sha in digests.items() if sha)


def scored_steps(results: Results) -> str:
    """The training step whose parameters the tables score; '' for runs that didn't note it."""
    steps: dict[str, list[int]] = {}
    for run in results.runs:
        if (step := run.result.get("scored_step")) is not None:
            found = steps.setdefault(run.variant, [])
            found += [] if step in found else [step]
    if not steps:
        return ""
    each = {row: " and ".join(f"{step:,}" for step in found) for row, found in steps.items()}
    if len(set(each.values())) == 1 and len(each) == len(results.variants):
        return f"every row {next(iter(each.values()))}"
    return "; ".join(f"{row}: {step}" for row, step in each.items())


def _length(experiment: dict) -> str:
    # Runs from before trainings were counted in steps have no such key.
    return next(f"{n} {unit}" for unit in ("steps", "epochs") if (n := experiment.get(unit)))


def _places(patches: dict) -> str:
    if per_slice := patches.get("per_slice"):
        return f"at {per_slice} random places a slice"
    return f"at stride {patches['stride']}"


def _seeds(results: Results) -> str:
    seeds = sorted({run.result["record"]["experiment"]["seed"] for run in results.runs})
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _call(record) -> str:
    """A record as the constructor call it stands for."""
    if not isinstance(record, dict):
        return repr(record)
    parts = ", ".join(f"{k}={_call(v)}" for k, v in record.items() if k != "type")
    return f"{short_name(record.get('type', ''))}({parts})"
