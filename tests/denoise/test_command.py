"""``ldct denoise``."""

from __future__ import annotations

import json

import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.run import RECORD
from tests.denoise.series import two_series

pytestmark = pytest.mark.core


def test_the_command_sums_up(tmp_path, capsys):
    source = two_series(tmp_path / "in")
    arguments = ["denoise", str(source), str(tmp_path / "out"), "--model", "gaussian"]
    assert cli([*arguments, "--blend", "0.7"]) == 0
    text = capsys.readouterr().out
    assert "a #1" in text and "64x64" in text and "blend 0.7" in text
    assert cli([*arguments[:2], str(tmp_path / "o"), *arguments[3:], "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    first = record["results"][0]
    assert first["written"] == 3 and first["clipped_pixels"] == 0
    assert abs(first["change_hu_mean"]) < 5 < first["change_hu_sd"]
    saved = json.loads((tmp_path / "out" / RECORD).read_text())
    assert saved["results"][0]["blend"] == 0.7


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{in}", "{out}", "--model", "nothing"], 2, "there is no model 'nothing'"),
        (["{in}", "{out}", "--model", "identity", "--blend", "1.5"], 2, "between 0 and 1"),
        (["{in}", "{out}", "--model", "identity", "--blend", "nan"], 2, "between 0 and 1"),
        (["{in}", "{in}", "--model", "identity"], 2, "choose another folder"),
        (["{out}", "{out}", "--model", "identity"], 2, "doesn't exist"),
        (["{in}"], 2, "Missing argument"),
    ],
)
def test_wrong_use_exits_with_2_and_one_line(tmp_path, capsys, arguments, code, words):
    two_series(tmp_path / "in")
    places = {"in": tmp_path / "in", "out": tmp_path / "out"}
    assert cli(["denoise", *(a.format(**places) for a in arguments)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "out").exists()
