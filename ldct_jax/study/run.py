"""Run a study: its variants, one after the other, each resumable, and the report at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ldct_jax.data import vgg as fetched
from ldct_jax.data.feed.choose import make_feed
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.splits import Split, random_split
from ldct_jax.errors import CheckpointError, NumericsError
from ldct_jax.models import vgg
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.record import check_code, difference, names_own, script_record, to_record
from ldct_jax.study import results
from ldct_jax.study.examine import Examiner
from ldct_jax.study.experiment import Experiment, Scale
from ldct_jax.study.scripts import keep_script, own_record
from ldct_jax.study.study import Request, Study, chosen_variants, slug
from ldct_jax.system import provenance
from ldct_jax.system.files import locked
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.mesh import DataParallel
from ldct_jax.train.run import train
from ldct_jax.train.signals import StopRequest


def run_study(
    study: Study,
    request: Request,
    data: Callable[[Scale], PairedSlices],
    report: Callable[[Study, Path], Path],
) -> Path:
    """Train what is missing, evaluate it, and write the report; returns the report's path.

    report: writes a study's report from a folder, ldct_jax.report.write.
    Finished runs are not run again. A variant whose numbers fail doesn't keep the others from
    running: the report is written without it, and NumericsError names it at the end.
    """
    began = time.monotonic()
    experiments = chosen_variants(study, request)
    scale = study.scales[request.scale]
    out = request.out

    # Of several processes all train, and the first alone writes what is not a checkpoint.
    parallel = DataParallel()
    with contextlib.ExitStack() as stack, StopRequest().watching() as stop:
        parallel.first(lambda: stack.enter_context(locked(out)))
        if any(vgg.needs_fetched(experiment.loss) for experiment in experiments.values()):
            parallel.in_turn(fetched.fetch)
        for experiment in experiments.values():
            parallel.check_batch(experiment.patches.batch)
        pairs = parallel.in_turn(lambda: data(scale))
        splits = _splits(study, scale, pairs) * request.seeds
        wall = {"data": time.monotonic() - began}
        session = _Session(study, request, scale, pairs, splits, parallel, stop)
        session.describe(wall)
        failed = session.run_all(experiments)
        began_report = time.monotonic()
        parallel.first(lambda: report(study, out) and None)
        session.describe({**wall, "report": time.monotonic() - began_report})
    if failed:
        raise NumericsError(f"{len(failed)} of {len(experiments)} runs failed: {'; '.join(failed)}")
    return out / "report.html"


def _splits(study: Study, scale: Scale, pairs: PairedSlices) -> list[Split]:
    if study.split is not None:
        return [study.split(pairs)]
    return random_split(
        pairs.patient_names,
        n_test=scale.test_patients,
        n_validation=scale.validation_patients,
        repeats=scale.repeats,
        seed=0,
    )


@dataclasses.dataclass
class _Session:
    study: Study
    request: Request
    scale: Scale
    pairs: PairedSlices
    splits: Sequence[Split]
    parallel: DataParallel
    stop: StopRequest

    def __post_init__(self):
        self.examiner = Examiner(self.study, self.scale, self.pairs)
        self._feeders: dict = {}
        self._data_digest = self.pairs.digest()
        self.parallel.check_equal(int(self._data_digest[:7], 16), "data")

    # ---- what all runs share --------------------------------------------------------------------

    def describe(self, wall: dict[str, float]) -> None:
        """Write ``study.json``: data, splits, reference rows, provenance."""
        self.parallel.first(lambda: self._describe(wall))

    def _describe(self, wall: dict[str, float]) -> None:
        path = self.request.out / results.STUDY
        old = results.read_json(path) if path.exists() else {}
        if old and old["data"]["sha256"] != self._data_digest:
            raise CheckpointError(
                f"{self.request.out} holds runs on other data ({old['data']['source']}): choose "
                "another OUT= folder, or remove it"
            )
        splits = [dataclasses.asdict(s) for s in self.splits]
        kept = json.loads(json.dumps(splits))  # as JSON has it, lists for tuples
        if old and old["splits"][: len(kept)] == kept:
            splits = old["splits"]  # runs with more seeds stay
        else:
            splits = kept
        scale = json.loads(json.dumps(dataclasses.asdict(self.scale)))
        # The same patients, slices and doses: what the filters gave stands.
        known = "references" in old and old["splits"] == splits and old["scale"] == scale
        every = self.study.rows(self.request.scale)
        window = next(iter(every.values())).window
        protocol = self.study.protocol(window)
        keep_script(own_record(self.study), self.request.out)
        results.write_json(
            path,
            {
                "study": self.study.name,
                "title": self.study.title,
                "reproduces": self.study.reproduces,
                "scale": dataclasses.asdict(self.scale),
                "variants": list(every),
                "window": to_record(window),
                "protocol": protocol.name,
                "protocol_record": to_record(protocol),
                "data": {
                    "source": self.pairs.source,
                    "attribution": self.pairs.attribution,
                    "patients": len(self.pairs.patient_names),
                    "slices": len(self.pairs),
                    "matrix": list(self.pairs.low_hu.shape[1:]),
                    "pixel_mm": float(np.median(self.pairs.pixel_mm)),
                    "doses": list(self.scale.doses),
                    "sha256": self._data_digest,
                },
                "splits": splits,
                "code": own_record(self.study),
                **(
                    {k: old[k] for k in ("references", "reference_numbers", "reference_quality")}
                    if known
                    else self.examiner.references(self.splits, protocol)
                ),
                "command": self.request.command,
                "versions": provenance.versions(),
                "device": provenance.device(),
                "revision": provenance.revision(),
                "wall_s": {**old.get("wall_s", {}), **wall},
            },
        )

    def _trained(self, pairs: PairedSlices) -> PairedSlices:
        """The slices at the doses that are trained on."""
        doses = self.scale.training_doses or self.scale.doses or pairs.dose_levels
        return concatenate([pairs.at(d) for d in doses])

    def _feeder(self, repeat: int, split: Split, experiment: Experiment):
        """One feeder for all variants that see the same patches: its slices stay on the device."""
        patches = experiment.patches
        if experiment.gan is not None:
            # The critic's steps share one large batch, see ldct_jax.train.gan.
            patches = dataclasses.replace(patches, batch=patches.batch * experiment.gan.n_critic)
        # Photographs get their HU from the window; CT has its own.
        window = None if experiment.images is None else experiment.window
        key = (repeat, patches, experiment.seed, experiment.images, window)
        if key not in self._feeders:
            if experiment.images is None:
                train_pairs = self._trained(self.pairs.of(split.train))
            else:
                train_pairs = experiment.images.pairs(experiment.window)
            if patches.slices_per_patient is not None:
                train_pairs = train_pairs.sample(patches.slices_per_patient, experiment.seed)
            if experiment.images is None and self.scale.training_crop is not None:
                train_pairs = train_pairs.central(*self.scale.training_crop)
            columns = self.parallel.columns(patches.batch)
            feeder = make_feed(
                self.request.feed,
                train_pairs,
                patches,
                experiment.seed,
                columns,
                self.parallel.agree,
            )
            self._feeders = {key: feeder}
        return self._feeders[key]

    # ---- the runs -------------------------------------------------------------------------------

    def run_all(self, experiments: dict[str, Experiment]) -> list[str]:
        """Run every variant on every split; returns what failed, in words."""
        jobs = [(r, s, n, e) for r, s in enumerate(self.splits) for n, e in experiments.items()]
        failed = []
        for i, (repeat, split, name, experiment) in enumerate(jobs):
            title = name if len(self.splits) == 1 else f"{name}, repeat {repeat + 1}"
            title = f"[{i + 1}/{len(jobs)}] {title}"
            folder = self.request.out / _run_name(name, repeat)
            own = experiment.but(
                seed=experiment.seed + repeat,
                patches=experiment.patches.fit(*self.pairs.low_hu.shape[1:]),
            )
            try:
                self._run(title, folder, name, repeat, split, own)
            except NumericsError as error:
                print(f"failed: {error}", file=sys.stderr)
                failed.append(str(error))
        return failed

    def _run(self, title, folder, name, repeat, split, experiment: Experiment) -> None:
        record = self._record(experiment, repeat, folder)
        if self.parallel.first(lambda: self._finished(title, folder, record)):
            return
        feeder = self._feeder(repeat, split, experiment)
        slices = WholeSlices(experiment.model, experiment.window)
        outcome = train(
            experiment,
            feeder,
            folder,
            record=record,
            parallel=self.parallel,
            init_from=self._init(experiment, repeat),
            monitor=self.examiner.monitor(slices, split),
            monitor_every=self.scale.monitor_every,
            looks=self.scale.looks,
            stop=self.stop,
            name=title,
            profile=self.request.profile,
        )
        self.stop.check()
        variables = self.parallel.own(outcome.variables)
        if experiment.select == "best":
            best = folder / "checkpoints" / "best"
            variables = self.parallel.in_turn(lambda: load_model(best)[1])
        self.parallel.first(
            lambda: self._evaluate(folder, name, repeat, split, record, slices, outcome, variables)
        )
        self.stop.check()

    def _finished(self, title: str, folder: Path, record: dict) -> bool:
        """Whether the run in ``folder`` is done; begins it by its ``config.json`` otherwise."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / results.RESULT).exists():
            self._same(folder, results.read_json(folder / results.RESULT)["record"], record)
            print(f"{title}: finished before, kept", file=sys.stderr)
            return True
        if (folder / "config.json").exists():
            self._same(folder, results.read_json(folder / "config.json")["record"], record)
        keep_script(record.get("code"), folder)
        results.write_json(
            folder / "config.json",
            {
                "record": record,
                "versions": provenance.versions(),
                "device": provenance.device(),
                "revision": provenance.revision(),
                "command": self.request.command,
            },
        )
        return False

    def _evaluate(
        self, folder, name, repeat, split, record, slices, outcome, variables: dict
    ) -> None:
        """Score the test slices and write the run's result."""
        began = time.monotonic()
        found, samples = self.examiner.result(variables, slices, split)
        np.savez_compressed(folder / results.SAMPLES, **samples)
        seconds = dict(outcome.seconds)
        seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.monotonic() - began
        results.write_json(
            folder / results.RESULT,
            {
                "variant": name,
                "repeat": repeat,
                "record": record,
                "parameters": sum(np.size(x) for x in _leaves(variables["params"])),
                "steps": outcome.steps,
                "skipped": outcome.skipped,
                "best_validation_psnr": outcome.best,
                **found,
                "seconds": seconds,
            },
        )

    def _init(self, experiment: Experiment, repeat: int) -> Path | None:
        if self.request.init is not None or experiment.starts_from is None:
            return self.request.init
        source = self.request.out / _run_name(experiment.starts_from, repeat)
        if not (source / results.RESULT).exists():
            raise NumericsError(
                f"{experiment.starts_from} has to be trained first, and has no finished run"
            )
        return source / "checkpoints" / ("best" if experiment.select == "best" else "last")

    def _record(self, experiment: Experiment, repeat: int, folder: Path) -> dict:
        init = self._init(experiment, repeat)
        record = {
            "experiment": experiment.record(),
            "study": self.study.name,
            "scale": self.scale.name,
            "repeat": repeat,
            "data": {"source": self.pairs.source, "sha256": self._data_digest},
            "init": None if init is None else load_model(init)[3]["digest"],
        }
        if names_own(record["experiment"]):
            record["code"] = script_record()
        begun = folder / "config.json"
        if begun.exists() and "trained_on" not in results.read_json(begun)["record"]:
            return record  # begun before ranges were recorded: it goes on as it began
        trained_on = None
        if experiment.images is None:
            doses = self.scale.training_doses or self.scale.doses
            trained_on = self.pairs.trained_on(self.splits[repeat].train, doses)
        return {**record, "trained_on": trained_on}

    def _same(self, folder: Path, found: dict, wanted: dict) -> None:
        if where := difference({**found, "code": None}, {**wanted, "code": None}):
            raise CheckpointError(
                f"{folder} was run with other settings ({where}): choose another OUT= folder, or "
                "remove it"
            )
        check_code(found.get("code"))


def _run_name(variant: str, repeat: int) -> str:
    return slug(variant) if repeat == 0 else f"{slug(variant)}.repeat{repeat + 1}"


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)
