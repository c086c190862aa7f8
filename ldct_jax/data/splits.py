"""Splits by patient: leave-one-out, random repeats, explicit lists.

A split names patients, never slices or series, so one patient's slices can't be on two sides. The
labels come from :class:`~ldct_jax.data.pairs.PairedSlices`, where all series of one patient (by
PatientID) carry one label. Validation patients are training patients held out: no choice is ever
made on a test patient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from ldct_jax.errors import DataError, UsageError
from ldct_jax.system.names import counted


@dataclasses.dataclass(frozen=True)
class Split:
    """Patient labels of the three sides; ``validation`` may be empty, the others may not."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self):
        sides = (*self.train, *self.validation, *self.test)
        twice = sorted({label for label in sides if sides.count(label) > 1})
        if twice:
            raise DataError(
                f"{', '.join(twice)} would be on two sides of the split; a patient has one side"
            )
        if not self.train or not self.test:
            raise DataError("a split needs at least one training and one test patient")


def leave_one_out(patients: Iterable[str], *, seed: int, n_validation: int = 1) -> list[Split]:
    """Each split tests one patient and trains on the rest but ``n_validation`` of them.

    Args:
      patients: labels, one a slice or one a patient; their order of first appearance counts.
      seed: which patients are tested first, and who is held out for validation.

    Raises:
      DataError: fewer patients than the split needs.
    """
    names = _distinct(patients)
    _enough(names, n_test=1, n_validation=n_validation)
    order = np.random.default_rng(seed).permutation(len(names))
    splits = []
    for k, tested in enumerate(order):
        rest = [name for i, name in enumerate(names) if i != tested]
        splits.append(_held_out(rest, (names[tested],), n_validation, (seed, k)))
    return splits


def random_split(
    patients: Iterable[str], *, n_test: int, n_validation: int = 1, repeats: int = 1, seed: int
) -> list[Split]:
    """``repeats`` random splits with ``n_test`` test patients each, no two with the same ones.

    Raises:
      DataError: fewer patients than the split needs, or than give that many different test sets.
    """
    names = _distinct(patients)
    _enough(names, n_test=n_test, n_validation=n_validation)
    possible = math.comb(len(names), n_test)
    if not 1 <= repeats <= possible:
        raise DataError(
            f"{n_test} of {len(names)} patients can be tested in {possible} ways, not {repeats}; "
            "ask for fewer repeats or give more patients"
        )
    rng, seen, splits = np.random.default_rng(seed), set(), []
    while len(splits) < repeats:
        tested = tuple(sorted(rng.permutation(len(names))[:n_test].tolist()))
        if tested in seen:
            continue
        seen.add(tested)
        rest = [name for i, name in enumerate(names) if i not in tested]
        test = tuple(names[i] for i in tested)
        splits.append(_held_out(rest, test, n_validation, (seed, len(splits))))
    return splits


def explicit(
    patients: Iterable[str], *, test: Iterable[str], validation: Iterable[str] = ()
) -> Split:
    """The named sides; everybody else trains.

    Raises:
      DataError: a name that doesn't exist, or one named twice.
    """
    names, test, validation = _distinct(patients), tuple(test), tuple(validation)
    train = tuple(name for name in names if name not in (*test, *validation))
    split = Split(train, validation, test)
    if unknown := sorted({*validation, *test} - set(names)):
        raise DataError(f"no such patient: {', '.join(unknown)}; there are {', '.join(names)}")
    return split


def _held_out(rest: list[str], test: tuple[str, ...], n_validation: int, seed) -> Split:
    chosen = set(np.random.default_rng(seed).permutation(len(rest))[:n_validation].tolist())
    return Split(
        train=tuple(name for i, name in enumerate(rest) if i not in chosen),
        validation=tuple(name for i, name in enumerate(rest) if i in chosen),
        test=test,
    )


def _distinct(patients: Iterable[str]) -> tuple[str, ...]:
    if isinstance(patients, str):
        raise UsageError(f"patients={patients!r}: give a list of labels")
    return tuple(dict.fromkeys(patients))


def _enough(names: tuple[str, ...], *, n_test: int, n_validation: int) -> None:
    if n_test < 1 or n_validation < 0:
        raise UsageError(f"n_test={n_test}, n_validation={n_validation}: at least 1 and 0")
    needed = n_test + n_validation + 1
    if len(names) < needed:
        have = counted(len(names), "patient")
        raise DataError(
            f"{have} but the split needs {needed} ({n_test} test, {n_validation} validation, at "
            "least 1 training); give more patients, fewer test or validation patients, or train "
            "on phantoms and test on this data"
        )
