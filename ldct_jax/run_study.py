"""Run a study: its variants, one after the other, each resumable, and the report at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ldct_jax import provenance, results, spec
from ldct_jax.data import vgg as fetched
from ldct_jax.data.feed import make_feeder
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.splits import Split, random_split
from ldct_jax.errors import CheckpointError, LdctError, NumericsError
from ldct_jax.evaluate import WholeSlices
from ldct_jax.experiment import Experiment, Scale
from ldct_jax.metrics.protocols import Protocol
from ldct_jax.metrics.quality_phantom import QualityPhantom
from ldct_jax.metrics.quality_phantom import measure as measure_quality
from ldct_jax.models import vgg
from ldct_jax.models.filters import run as run_filter
from ldct_jax.study import Measured, Request, Study, Tested, chosen_variants, slug
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.interrupt import StopRequest
from ldct_jax.train.loop import Job, train
from ldct_jax.train.parallel import DataParallel

SCROLLED = 6
"""Test slices that a report's viewer scrolls through."""


def run_study(study: Study, request: Request, data: Callable[[Scale], PairedSlices]) -> Path:
    """Train what is missing, evaluate it, and write the report; returns the report's path.

    Finished runs are not run again. A variant whose numbers fail doesn't keep the others from
    running: the report is written without it, and NumericsError names it at the end.
    """
    began = time.monotonic()
    experiments = chosen_variants(study, request)
    scale = study.scales[request.scale]
    out = request.out

    def report() -> None:
        write_report(study, out)

    # Of several processes all train, and the first alone writes what is not a checkpoint.
    parallel = DataParallel()
    with contextlib.ExitStack() as stack, StopRequest().watching() as stop:
        parallel.first(lambda: stack.enter_context(_locked(out)))
        if any(vgg.needs_fetched(experiment.loss) for experiment in experiments.values()):
            parallel.in_turn(fetched.fetch)
        for experiment in experiments.values():
            parallel.check_batch(experiment.patches.batch)
        pairs = parallel.in_turn(lambda: data(scale))
        splits = _splits(study, scale, pairs)
        wall = {"data": time.monotonic() - began}
        session = _Session(study, request, scale, pairs, splits, parallel, stop)
        session.describe(wall)
        failed = session.run_all(experiments)
        began_report = time.monotonic()
        parallel.first(report)
        session.describe({**wall, "report": time.monotonic() - began_report})
        parallel.first(report)  # once more: now it knows how long it takes
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


def write_report(study: Study, folder: Path) -> Path:
    """Rebuild the report of a study's folder from what is on the disk."""
    found = results.load(folder)
    if not found.runs:
        raise LdctError(f"no run in {folder.name} has finished: nothing to report")
    return study.report(found).write(folder)


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
        every = self.study.variants(self.request.scale)
        window = next(iter(every.values())).window
        protocol = self.study.protocol(window)
        results.write_json(
            path,
            {
                "study": self.study.name,
                "title": self.study.title,
                "reproduces": self.study.reproduces,
                "scale": dataclasses.asdict(self.scale),
                "variants": list(every),
                "window": spec.to_record(window),
                "protocol": protocol.name,
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
                "splits": [dataclasses.asdict(s) for s in self.splits],
                **(
                    {k: old[k] for k in ("references", "reference_numbers", "reference_quality")}
                    if "references" in old
                    else self._references(protocol)
                ),
                "command": self.request.command,
                "versions": provenance.versions(),
                "device": provenance.device(),
                "revision": provenance.revision(),
                "wall_s": {**old.get("wall_s", {}), **wall},
            },
        )

    def _references(self, protocol: Protocol) -> dict:
        """Scores and measurements of the filters, by repeat and name."""
        rows: dict = {}
        numbers: dict = {}
        quality: dict = {}
        for repeat, split in enumerate(self.splits):
            test = self._test(split)
            for name, filtered in self.study.filters.items():

                def denoise(hu, filtered=filtered):
                    return run_filter(filtered, hu)

                denoised = denoise(test.low_hu)
                scores = protocol.score(denoised, test.full_hu)
                rows.setdefault(str(repeat), {})[name] = results.score_rows(scores, test)
                if self.study.measure is not None:
                    measured = self.study.measure(Tested(test, denoised, denoise, protocol))
                    numbers.setdefault(str(repeat), {})[name] = dict(measured.numbers)
            quality[str(repeat)] = {
                name: self._quality(lambda hu, f=filtered: run_filter(f, hu), test)
                for name, filtered in self.study.filters.items()
            }
        return {
            "references": rows,
            "reference_numbers": numbers,
            "reference_quality": quality,
        }

    def _quality(self, denoise: Callable[[np.ndarray], np.ndarray], test: PairedSlices) -> dict:
        """What is left of the quality phantom with the noise of the test slices (last dose)."""
        shown = test.at(test.dose_levels[-1])
        phantom = QualityPhantom(
            size=min(shown.low_hu.shape[1:]),
            pixel_mm=float(np.median(shown.pixel_mm)),
            noise_hu=_added_noise(shown),
        )
        return {
            "phantom": dataclasses.asdict(phantom),
            **dataclasses.asdict(measure_quality(phantom, denoise)),
        }

    def _test(self, split: Split) -> PairedSlices:
        return _spread(self._tested(self.pairs.of(split.test)), self.scale.test_slices)

    def _tested(self, pairs: PairedSlices) -> PairedSlices:
        """The slices at the doses that are tested."""
        return concatenate([pairs.at(d) for d in self.scale.doses or pairs.dose_levels])

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
        key = (repeat, patches, experiment.seed, experiment.images)
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
            feeder = make_feeder(self.request.feed, train_pairs, patches, experiment.seed, columns)
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
            try:
                self._run(title, folder, name, repeat, split, experiment)
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
        protocol = self.study.protocol(experiment.window)
        outcome = train(
            Job(
                model=experiment.model,
                loss=experiment.loss,
                optimizer=experiment.optimizer,
                window=experiment.window,
                epochs=experiment.epochs,
                seed=experiment.seed,
                patch_size=experiment.patches.size,
                augment=experiment.patches.augment,
                record=record,
                ema_decay=experiment.ema_decay,
                gan=experiment.gan,
                init_from=self._init(experiment, repeat),
            ),
            feeder,
            folder,
            parallel=self.parallel,
            monitor=self._monitor(slices, protocol, split),
            monitor_every=self.scale.monitor_every,
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
        protocol = self.study.protocol(slices.window)
        test = self._test(split)
        images = slices.clones(variables, test.low_hu)
        scores = [results.score_rows(protocol.score(clone, test.full_hu), test) for clone in images]
        measured = Measured()
        if self.study.measure is not None:
            measured = self.study.measure(
                Tested(test, images[-1], lambda hu: slices(variables, hu), protocol)
            )
        np.savez_compressed(
            folder / results.SAMPLES, **_samples(images, test), **dict(measured.images)
        )
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
                "protocol": protocol.name,
                "test": scores,
                "further": {k: results.score_rows(s, test) for k, s in measured.scores.items()},
                "numbers": dict(measured.numbers),
                "quality": self._quality(lambda hu: slices(variables, hu), test),
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
            "model": spec.to_record(experiment.model),
            "window": spec.to_record(experiment.window),
            "experiment": experiment.record(),
            "study": self.study.name,
            "scale": self.scale.name,
            "repeat": repeat,
            "data": {"source": self.pairs.source, "sha256": self._data_digest},
            "init": None if init is None else load_model(init)[3]["digest"],
        }
        begun = folder / "config.json"
        if begun.exists() and "trained_on" not in results.read_json(begun)["record"]:
            return record  # begun before ranges were recorded: it goes on as it began
        trained_on = None
        if experiment.images is None:
            doses = self.scale.training_doses or self.scale.doses
            trained_on = self.pairs.trained_on(self.splits[repeat].train, doses)
        return {**record, "trained_on": trained_on}

    def _same(self, folder: Path, found: dict, wanted: dict) -> None:
        if found != wanted:
            raise CheckpointError(
                f"{folder} was run with other settings ({spec.difference(found, wanted)}): choose "
                "another OUT= folder, or remove it"
            )

    def _monitor(self, slices: WholeSlices, protocol: Protocol, split: Split):
        """PSNR and RMSE of a few validation and test slices; only the former may select."""
        parts = {
            name: _spread(self._tested(self.pairs.of(patients)), self.scale.monitor_slices)
            for name, patients in (("validation", split.validation), ("test", split.test))
            if patients
        }

        undenoised = None
        if "validation" in parts:
            seen = parts["validation"]
            undenoised = float(protocol.score(seen.low_hu, seen.full_hu).psnr_db.mean())

        def monitor(variables: dict) -> dict:
            numbers = {}
            for name, pairs in parts.items():
                try:
                    scores = protocol.score(slices(variables, pairs.low_hu), pairs.full_hu)
                except NumericsError:
                    continue  # the training itself counts and stops; there is nothing to score
                numbers[f"{name}_psnr"] = float(scores.psnr_db.mean())
                numbers[f"{name}_rmse"] = float(scores.rmse.mean())
                if name == "validation":
                    numbers["undenoised_psnr"] = undenoised
            return numbers

        return monitor


def _run_name(variant: str, repeat: int) -> str:
    return slug(variant) if repeat == 0 else f"{slug(variant)}.repeat{repeat + 1}"


def _spread(pairs: PairedSlices, per_patient: int | None) -> PairedSlices:
    """Evenly spread slices of each patient (and dose): ``per_patient`` of them, or all."""
    if per_patient is None:
        return pairs
    if pairs.doses is not None:
        return concatenate([_spread(pairs.at(d), per_patient) for d in pairs.dose_levels])
    chosen: list[int] = []
    for name in pairs.patient_names:
        own = [i for i, p in enumerate(pairs.patients) if p == name]
        steps = np.linspace(0, len(own) - 1, min(per_patient, len(own)) + 2)[1:-1]
        chosen += [own[round(s)] for s in steps]
    return pairs.take(dict.fromkeys(chosen))


def _added_noise(pairs: PairedSlices) -> float:
    """SD of low minus normal dose in soft tissue, HU; at least 1, the rounding to whole HU."""
    full = np.asarray(pairs.full_hu)
    soft = (full > -150) & (full < 250)
    added = (np.asarray(pairs.low_hu) - full.astype(np.int32))[soft]
    return max(1.0, float(added.std())) if added.size else 1.0


def _samples(images: np.ndarray, test: PairedSlices) -> dict[str, np.ndarray]:
    """One test slice for figures: ``clones`` (T, H, W), ``low``, ``full`` (H, W), HU.

    Where there are several doses, (D, …) with one entry for each. And (S, H, W) of up to
    :data:`SCROLLED` test slices at the last dose: ``scrolled``, ``scrolled_low``,
    ``scrolled_full``.
    """
    levels = test.dose_levels
    per_dose = len(test) // len(levels)
    # The stacks of the doses stand one after the other and hold the same slices.
    places = [k * per_dose + per_dose // 2 for k in range(len(levels))]
    samples = {
        "clones": np.rint(images[:, places]).astype(np.int16).swapaxes(0, 1),
        "low": np.stack([test.low_hu[i] for i in places]),
        "full": np.stack([test.full_hu[i] for i in places]),
    }
    if len(levels) == 1:
        samples = {k: v[0] for k, v in samples.items()}
    steps = np.linspace(0, per_dose - 1, min(per_dose, SCROLLED)).round().astype(int)
    scrolled = (len(levels) - 1) * per_dose + steps
    samples["scrolled"] = np.rint(images[-1, scrolled]).astype(np.int16)
    samples["scrolled_low"] = np.asarray(test.low_hu[scrolled])
    samples["scrolled_full"] = np.asarray(test.full_hu[scrolled])
    return samples


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second command out of the same folder."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise LdctError(
            f"{folder} can't be written ({error.strerror}): choose another folder with OUT="
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LdctError(
                f"another command is at work in {folder}: wait for it, or choose another OUT="
            ) from None
        yield
