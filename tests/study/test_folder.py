"""Runs that can't share a study's folder are refused, and what is there stays."""

import pytest

from ldct_jax.errors import CheckpointError
from ldct_jax.study import Request, results, run_study
from ldct_jax.study.experiment import SMOKE, scales
from tests.study.test_plan import TWO, study


def test_rows_that_no_table_can_hold_together_are_refused(tmp_path):
    """Other test slices for one row of two mixed the scores of both in one report."""
    both = study(TWO, scales=scales(SMOKE.but(size=64, pixel_mm=6.0, patients=4)))
    run_study(both, Request("smoke", out=tmp_path, settings=("steps=1",)))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    for setting in ("scale.test_slices=1", "scale.test_patients=2"):
        one = Request("smoke", out=tmp_path, variants=("one",), settings=("steps=1", setting))
        with pytest.raises(CheckpointError, match=r"ask for all rows|split"):
            run_study(both, one)
        assert {p: p.read_bytes() for p in before} == before
    run_study(both, Request("smoke", out=tmp_path, settings=("steps=1", "scale.test_slices=1")))
    assert {len(results.load(tmp_path).rows(row)[0]) for row in TWO} == {1}


def test_a_run_is_not_that_of_another_crop(tmp_path):
    cropped = ("steps=1", "scale.training_crop=48,48")
    run_study(study(), Request("smoke", out=tmp_path, settings=cropped))
    with pytest.raises(CheckpointError, match=r"training.crop"):
        run_study(study(), Request("smoke", out=tmp_path, settings=cropped[:1]))
