"""What a study looks at on patients that weren't trained on: scores, samples, the phantom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.splits import Split
from ldct_jax.denoise.filters import run
from ldct_jax.errors import NumericsError
from ldct_jax.metrics.protocols import Protocol
from ldct_jax.metrics.quality_phantom import QualityPhantom, measure
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.study import results
from ldct_jax.study.experiment import Scale
from ldct_jax.study.study import Measured, Study, Tested
from ldct_jax.train.run import Monitor

SCROLLED = 6
"""Test slices that a report's viewer scrolls through."""


@dataclasses.dataclass(frozen=True)
class Examiner:
    """The test and validation slices of a study's ``pairs`` at a scale, and what is done there."""

    study: Study
    scale: Scale
    pairs: PairedSlices

    def references(self, splits: Sequence[Split], protocol: Protocol) -> dict:
        """Scores and measurements of the filters, by repeat and name."""
        rows: dict = {}
        numbers: dict = {}
        quality: dict = {}
        for repeat, split in enumerate(splits):
            if (first := splits.index(split)) < repeat:  # another seed on the same patients
                for found in (rows, numbers, quality):
                    if str(first) in found:
                        found[str(repeat)] = found[str(first)]
                continue
            test = self.test(split)
            for name, filtered in self.study.filters.items():

                def denoise(hu, filtered=filtered):
                    return run(filtered, hu)

                denoised = denoise(test.low_hu)
                scores = protocol.score(denoised, test.full_hu)
                rows.setdefault(str(repeat), {})[name] = results.score_rows(scores, test)
                if self.study.measure is not None:
                    measured = self.study.measure(Tested(test, denoised, denoise, protocol))
                    numbers.setdefault(str(repeat), {})[name] = dict(measured.numbers)
                quality.setdefault(str(repeat), {})[name] = self._quality(denoise, test)
        return {
            "references": rows,
            "reference_numbers": numbers,
            "reference_quality": quality,
        }

    def result(
        self, variables: dict, slices: WholeSlices, split: Split
    ) -> tuple[dict, dict[str, np.ndarray]]:
        """A trained network's part of ``result.json``, and the arrays that figures need."""
        protocol = self.study.protocol(slices.window)
        test = self.test(split)
        images = slices.clones(variables, test.low_hu)
        measured = Measured()
        if self.study.measure is not None:
            measured = self.study.measure(
                Tested(test, images[-1], lambda hu: slices(variables, hu), protocol)
            )
        found = {
            "protocol": protocol.name,
            "test": [
                results.score_rows(protocol.score(clone, test.full_hu), test) for clone in images
            ],
            "further": {k: results.score_rows(s, test) for k, s in measured.scores.items()},
            "numbers": dict(measured.numbers),
            "quality": self._quality(lambda hu: slices(variables, hu), test),
        }
        return found, {**_samples(images, test), **measured.images}

    def monitor(self, slices: WholeSlices, split: Split) -> Monitor:
        """PSNR and RMSE of a few validation and test slices; only the former may select."""
        protocol = self.study.protocol(slices.window)
        parts = {
            name: _spread(self._tested(self.pairs.of(patients)), self.scale.monitor_slices)
            for name, patients in (("validation", split.validation), ("test", split.test))
            if patients
        }

        undenoised = None
        if "validation" in parts:
            seen = parts["validation"]
            undenoised = float(protocol.score(seen.low_hu, seen.full_hu).psnr_db.mean())

        def monitor(variables: dict) -> Callable[[], dict]:
            begun = {name: slices.begin(variables, pairs.low_hu) for name, pairs in parts.items()}

            def numbers() -> dict:
                found = {}
                for name, denoised in begun.items():
                    try:
                        scores = protocol.score(denoised(), parts[name].full_hu)
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

    def test(self, split: Split) -> PairedSlices:
        """The test patients' slices that are scored."""
        return _spread(self._tested(self.pairs.of(split.test)), self.scale.test_slices)

    def _tested(self, pairs: PairedSlices) -> PairedSlices:
        """The slices at the doses that are tested."""
        return concatenate([pairs.at(d) for d in self.scale.doses or pairs.dose_levels])


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
