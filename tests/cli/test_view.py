"""``ldct view``: what the page holds, and what is refused."""

import json
import re

import numpy as np
import pytest

from ldct_jax.cli import run as cli
from tests.dicom_fixtures import anatomy, noisy, write_series


def data_of(page) -> dict:
    return json.loads(re.search(r'id="viewer-data">(.*?)</script>', page.read_text(), re.S)[1])


def test_a_series_and_its_result_and_no_name_of_anything(tmp_path):
    hu = noisy(anatomy(0, n=3), 20, 0)
    write_series(tmp_path / "Doe_Jane", hu)
    np.save(tmp_path / "Doe_result.npy", hu.astype(np.float32))
    out = tmp_path / "page.html"
    command = ["view", str(tmp_path / "Doe_Jane"), str(tmp_path / "Doe_result.npy")]
    assert cli([*command, "--out", str(out)]) == 0
    data = data_of(out)
    assert data["labels"] == ["before", "after"] and data["step"] == 1 and data["of"] == 3
    assert "Doe" not in out.read_text()
    assert cli([*command, "--out", str(out)]) == 2, "exists"
    assert cli([*command, "--out", str(out), "--overwrite", "--slices", "2:3"]) == 0
    assert data_of(out)["of"] == 2


def test_what_can_not_be_compared_is_one_line(tmp_path, capsys):
    np.save(
        tmp_path / "a.npy",
        np.full((2, 16, 16), 40, np.int16) - 1000 * (np.arange(16) < 8).astype(np.int16),
    )
    np.save(
        tmp_path / "b.npy",
        np.full((3, 16, 16), 40, np.int16) - 1000 * (np.arange(16) < 8).astype(np.int16),
    )
    a, b, out = (str(tmp_path / n) for n in ("a.npy", "b.npy", "o.html"))
    for words, code, said in (
        ([a, b], 1, "can't be compared"),
        ([a, "--slices", "0:9"], 2, "within 1:2"),
        ([a, "--label", "x", "--label", "y"], 2, "once for each of 1 images"),
        ([str(tmp_path / "no")], 2, "doesn't exist"),
    ):
        assert cli(["view", *words, "--out", out]) == code, words
        assert said in capsys.readouterr().err
    assert not (tmp_path / "o.html").exists()


@pytest.mark.core
def test_help_has_an_example(capsys):
    assert cli(["view", "--help"]) == 0
    assert "ldct view scans/chest denoised/chest" in capsys.readouterr().out
