"""Several trainings of one variant: seeds of their own, kept runs, and claims with their spread."""

import json

import numpy as np
import pytest

from ldct_jax import cli
from ldct_jax.study import results
from ldct_jax.study.claims import HELD, NOT_HELD, UNDECIDED
from ldct_jax.train.checkpoint import load_model


def train(*arguments, out):
    return cli.run(["train", "pcn_backbone", "--scale", "smoke", "--out", str(out), *arguments])


@pytest.mark.long
def test_more_seeds_keep_what_is_finished_and_spread_the_claims(tmp_path, capfd):
    out = tmp_path / "pcn_backbone"
    assert train("--variant", "RED-CNN", out=out) == 0
    assert train("--seeds", "3", out=out) == 0
    assert capfd.readouterr().err.count("finished before, kept") == 1
    found = results.load(out)
    assert found.study["splits"] == [found.study["splits"][0]] * 3
    for variant in ("CPCE", "RED-CNN"):
        runs = found.of(variant)
        assert [r.repeat for r in runs] == [0, 1, 2]
        assert [r.result["record"]["experiment"]["seed"] for r in runs] == [0, 1, 2]
        scores = [r.result["test"][-1][0]["psnr_db"] for r in runs]
        assert len(set(scores)) == 3, "three seeds, one result"
    (claim,) = json.loads((out / "tables" / "claims.json").read_text())["rows"]
    if claim["verdict"] in (HELD, NOT_HELD, UNDECIDED):
        assert claim["seeds"] == 3
        crosses = claim["95 % low"] <= 0 <= claim["95 % high"]
        assert (claim["verdict"] == UNDECIDED) == crosses
    # One seed asked for again: nothing is forgotten.
    assert train("--variant", "RED-CNN", out=out) == 0
    assert len(results.load(out).runs) == 6


@pytest.mark.long
def test_rows_with_other_seeds_are_compared_where_they_meet(tmp_path):
    out = tmp_path / "pcn_backbone"
    assert train("--variant", "RED-CNN", "--seeds", "2", out=out) == 0
    assert train("--variant", "CPCE", out=out) == 0
    found = results.load(out)
    assert found.shared_repeats("RED-CNN", "CPCE") == [0]
    assert found.shared_repeats("RED-CNN", "undenoised") == [0, 1]
    assert len(found.rows("RED-CNN", repeats=[0])) == 1 < len(found.rows("RED-CNN"))
    first, second = (load_model(r.folder)[1]["params"] for r in found.of("RED-CNN"))
    assert not np.array_equal(first["clone"]["conv1"]["kernel"], second["clone"]["conv1"]["kernel"])


def test_no_training_at_all_is_refused(tmp_path, capfd):
    assert train("--seeds", "0", out=tmp_path / "x") == 2
    assert "seeds=0" in capfd.readouterr().err
