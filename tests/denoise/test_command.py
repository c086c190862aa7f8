"""``ldct denoise``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.models import load
from ldct_jax.denoise.run import RECORD
from tests.denoise.series import two_series
from tests.dicom_fixtures import anatomy, noisy, write_series


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


def test_summaries_say_the_step_of_a_checkpoint(run_folder, tmp_path, capsys):
    source, step = two_series(tmp_path / "in"), load(run_folder).step
    assert step > 0
    model = ["--model", str(run_folder)]
    assert cli(["denoise", str(source), str(tmp_path / "out"), *model]) == 0
    assert f", step {step}, sha256 " in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / RECORD).read_text())
    assert {row["step"] for row in saved["results"]} == {step}
    scores = tmp_path / "scores.json"
    assert cli(["evaluate", *[str(source / "a")] * 2, *model, "--json", str(scores)]) == 0
    assert f", step {step}, sha256 " in capsys.readouterr().out
    assert json.loads(scores.read_text())["model"]["step"] == step
    assert cli(["denoise", str(source), str(tmp_path / "g"), "--model", "gaussian"]) == 0
    assert ", step " not in capsys.readouterr().out


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


def test_slices_that_came_out_as_they_went_in_are_counted(tmp_path, capsys):
    """The shipped model leaves those alone that are as quiet as a routine scan: 2 of 5 here."""
    quiet = anatomy(0, n=2, size=96)
    loud = noisy(anatomy(1, n=3, size=96), 45, 0)
    write_series(tmp_path / "in" / "quiet", noisy(quiet, 4, 0), SeriesNumber=1)
    np.save(tmp_path / "in" / "volume.npy", np.concatenate([noisy(quiet, 4, 1), loud]))
    assert cli(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--json"]) == 0
    found = {r["name"]: r for r in json.loads(capsys.readouterr().out)["results"]}
    assert sorted((r["unchanged"], r["written"]) for r in found.values()) == [(2, 2), (2, 5)]
    again = ["denoise", str(tmp_path / "in"), str(tmp_path / "again")]
    assert cli(again) == 0
    assert "unchanged: 4 slices" in capsys.readouterr().out
    assert cli([*again[:2], str(tmp_path / "g"), "--model", "gaussian"]) == 0
    assert "unchanged" not in capsys.readouterr().out
