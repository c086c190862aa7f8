"""Splits by patient: nobody is on two sides, and too few patients are said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.data.splits import Split, explicit, leave_one_out, random_split
from ldct_jax.errors import DataError

PATIENTS = tuple(f"p{i}" for i in range(10))


def disjoint_and_complete(split, patients=PATIENTS):
    sides = [*split.train, *split.validation, *split.test]
    return len(sides) == len(set(sides)) and set(sides) == set(patients)


@pytest.mark.core
@pytest.mark.parametrize("n_validation", [0, 1, 2])
def test_leave_one_out_tests_everybody_once(n_validation):
    splits = leave_one_out(PATIENTS, seed=1, n_validation=n_validation)
    assert sorted(s.test[0] for s in splits) == sorted(PATIENTS)
    for split in splits:
        assert disjoint_and_complete(split)
        assert len(split.validation) == n_validation
    assert splits == leave_one_out(PATIENTS, seed=1, n_validation=n_validation)
    assert splits != leave_one_out(PATIENTS, seed=2, n_validation=n_validation)


@pytest.mark.core
def test_random_repeats_differ():
    for n_test in (1, 2):  # 9 / 1 of pcn, 8 / 2 of hrnet
        splits = random_split(PATIENTS, n_test=n_test, n_validation=1, repeats=10, seed=4)
        assert all(disjoint_and_complete(s) for s in splits)
        assert len({s.test for s in splits}) == 10
    everything = random_split(list("abcde"), n_test=2, repeats=10, seed=0)
    assert {s.test for s in everything} == set(itertools.combinations("abcde", 2))
    with pytest.raises(DataError, match="10 ways, not 11"):
        random_split(list("abcde"), n_test=2, repeats=11, seed=0)


@pytest.mark.promise("by-patient")
@pytest.mark.core
def test_slices_and_series_of_a_patient_stay_together():
    # Two series of b lie apart: its label decides, not where its slices are.
    labels = ("a", "a", "b", "c", "b", "d", "b")
    hu = np.arange(7, dtype=np.int16)[:, None, None] * np.ones((1, 4, 4), np.int16)
    pairs = PairedSlices(hu, hu, labels, np.ones(7), np.ones(7), "test")
    for split in leave_one_out(labels, seed=0):
        train, validation, test = map(pairs.of, (split.train, split.validation, split.test))
        sides = [set(p.patients) for p in (train, validation, test)]
        assert not any(x & y for x, y in itertools.combinations(sides, 2))
        assert len(train) + len(validation) + len(test) == 7
        values = [set(p.full_hu[:, 0, 0].tolist()) for p in (train, validation, test)]
        assert {2, 4, 6} in [v & {2, 4, 6} for v in values]


@pytest.mark.core
def test_too_few_patients_say_how_many_are_needed():
    for call in (
        lambda: leave_one_out(["a", "b"], seed=0),
        lambda: random_split(["a", "a", "b"], n_test=1, seed=0),
    ):
        with pytest.raises(DataError, match="2 patients but the split needs 3"):
            call()
    with pytest.raises(DataError, match="1 patient but the split needs 2"):
        leave_one_out(["a"], seed=0, n_validation=0)


@pytest.mark.promise("by-patient")
@pytest.mark.core
def test_a_patient_on_two_sides_is_refused():
    with pytest.raises(DataError, match="b would be on two sides"):
        Split(("a", "b"), (), ("b",))
    with pytest.raises(DataError, match="p2 would be on two sides"):
        explicit(PATIENTS, test=["p1"], validation=["p2", "p2"])
    with pytest.raises(DataError, match="at least one training"):
        Split((), (), ("a",))


def test_explicit_lists():
    split = explicit(PATIENTS, test=["p3"], validation=["p1"])
    assert disjoint_and_complete(split)
    with pytest.raises(DataError, match="no such patient: who"):
        explicit(PATIENTS, test=["who"])
