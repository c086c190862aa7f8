"""Run a study: its variants, one after the other, each resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

from ldct_jax.data import vgg as fetched
from ldct_jax.data.feed.choose import make_feed
from ldct_jax.data.pairs import concatenate
from ldct_jax.data.splits import Split
from ldct_jax.errors import CheckpointError, LdctError, NumericsError
from ldct_jax.models import vgg
from ldct_jax.models.catalogue import count
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.record import difference, to_record
from ldct_jax.study import results
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.folder import ANOTHER, check_begun, check_others
from ldct_jax.study.plan import Plan, make_plan
from ldct_jax.study.scoring import Scorer
from ldct_jax.study.scripts import keep_script, own_record
from ldct_jax.study.study import Request, Study
from ldct_jax.system import provenance
from ldct_jax.system.files import locked
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.mesh import DataParallel
from ldct_jax.train.run import train
from ldct_jax.train.signals import StopRequest
from ldct_jax.user_script import changed_code, check_code, names_own, script_record, warned

# What a finished run may differ in: the script's text, which is compared and said.
SAID = {"code": None}


def run_study(study: Study, request: Request | None = None, *, report=None) -> Path:
    """Train what is missing, evaluate it, and return the folder of the results.

    Everything that can be known to go wrong is said before anything is simulated or trained.
    Finished runs are not run again. A variant that fails doesn't keep the others from running;
    an error names it at the end.

    Args:
      request: what is asked for; None for the demo scale on phantoms.
      report: (study, folder) → the page, :func:`ldct_jax.report.write`; None for no page.
    """
    began = time.monotonic()
    request = Request() if request is None else request
    # Of several processes all train, and the first alone writes what is not a checkpoint.
    parallel = DataParallel()
    plan = parallel.in_turn(lambda: make_plan(study, request))
    for experiment in plan.experiments.values():
        parallel.check_batch(experiment.patches.batch)
    with contextlib.ExitStack() as stack, StopRequest().watching() as stop:
        parallel.first(lambda: stack.enter_context(locked(plan.folder)) and None)
        parallel.first(lambda: check_begun(plan))
        if any(vgg.needs_fetched(experiment.loss) for experiment in plan.experiments.values()):
            parallel.in_turn(fetched.fetch)
        session = _Session(plan, parallel, stop)
        wall = {"data": time.monotonic() - began}
        session.describe(wall)
        failed = session.run_all()
        there = list(plan.folder.glob(f"*/{results.RESULT}"))
        if report is not None and (there or not failed):
            began = time.monotonic()
            parallel.first(lambda: report(study, plan.folder) and None)
            session.describe({**wall, "report": time.monotonic() - began})
    if failed:
        kind = type(failed[0]) if len(failed) == 1 else NumericsError
        several = f"{len(failed)} of {session.n_jobs} runs failed: " if session.n_jobs > 1 else ""
        raise kind(several + "; ".join(map(str, failed)))
    return plan.folder


class _Session:
    """A plan with its slices loaded."""

    def __init__(self, plan: Plan, parallel: DataParallel, stop: StopRequest):
        self.plan, self.parallel, self.stop = plan, parallel, stop
        self.pairs = parallel.in_turn(plan.cohort.load)
        self.scorer = Scorer(plan.study, plan.scale, self.pairs)
        self.n_jobs = len(plan.splits) * len(plan.experiments)
        self._feeds: dict = {}
        self.parallel.check_equal(int(self.scorer.data_digest[:7], 16), "data")

    # ---- what all runs share --------------------------------------------------------------------

    def describe(self, wall: dict[str, float]) -> None:
        """Write ``study.json``: data, splits, reference rows, provenance."""
        self.parallel.first(lambda: self._describe(wall))

    def _describe(self, wall: dict[str, float]) -> None:
        plan, pairs = self.plan, self.pairs
        path = plan.folder / results.STUDY
        old = results.read_json(path) if path.exists() else {}
        if old and old["data"]["sha256"] != self.scorer.data_digest:
            raise CheckpointError(
                f"{plan.folder} holds runs on other data ({old['data']['source']}): {ANOTHER}"
            )
        if old and difference(old["protocol_record"], to_record(plan.protocol)):
            raise CheckpointError(
                f"{plan.folder} holds runs scored by another protocol ({old['protocol']}): "
                f"{ANOTHER}"
            )
        splits = json.loads(json.dumps([dataclasses.asdict(s) for s in plan.splits]))
        if old and old["splits"][: len(splits)] == splits:
            splits = old["splits"]  # runs with more seeds stay
        check_others(plan, self.scorer, [Split(**s) for s in splits])
        code = own_record(plan.study)
        keep_script(code, plan.folder)
        results.write_json(
            path,
            {
                "study": plan.study.name,
                "title": plan.study.title,
                "reproduces": plan.study.reproduces,
                "scale": dataclasses.asdict(plan.scale),
                "variants": list(plan.study.rows(plan.request.scale)),
                "window": to_record(plan.window),
                "protocol": plan.protocol.name,
                "protocol_record": to_record(plan.protocol),
                "data": {
                    "source": pairs.source,
                    "attribution": pairs.attribution,
                    "patients": len(pairs.patient_names),
                    "slices": len(pairs),
                    "matrix": list(pairs.low_hu.shape[1:]),
                    "pixel_mm": float(np.median(pairs.pixel_mm)),
                    "doses": list(plan.scale.doses),
                    "sha256": self.scorer.data_digest,
                },
                "splits": splits,
                "init": plan.init,
                "code": code,
                **self.scorer.references([Split(**s) for s in splits], plan.protocol, old),
                "command": plan.request.command,
                "versions": provenance.versions(),
                "device": provenance.device(),
                "revision": provenance.revision(),
                "wall_s": {**old.get("wall_s", {}), **wall},
            },
        )

    def _feed(self, repeat: int, split: Split, experiment: Experiment):
        """One feed for all variants that see the same patches: its slices stay on the device."""
        patches, scale = experiment.patches, self.plan.scale
        if experiment.gan is not None:
            # The critic's steps share one large batch, see ldct_jax.train.gan.
            patches = dataclasses.replace(patches, batch=patches.batch * experiment.gan.n_critic)
        images = experiment.images
        # Photographs are written as HU of the window, so other HU where it is another one.
        key = (repeat, patches, experiment.seed, images, images and experiment.window)
        if key not in self._feeds:
            if images is None:
                pairs = self.pairs.of(split.train)
                doses = scale.training_doses or scale.doses or pairs.dose_levels
                pairs = concatenate([pairs.at(d) for d in doses])
            else:
                pairs = images.pairs(experiment.window)
            if patches.slices_per_patient is not None:
                pairs = pairs.sample(patches.slices_per_patient, experiment.seed)
            if images is None and scale.training_crop is not None:
                pairs = pairs.central(*scale.training_crop)
            feed = make_feed(
                self.plan.request.feed,
                pairs,
                patches,
                experiment.seed,
                self.parallel.columns(patches.batch),
                self.parallel.agree,
            )
            self._feeds = {key: feed}
        return self._feeds[key]

    # ---- the runs -------------------------------------------------------------------------------

    def run_all(self) -> list[LdctError]:
        """Run every variant on every split; returns the errors of those that failed."""
        jobs = [
            (repeat, split, name, dataclasses.replace(experiment, seed=experiment.seed + repeat))
            for repeat, split in enumerate(self.plan.splits)
            for name, experiment in self.plan.experiments.items()
        ]
        for repeat, _, name, experiment in jobs:
            self.parallel.first(lambda r=repeat, n=name, e=experiment: self._check(r, n, e))
        failed = []
        for i, (repeat, split, name, experiment) in enumerate(jobs):
            title = name if len(self.plan.splits) == 1 else f"{name}, repeat {repeat + 1}"
            try:
                self._run(f"[{i + 1}/{len(jobs)}] {title}", repeat, split, name, experiment)
            except (NumericsError, CheckpointError) as error:
                if len(jobs) > 1:  # of one the end of the command tells
                    print(f"failed: {error}", file=sys.stderr)
                # Some say it with the repeat.
                told = any(f"{name}{end}" in str(error) for end in (": ", ", repeat "))
                failed.append(error if told else type(error)(f"{name}: {error}"))
        return failed

    def _check(self, repeat: int, name: str, experiment: Experiment) -> None:
        """Raise CheckpointError where the run's folder holds one with other settings."""
        folder = self.plan.run_folder(name, repeat)
        for file in (results.RESULT, "config.json"):
            if (folder / file).exists():
                found = results.read_json(folder / file)["record"]
                wanted = {**self._record(repeat, name, experiment), **SAID}
                if experiment.starts_from is not None:
                    found["init"] = None  # the digest of a row that may not be trained yet
                elif name in (self.plan.init or {}).get("rows", ()):
                    wanted["init"] = self.plan.init["sha256"]
                if where := difference({**found, **SAID}, wanted):
                    raise CheckpointError(
                        f"{folder} was run with other settings ({where}): {ANOTHER}"
                    )
                return

    def _run(self, title, repeat: int, split: Split, name: str, experiment: Experiment) -> None:
        folder = self.plan.run_folder(name, repeat)
        record = {
            **self._record(repeat, name, experiment),
            "init": self._init_digest(repeat, name, experiment),
        }
        if self.parallel.first(lambda: self._finished(title, folder, record, repeat)):
            return
        feed = self._feed(repeat, split, experiment)
        slices = WholeSlices(experiment.model, experiment.window)
        outcome = train(
            experiment,
            feed,
            folder,
            record=record,
            parallel=self.parallel,
            init_from=self._init(repeat, name, experiment),
            monitor=self.scorer.monitor(slices, split),
            monitor_every=self.plan.scale.monitor_every,
            looks=self.plan.scale.looks,
            stop=self.stop,
            name=title,
            profile=self.plan.request.profile,
        )
        self.stop.check()
        variables, step = self.parallel.own(outcome.variables), outcome.steps
        if experiment.select == "best":
            _, variables, _, meta = self.parallel.in_turn(lambda: load_model(folder))
            step = meta["step"]
        trained = {
            "variant": name,
            "repeat": repeat,
            "record": record,
            "steps": outcome.steps,
            "skipped": outcome.skipped,
            "best_validation_psnr": outcome.best,
            "scored_step": step,
            "seconds": outcome.seconds,
        }
        self.parallel.first(lambda: self._evaluate(folder, trained, slices, variables, repeat))
        self.stop.check()

    def _finished(self, title: str, folder: Path, record: dict, repeat: int) -> bool:
        """Whether the run in ``folder`` is done; begins it by its ``config.json`` otherwise."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / results.RESULT).exists():
            result = results.read_json(folder / results.RESULT)
            code = result["record"].get("code")
            if changed_code(code):
                warned(
                    f"{title}: {code['file']} was changed since this run was trained, and its "
                    "result is kept: train what the script says now in another folder (--out, or "
                    "OUT= of make)"
                )
            key = self.scorer.key(self.plan.splits[repeat], self.plan.protocol)
            if result.get("scored_by", key) == key:
                print(f"{title}: finished before, kept", file=sys.stderr)
                return True
            print(f"{title}: trained before, scored again as the study says now", file=sys.stderr)
            model, variables, window, _ = load_model(folder)
            self._evaluate(folder, result, WholeSlices(model, window), variables, repeat)
            return True
        if (folder / "config.json").exists():
            check_code(results.read_json(folder / "config.json")["record"].get("code"))
        keep_script(record.get("code"), folder)
        results.write_json(
            folder / "config.json",
            {
                "record": record,
                "versions": provenance.versions(),
                "device": provenance.device(),
                "revision": provenance.revision(),
                "command": self.plan.request.command,
            },
        )
        return False

    def _evaluate(self, folder: Path, trained: dict, slices, variables: dict, repeat: int) -> None:
        """Score the test slices and write the run's result."""
        began = time.monotonic()
        split, protocol = self.plan.splits[repeat], self.plan.protocol
        found, samples = self.scorer.result(variables, slices, split, protocol)
        np.savez_compressed(folder / results.SAMPLES, **samples)
        seconds = dict(trained["seconds"])
        seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.monotonic() - began
        results.write_json(
            folder / results.RESULT,
            {
                **trained,
                "parameters": count(variables)[0],
                **found,
                "seconds": seconds,
            },
        )

    def _init(self, repeat: int, name: str, experiment: Experiment) -> Path | None:
        """The run or checkpoint that a row starts from: INIT where it fits, or another row."""
        if self.plan.init is not None and name in self.plan.init["rows"]:
            return self.plan.request.init
        if experiment.starts_from is None:
            return None
        source = self.plan.run_folder(experiment.starts_from, repeat)
        if not (source / results.RESULT).exists():
            raise NumericsError(
                f"{name}: {experiment.starts_from} has to be trained first, and has no finished run"
            )
        return source

    def _init_digest(self, repeat: int, name: str, experiment: Experiment) -> str | None:
        if self.plan.init is not None and name in self.plan.init["rows"]:
            return self.plan.init["sha256"]  # read and checked once, for the plan
        path = self._init(repeat, name, experiment)
        return None if path is None else load_model(path)[3]["digest"]

    def _record(self, repeat: int, name: str, experiment: Experiment) -> dict:
        """What defines a run, but for the digest of what it starts from."""
        plan, split = self.plan, self.plan.splits[repeat]
        doses = plan.scale.training_doses or plan.scale.doses
        trained_on = None
        if experiment.images is None:
            trained_on = self.pairs.trained_on(split.train, doses)
        record = {
            "experiment": experiment.record(),
            "study": plan.study.name,
            "scale": plan.scale.name,
            "repeat": repeat,
            "data": {"source": self.pairs.source, "sha256": self.scorer.data_digest},
            "split": {"train": list(split.train), "validation": list(split.validation)},
            "trained_on": trained_on,
            "init": None,
        }
        if experiment.images is None:
            # What decides the patches beside the experiment and the data.
            record["training"] = {"crop": plan.scale.training_crop, "doses": list(doses)}
        if names_own(record["experiment"]):
            record["code"] = script_record()
        return record
