"""What a command will run, settled and checked before anything is simulated or trained."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.hu import Window
from ldct_jax.metrics.protocols import Protocol
from ldct_jax.record import short_name
from ldct_jax.study import results
from ldct_jax.study.data import Cohort, cohort
from ldct_jax.study.experiment import Experiment, Scale
from ldct_jax.study.scripts import own_record
from ldct_jax.study.settings import override
from ldct_jax.study.shapes import check_shapes
from ldct_jax.study.study import Request, Study, slug
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.initial import why_not
from ldct_jax.user_script import names_own, own_errors

SCALE, IMAGES = "scale.", "images."


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a request. ``init``: what INIT is and which rows start from it; None without.

    ``splits`` has one entry a repeat: each split of the cohort, once for every seed asked for.
    """

    study: Study
    request: Request
    scale: Scale
    experiments: dict[str, Experiment]
    cohort: Cohort
    init: dict | None

    @property
    def splits(self) -> list:
        return list(self.cohort.splits) * self.request.seeds

    @property
    def window(self) -> Window:
        return next(iter(self.experiments.values())).window

    @property
    def protocol(self) -> Protocol:
        return self.study.protocol(self.window)

    @property
    def folder(self) -> Path:
        return self.request.folder(self.study)

    def run_folder(self, name: str, repeat: int = 0) -> Path:
        """Where the training of a row with its seed goes."""
        return self.folder / (slug(name) if repeat == 0 else f"{slug(name)}.repeat{repeat + 1}")


def chosen(study: Study, request: Request) -> tuple[Scale, dict[str, Experiment]]:
    """The scale and the variants asked for, settings applied.

    Raises UsageError for unknown names and keys, and for rows of one table with several windows.
    """
    every = study.rows(request.scale)
    if not every:
        raise UsageError(
            f"{study.name} has no variants: give it at least one, such as "
            "variants={'mine': Experiment(Mine())}"
        )
    slugs = {slug(name): name for name in every}
    wanted = []
    for name in request.variants:
        if slug(name) not in slugs:
            raise UsageError(f"unknown variant {name!r}: use one of {', '.join(every)}")
        wanted.append(slugs[slug(name)])
    scale = study.scales[request.scale]
    for_scale = [s for s in request.settings if s.startswith(SCALE)]
    for setting in for_scale:
        scale = override(scale, setting.removeprefix(SCALE))
    if for_scale:
        scale = dataclasses.replace(scale, words=f"{scale.words}; changed: {', '.join(for_scale)}")
    settings = [s for s in request.settings if not s.startswith(SCALE)]
    # In the study's order: a row may start from one that stands before it.
    rows = {name: row for name, row in every.items() if not wanted or name in wanted}
    # What is said of photographs is said of the rows that train on them, where there are any.
    photographs = [s for s in settings if s.startswith(IMAGES)]
    if any(e.images is not None for e in rows.values()):
        settings = [s for s in settings if s not in photographs]
        rows = {n: e.with_overrides(photographs if e.images else ()) for n, e in rows.items()}
    rows = {name: experiment.with_overrides(settings) for name, experiment in rows.items()}
    if len({experiment.window for experiment in rows.values()}) > 1:
        raise UsageError(f"the rows of {study.name} have several windows: one table needs one")
    if scale.validation_patients == 0 and study.split is None:
        _validated(rows)
    return scale, rows


def _validated(rows: dict[str, Experiment]) -> None:
    for name, experiment in rows.items():
        if experiment.select == "best":
            raise UsageError(
                f"{name}: select=best needs a validation patient, and this scale has none: "
                "--set scale.validation_patients=1, or select=last"
            )


@own_errors("while the study was planned")
def make_plan(study: Study, request: Request) -> Plan:
    """Settle what ``request`` will run.

    Raises UsageError, DataError or CheckpointError for whatever can be known now to go wrong.
    """
    scale, rows = chosen(study, request)
    found = cohort(study, scale, request)
    if not all(split.validation for split in found.splits):
        _validated(rows)
    rows = {name: experiment.fit(*found.matrix) for name, experiment in rows.items()}
    for name, experiment in rows.items():
        # The package's own rows, as they stand, are known to work.
        if request.settings or names_own(experiment.record()) or own_record(study):
            check_shapes(name, experiment, found.matrix)
    init = None if request.init is None else _init(request.init, rows, found)
    return Plan(study, request, scale, rows, found, init)


def _init(path: Path, rows: dict[str, Experiment], found: Cohort) -> dict:
    """What INIT is, and the rows it fits; refused where it saw a patient who is tested now."""
    source, _, theirs, meta = load_model(path)
    reasons = {n: why_not(e.model, e.window, source, theirs) for n, e in rows.items()}
    fits = [name for name, reason in reasons.items() if not reason]
    if not fits:
        raise CheckpointError(f"INIT={path} holds {next(iter(reasons.values()))}")
    seen = _patients_of(path, meta["record"])
    tested = sorted({p for split in found.splits for p in split.test})
    if leaked := sorted(set(tested) & set(seen or ())):
        raise CheckpointError(
            f"INIT={path} was trained on {', '.join(leaked)}, tested here: its scores would be too "
            "good; choose another INIT, or the split it was trained with"
        )
    if seen is None:
        print(
            f"warning: INIT={path.name} doesn't say on which patients it was trained: make sure "
            "that none of them is tested here",
            file=sys.stderr,
        )
    if len(fits) < len(rows):
        others = ", ".join(name for name in rows if name not in fits)
        print(f"INIT={path.name} fits {', '.join(fits)}; from scratch: {others}", file=sys.stderr)
    return {
        "rows": fits,
        "model": short_name(meta["record"]["model"]["type"]),
        "sha256": meta["digest"],
        "step": meta.get("step"),
        "patients": seen,
    }


def _patients_of(path: Path, record: dict) -> list[str] | None:
    """The patients whom a run was trained or validated on; None where nothing says it."""
    split = record.get("split")
    for folder in (path, *path.parents)[:5]:
        if split is None and (folder / results.STUDY).is_file() and "repeat" in record:
            splits = results.read_json(folder / results.STUDY)["splits"]
            split = splits[record["repeat"]] if record["repeat"] < len(splits) else None
    return None if split is None else [*split["train"], *split["validation"]]
