"""Statistics over patients, against scipy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from ldct_jax.errors import DataError
from ldct_jax.metrics import statistics
from ldct_jax.metrics.statistics import MeanSD, bootstrap_interval, paired

PATIENTS = [f"p{i}" for i in range(10)]


def values(seed=0, n=10):
    rng = np.random.default_rng(seed)
    b = 40 + rng.standard_normal(n)
    return b + 0.4 + 0.5 * rng.standard_normal(n), b


def test_paired_tests_are_scipys():
    a, b = values()
    result = paired(a, b, PATIENTS)
    assert result.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert result.p != pytest.approx(stats.ttest_ind(a, b).pvalue, rel=0.1)
    assert result.low < result.mean_difference < result.high


def test_a_b_and_b_a_mirror_each_other():
    a, b = values()
    one, other = paired(a, b, PATIENTS), paired(b, a, PATIENTS)
    assert one.p == other.p
    assert one.mean_difference == -other.mean_difference


def test_no_difference_and_a_constant_one():
    a, _ = values()
    same = paired(a, a, PATIENTS)
    assert same.p == 1 and (same.low, same.high) == (0, 0)
    assert paired(np.arange(10.0) + 2, np.arange(10.0), PATIENTS).p == 0


def test_the_bootstrap_covers_a_known_mean(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 499)
    rng = np.random.default_rng(1)
    names = [f"p{i}" for i in range(30)]
    samples = rng.standard_normal((100, 30))
    hits = sum(low <= 0 <= high for low, high in (bootstrap_interval(s, names) for s in samples))
    assert 86 <= hits <= 99
    monkeypatch.undo()
    low, high = bootstrap_interval(samples[0], names)
    width = 2 * 1.96 * samples[0].std(ddof=1) / 30**0.5
    assert high - low == pytest.approx(width, rel=0.1)
    assert bootstrap_interval(samples[0], names) == (low, high)


@pytest.mark.core
def test_slices_are_not_patients():
    a, b = values()
    with pytest.raises(DataError, match="10 values of 3 patients: slices"):
        paired(a, b, ["a"] * 4 + ["b"] * 4 + ["c"] * 2)
    with pytest.raises(DataError, match="not independent"):
        bootstrap_interval(a, ["a"] * 10)


def test_what_else_is_refused():
    a, b = values()
    with pytest.raises(DataError, match="one a patient"):
        paired(a, b, PATIENTS[:9])
    with pytest.raises(DataError, match="at least two"):
        paired(a[:1], b[:1], PATIENTS[:1])
    with pytest.raises(DataError, match="finite"):
        paired([*a[:9], np.inf], b, PATIENTS)
    with pytest.raises(DataError, match="NaN"):
        MeanSD.of([1.0, float("nan")])


def test_mean_sd_text():
    assert MeanSD.of([1, 2, 3]).text(2) == "2.00 ± 1.00"
    assert MeanSD.of([1.25]).text(1) == "1.2"
    assert MeanSD.of([1, float("inf")]) == MeanSD(float("inf"), None, 2)
