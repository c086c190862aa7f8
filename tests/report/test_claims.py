"""A claim that several numbers decide."""

import pytest

from ldct_jax.report import claims

pytestmark = pytest.mark.core


def test_of_several_numbers_the_least_decides_with_its_own_spread():
    held = claims.judge_least("rises", "least step", [[1.0, 0.3], [1.2, 0.5], [0.8, 0.4]], "dB")
    assert held.verdict == claims.HELD and held.n_seeds == 3
    assert held.number == pytest.approx(0.4) and held.sd == pytest.approx(0.1)
    mixed = claims.judge_least("rises", "least step", [[1.0, 0.9], [1.2, -0.8], [0.8, 0.1]], "dB")
    assert mixed.verdict == claims.NOT_TESTABLE
