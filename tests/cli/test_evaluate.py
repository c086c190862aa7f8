"""``ldct evaluate`` on every kind of input, and the identity returns the pixels."""

import json

import numpy as np
import pytest

from ldct_jax import cli
from ldct_jax.metrics.protocols import MAYO_ABDOMEN, PCN
from tests import tiny

pytestmark = pytest.mark.core


@pytest.fixture
def npy(tmp_path):
    pairs = tiny.pairs(patients=3, size=48)
    np.save(tmp_path / "low.npy", pairs.low_hu)
    np.save(tmp_path / "full.npy", pairs.full_hu.astype(np.float32))
    return pairs, tmp_path / "low.npy", tmp_path / "full.npy"


def run(low, full, *arguments):
    return cli.run(["evaluate", str(low), str(full), *arguments])


def test_identity_scores_as_the_undenoised_row_and_numbers_carry_their_protocol(
    npy, tmp_path, capfd
):
    pairs, low, full = npy
    out = tmp_path / "scores.json"
    names = ("--protocol", "pcn", "--protocol", "mayo-abdomen")
    assert run(low, full, "--model", "identity", *names, "--json", str(out)) == 0
    record = json.loads(out.read_text())
    for protocol in (PCN, MAYO_ABDOMEN):
        scores = protocol.score(pairs.low_hu, pairs.full_hu)
        for method in ("undenoised", "identity"):
            rows = [
                r
                for r in record["slices"]
                if r["method"] == method and r["protocol"] == protocol.name
            ]
            np.testing.assert_allclose([r["psnr_db"] for r in rows], scores.psnr_db)
            np.testing.assert_allclose([r["rmse"] for r in rows], scores.rmse)
            assert {r["unit"] for r in rows} == {protocol.unit}
    text = capfd.readouterr().out
    assert "gaussian blur" in text and "protocol pcn" in text and "HU" in text


def test_a_filter_is_what_the_library_computes(npy, tmp_path):
    from scipy.ndimage import median_filter

    pairs, low, full = npy
    out = tmp_path / "scores.json"
    assert run(low, full, "--model", "median", "--json", str(out)) == 0
    rows = [r for r in json.loads(out.read_text())["slices"] if r["method"] == "median"]
    expected = PCN.score(
        np.stack([median_filter(x.astype(np.float32), 3) for x in pairs.low_hu]), pairs.full_hu
    )
    np.testing.assert_allclose([r["psnr_db"] for r in rows], expected.psnr_db, rtol=1e-6)


def test_a_paired_store_is_named_twice(tmp_path):
    store = tmp_path / "store"
    arguments = ["--patients", "2", "--slices", "1", "--size", "64", "--pixel-mm", "6"]
    assert cli.run(["data", "phantom", str(store), *arguments]) == 0
    assert run(store, store, "--model", "gaussian") == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(model="nonsense"), "nonsense"),
        (dict(protocol="psnr"), "mayo-abdomen"),
        (dict(low="missing.npy"), "doesn't exist"),
        (dict(low="other.npy"), "no pair"),
        (dict(low="text.npy"), "can't be read"),
        (dict(low="."), "two of one kind"),
    ],
)
def test_mistakes_are_one_line(npy, tmp_path, capfd, change, words):
    _, low, full = npy
    np.save(tmp_path / "other.npy", np.zeros((1, 48, 48), np.int16))
    (tmp_path / "text.npy").write_text("text")
    low = tmp_path / change["low"] if "low" in change else low
    arguments = ["--model", change.get("model", "identity")]
    arguments += ["--protocol", change.get("protocol", "pcn")]
    assert run(low, full, *arguments) in (1, 2)
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error
