"""The images of a study: who the patients are, before anything is simulated, and their slices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from ldct_jax.data.derived import thinned
from ldct_jax.data.embedded import Phantoms, phantom_pairs
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.data.prepare import Selection
from ldct_jax.data.simulate import LowDose
from ldct_jax.data.source import SAMPLE, load_doses, load_pairs, open_store
from ldct_jax.data.splits import Split, leave_one_out, random_split
from ldct_jax.data.store import Store
from ldct_jax.errors import DataError, UsageError
from ldct_jax.study.experiment import Scale
from ldct_jax.study.study import Request, Study
from ldct_jax.system.accelerator import cache_folder


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Whose slices a study has, and how they are loaded once that is known to do.

    Args:
      slices: how many slices each patient has, by label; before doses are multiplied.
      matrix: (height, width) of the slices, pixels.
      splits: who is trained and tested on.
      load: simulates what has to be simulated and gives the slices.
    """

    slices: Mapping[str, int]
    matrix: tuple[int, int]
    splits: tuple[Split, ...]
    load: Callable[[], PairedSlices] = dataclasses.field(repr=False)


def cohort(study: Study, scale: Scale, request: Request) -> Cohort:
    """The patients and splits that a request leads to; nothing is simulated yet.

    Raises UsageError for an option that these data ignore, DataError for too few patients, for
    several matrix sizes and for patients with several reconstructions where the scale wants one.
    """
    if study.data is not None:
        _refuse(request.low, f"{study.name} loads its own data")
        pairs = study.data(scale, request.data)
        return _cohort(study, scale, _patients(pairs), pairs.low_hu.shape[1:], lambda: pairs)
    if request.data is None:
        _refuse(request.low, "the phantoms' dose is set with --set scale.phantoms.dose=…")
        spec = scale.phantoms
        found = dict.fromkeys(spec.labels, spec.slices)
        return _cohort(study, scale, found, (spec.size,) * 2, lambda: _made(spec, scale))
    selection = Selection(thickness_mm=scale.thickness_mm, kernel=scale.kernel)
    store = open_store(request.data, cache=_cache(), selection=selection)
    matrix = store.matrix
    if scale.one_reconstruction:
        _one_reconstruction(store)
    if scale.all_doses:
        _refuse(request.low, f"{study.name} simulates its own doses")
    elif store.is_paired:
        _refuse(request.low, "these data have a low dose already")
    if scale.max_slices is not None and (scale.all_doses or not store.is_paired):
        store = thinned(store, _cache(), scale.max_slices)
    found: dict[str, int] = {}
    for series in store.series:
        found[series.patient] = found.get(series.patient, 0) + series.full.shape[0]

    def load() -> PairedSlices:
        return _load(store, scale, request.low)

    if study.split is None and request.data == SAMPLE and len(found) < _needed(scale):
        return _small_sample(scale, found, matrix, load)
    return _cohort(study, scale, found, matrix, load)


def _cohort(study: Study, scale: Scale, found, matrix, load) -> Cohort:
    """A study's own split names patients of the loaded slices; others need their labels alone."""
    if study.split is None:
        return Cohort(found, matrix, _splits(scale, tuple(found)), load)
    pairs = load()
    return Cohort(found, matrix, (study.split(pairs),), lambda: pairs)


def _cache():
    return cache_folder() / "stores"


def _load(store: Store, scale: Scale, low: LowDose | None) -> PairedSlices:
    if not scale.all_doses:
        return load_pairs(store, low=low, cache=_cache())
    return load_doses(
        store,
        doses=scale.all_doses,
        rule=scale.dose_rule,
        spectrum=scale.noise_spectrum,
        cache=_cache(),
    )


def _made(spec: Phantoms, scale: Scale) -> PairedSlices:
    return phantom_pairs(spec, scale.all_doses, scale.dose_rule, scale.noise_spectrum)


def _refuse(low: LowDose | None, why: str) -> None:
    if low is not None:
        raise UsageError(f"--dose, --domain and --added-sd change nothing here: {why}")


# ---- splits ------------------------------------------------------------------------------------


def _needed(scale: Scale) -> int:
    return scale.test_patients + scale.validation_patients + 1


def _splits(scale: Scale, patients: tuple[str, ...]) -> tuple[Split, ...]:
    if scale.leave_one_out:
        splits = leave_one_out(patients, seed=0, n_validation=scale.validation_patients)
    else:
        splits = random_split(
            patients,
            n_test=scale.test_patients,
            n_validation=scale.validation_patients,
            repeats=scale.repeats,
            seed=0,
        )
    return tuple(dataclasses.replace(s, train=s.train[: scale.training_patients]) for s in splits)


def _small_sample(scale: Scale, found, matrix, load) -> Cohort:
    """The public sample where the split needs more patients: one is tested, and its source says so.

    It holds three: one each for training, validation and test.
    """
    split = random_split(tuple(found), n_test=1, n_validation=1, seed=0)
    words = f"too few patients for this scale's split: {len(found)}, so 1 is tested"

    def said() -> PairedSlices:
        pairs = load()
        return dataclasses.replace(pairs, source=f"{pairs.source}; {words}")

    return Cohort(found, matrix, tuple(split), said)


def _patients(pairs: PairedSlices) -> dict[str, int]:
    at_one_dose = pairs.at(pairs.dose_levels[0])
    return {name: at_one_dose.patients.count(name) for name in at_one_dose.patient_names}


def _one_reconstruction(store: Store) -> None:
    """Raise DataError where a patient has several, listing them."""
    have: dict[str, set[str]] = {}
    for series in store.series:
        thickness = "unknown thickness" if series.slice_mm is None else f"{series.slice_mm:g} mm"
        have.setdefault(series.patient, set()).add(f"{thickness} {series.kernel}".strip())
    several = {name: kinds for name, kinds in have.items() if len(kinds) > 1}
    if several:
        kinds = sorted(set().union(*several.values()))
        raise DataError(
            f"{len(several)} of {len(have)} patients have several reconstructions, which this "
            f"scale keeps apart: {', '.join(kinds)}; choose with --thickness and --kernel"
        )
