"""What a study looks at on patients that weren't trained on: scores, samples, the phantom."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from ldct_jax.ct.no_data import no_data
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.splits import Split
from ldct_jax.denoise.filters import run
from ldct_jax.errors import NumericsError
from ldct_jax.metrics.protocols import Protocol, Scores
from ldct_jax.metrics.quality_phantom import QualityPhantom, measure
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.record import to_record
from ldct_jax.study import results
from ldct_jax.study.experiment import Scale
from ldct_jax.study.one_pass import OnePass, Reference
from ldct_jax.study.study import Measured, Study, Tested
from ldct_jax.system.files import json_sha256, sha256
from ldct_jax.train.run import Monitor

REFERENCES = (
    "references",
    "reference_numbers",
    "reference_quality",
    "reference_tissue_noise_hu",
)
"""Parts of study.json that hold the filters' rows, each by repeat and name."""

SCROLLED = 6
"""Test slices that a report's viewer scrolls through."""


@dataclasses.dataclass(frozen=True)
class Scorer:
    """The test and validation slices of a study's ``pairs`` at a scale, and what is done there."""

    study: Study
    scale: Scale
    pairs: PairedSlices
    _references: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    @cached_property
    def data_digest(self) -> str:
        """sha256 of all pixels."""
        return self.pairs.digest()

    def key(self, split: Split, protocol: Protocol) -> str:
        """A digest of all that decides the scores of a row on a split beside the row itself."""
        what = {
            "data": self.data_digest,
            "test": split.test,
            "slices": self.scale.test_slices,
            "doses": self.scale.doses,
            "protocol": to_record(protocol),
            "measure": [_digest(measure) for measure in self.study.measures] or None,
        }
        return json_sha256(what)

    def references(self, splits: Sequence[Split], protocol: Protocol, old: dict) -> dict:
        """Scores and measurements of the filters, by repeat and name.

        ``old``, an earlier result of this, is kept where nothing that decides a row has changed.
        """
        found: dict = {name: {} for name in (*REFERENCES, "reference_keys")}
        for repeat, split in enumerate(splits):
            keys = {n: f"{self.key(split, protocol)} {f!r}" for n, f in self.study.filters.items()}
            found["reference_keys"][str(repeat)] = keys
            for name, filtered in self.study.filters.items():
                row = self._known(old, keys[name]) or self._known(found, keys[name])
                row = row or self._filtered(filtered, split, protocol)
                for part, value in zip(REFERENCES, row, strict=True):
                    found[part].setdefault(str(repeat), {})[name] = value
        return found

    @staticmethod
    def _known(found: dict, key: str) -> list | None:
        """The row that was made under ``key``, by part."""
        for repeat, keys in found.get("reference_keys", {}).items():
            for name, had in keys.items():
                rows = [found[part].get(repeat, {}) for part in REFERENCES]
                if had == key and all(name in row for row in rows):
                    return [row[name] for row in rows]
        return None

    def _filtered(self, filtered, split: Split, protocol: Protocol) -> list:
        """One filter's part of each of :data:`REFERENCES`."""
        test = self.reference(split)

        def denoise(hu):
            return run(filtered, hu)

        denoised = denoise(test.pairs.low_hu)
        measured = self._measured(Tested(test.pairs, denoised, denoise, protocol))
        one_pass = OnePass(test, protocol)
        for i in range(len(denoised)):
            one_pass.add(np.array([i]), denoised[None, i : i + 1])
        (scores,), noise = one_pass.done()
        rows = results.score_rows(scores, test.pairs)
        return [rows, measured.numbers, self._quality(denoise, test.pairs), noise]

    def _measured(self, tested: Tested) -> Measured:
        """What all measures found; of two that use one name the later one's stays."""
        found = [measure(tested) for measure in self.study.measures]
        parts = ("numbers", "scores", "images")
        return Measured(*({k: v for m in found for k, v in getattr(m, p).items()} for p in parts))

    def result(
        self, variables: dict, slices: WholeSlices, split: Split, protocol: Protocol
    ) -> tuple[dict, dict[str, np.ndarray]]:
        """A trained network's part of ``result.json``, and the arrays that figures need.

        The test slices go through the network once and are scored on the device. To the host come
        the images that a figure shows, and the last clone's where the study measures on its own.
        """
        test, measures = self.reference(split), bool(self.study.measures)
        one_pass, shown, last = OnePass(test, protocol), {}, []
        places, scrolled = _shown(test.pairs)
        for at, images in slices.clones(variables, test.pairs.low_hu):
            one_pass.add(at, images)
            for i in {*places, *scrolled}.intersection(at.tolist()):
                shown[i] = images[:, i - at[0]] if i in places else images[-1:, i - at[0]]
            if measures:
                last.append(np.asarray(images[-1]))
        scores, noise = one_pass.done()
        measured = Measured()
        if measures:
            denoised = np.concatenate(last)[: len(test.pairs)]
            measured = self._measured(
                Tested(test.pairs, denoised, lambda hu: slices(variables, hu), protocol)
            )
        found = {
            "protocol": protocol.name,
            "scored_by": self.key(split, protocol),
            "test": [results.score_rows(clone, test.pairs) for clone in scores],
            "further": {k: results.score_rows(s, test.pairs) for k, s in measured.scores.items()},
            "numbers": measured.numbers,
            "quality": self._quality(lambda hu: slices(variables, hu), test.pairs),
            "tissue_noise_hu": noise,
        }
        return found, {**_samples(shown, test.pairs), **measured.images}

    def monitor(self, slices: WholeSlices, split: Split) -> Monitor:
        """PSNR and RMSE of a few validation and test slices; only the former may select."""
        protocol = self.study.protocol(slices.window)
        parts = {
            name: _spread(self._tested(self.pairs.of(patients)), self.scale.monitor_slices)
            for name, patients in (("validation", split.validation), ("test", split.test))
            if patients
        }
        # Pixels without data have no share in the scores; found once, not at every evaluation.
        empty = {name: no_data(np.asarray(pairs.full_hu)) for name, pairs in parts.items()}

        def score(images: np.ndarray, name: str) -> Scores:
            return protocol.score(images, parts[name].full_hu, no_data=empty[name])

        undenoised = None
        if "validation" in parts:
            undenoised = float(score(parts["validation"].low_hu, "validation").psnr_db.mean())

        def monitor(variables: dict) -> Callable[[], dict]:
            begun = {name: slices.begin(variables, pairs.low_hu) for name, pairs in parts.items()}

            def numbers() -> dict:
                found = {}
                for name, denoised in begun.items():
                    try:
                        scores = score(denoised(), name)
                    except NumericsError:
                        continue  # the training itself counts and stops; nothing to score
                    found[f"{name}_psnr"] = float(scores.psnr_db.mean())
                    found[f"{name}_rmse"] = float(scores.rmse.mean())
                    if name == "validation":
                        found["undenoised_psnr"] = undenoised
                return found

            return numbers

        return monitor

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
            **dataclasses.asdict(measure(phantom, denoise)),
        }

    def reference(self, split: Split) -> Reference:
        """The test patients' slices that are scored; those of the last split are kept."""
        key = tuple(split.test)
        if key not in self._references:
            tested = _spread(self._tested(self.pairs.of(split.test)), self.scale.test_slices)
            self._references.clear()
            self._references[key] = Reference(tested)
        return self._references[key]

    def _tested(self, pairs: PairedSlices) -> PairedSlices:
        """The slices at the doses that are tested."""
        return concatenate([pairs.at(d) for d in self.scale.doses or pairs.dose_levels])


def _digest(measure: Callable[[Tested], Measured]) -> str:
    """What decides a measure's numbers: its arguments, and all of its file, for it may call what
    stands beside it."""
    plain = inspect.isroutine(measure)
    arguments = measure.__qualname__ if plain else repr(measure)
    return f"{arguments} {sha256(Path(inspect.getfile(measure if plain else type(measure))))}"


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


def _shown(test: PairedSlices) -> tuple[list[int], list[int]]:
    """The slices of which figures show all clones, one of each dose, and those to scroll through.

    The stacks of the doses stand one after the other and hold the same slices.
    """
    doses = len(test.dose_levels)
    per_dose = len(test) // doses
    steps = np.linspace(0, per_dose - 1, min(per_dose, SCROLLED)).round().astype(int)
    places = [k * per_dose + per_dose // 2 for k in range(doses)]
    return places, ((doses - 1) * per_dose + steps).tolist()


def _samples(shown: dict[int, jax.Array], test: PairedSlices) -> dict[str, np.ndarray]:
    """One test slice for figures: ``clones`` (T, H, W), ``low``, ``full`` (H, W), HU.

    Where there are several doses, (D, …) with one entry for each. And (S, H, W) of up to
    :data:`SCROLLED` test slices at the last dose: ``scrolled``, ``scrolled_low``,
    ``scrolled_full``. ``shown``: clones, the last at least, of the slices of :func:`_shown`.
    """
    images = {i: np.rint(clones).astype(np.int16) for i, clones in jax.device_get(shown).items()}
    places, scrolled = _shown(test)
    samples = {
        "clones": np.stack([images[i] for i in places]),
        "low": np.stack([test.low_hu[i] for i in places]),
        "full": np.stack([test.full_hu[i] for i in places]),
    }
    if len(places) == 1:
        samples = {k: v[0] for k, v in samples.items()}
    samples["scrolled"] = np.stack([images[i][-1] for i in scrolled])
    samples["scrolled_low"] = np.asarray(test.low_hu[scrolled])
    samples["scrolled_full"] = np.asarray(test.full_hu[scrolled])
    return samples
