"""How claims are judged: three seeds and an interval, or the sign only."""

import numpy as np
import pytest
from scipy import stats

from ldct_jax.errors import UsageError
from ldct_jax.study import claims
from ldct_jax.study.claims import HELD, NOT_HELD, SIGN_ONLY, UNDECIDED, UNTESTED, all_of, judge

pytestmark = pytest.mark.core


def test_the_interval_is_students_over_the_seeds():
    values = [0.3, 0.5, 0.1]
    found = judge("c", "m", values, "dB", above=0.0)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    np.testing.assert_allclose(found.interval, expected)
    assert "95% interval" in found.number_text and "(3 seeds)" in found.number_text


@pytest.mark.parametrize(
    ("values", "limits", "verdict"),
    [
        ([0.30, 0.35, 0.40], {"above": 0}, HELD),
        ([-0.30, -0.35, -0.40], {"above": 0}, NOT_HELD),
        ([0.5, -0.3, 0.2], {"above": 0}, UNDECIDED),
        # All three are positive, and yet the interval of three seeds reaches below zero.
        ([0.05, 0.30, 0.60], {"above": 0}, UNDECIDED),
        ([0.3, 0.3], {"above": 0}, SIGN_ONLY),
        (0.3, {"above": 0}, SIGN_ONLY),
        # "Adds little" is one-sided: a loss adds nothing either.
        ([-0.5, -0.6, -0.55], {"below": 0.15}, HELD),
        ([0.4, 0.45, 0.5], {"below": 0.15}, NOT_HELD),
        # "About 10 %" has two bounds.
        ([0.099, 0.100, 0.101], {"above": 0.05, "below": 0.15}, HELD),
        ([0.299, 0.300, 0.301], {"above": 0.05, "below": 0.15}, NOT_HELD),
        ([0.009, 0.010, 0.011], {"above": 0.05, "below": 0.15}, NOT_HELD),
        ([0.149, 0.151, 0.150], {"above": 0.05, "below": 0.15}, UNDECIDED),
    ],
)
def test_verdicts(values, limits, verdict):
    assert judge("c", "m", values, **limits).verdict == verdict


def test_the_sign_says_which_way_it_points():
    assert judge("c", "m", 0.3, above=0).verdict_text == "sign only: for"
    assert judge("c", "m", [-0.3, 0.1], above=0).verdict_text == "sign only: against"
    assert judge("c", "m", 0.3, "dB", above=0, below=1).limits_text == "0 to 1"
    assert judge("c", "m", 0.3, "dB", above=0).number_text == "0.3 dB (1 seed)"


def test_of_several_parts_the_worst_decides():
    held = judge("a", "first", [0.30, 0.35, 0.40], above=0)
    open_ = judge("b", "second", [0.5, -0.3, 0.2], above=0)
    fails = judge("c", "third", [-0.30, -0.35, -0.40], above=0)
    assert all_of("x", [held, held]).verdict == HELD
    assert all_of("x", [held, open_]).verdict == UNDECIDED
    assert all_of("x", [held, open_, fails]).measured == "third"
    assert all_of("x", [held, claims.untested("y", "no row")]).verdict == UNTESTED
    assert all_of("x", [held, open_]).claim == "x"
    signs = [judge("a", "m", 0.5, above=0), judge("a", "other", -0.1, above=0)]
    assert not all_of("x", signs).agrees and all_of("x", signs).measured == "other"


def test_what_is_refused():
    with pytest.raises(UsageError, match="numbers are needed"):
        judge("c", "m", [float("nan")], above=0)
    with pytest.raises(UsageError, match="numbers are needed"):
        judge("c", "m", [], above=0)
    with pytest.raises(UsageError, match="needs a limit"):
        judge("c", "m", 0.3)
    with pytest.raises(UsageError, match="without a reason"):
        claims.untested("c", "")
    with pytest.raises(UsageError, match="no parts"):
        all_of("c", [])


def test_verdicts_are_counted():
    made = [judge("c", "m", 0.3, above=0), claims.untested("b", "no row")]
    assert claims.count(made) == {HELD: 0, NOT_HELD: 0, UNDECIDED: 0, SIGN_ONLY: 1, UNTESTED: 1}
