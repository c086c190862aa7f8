"""Every command in the README is one that the real command line takes, and its trainings run."""

from pathlib import Path

import pytest

from ldct_jax import cli
from tests.cli.pages import called, check, commands
from tests.dicom_fixtures import anatomy, noisy, write_mayo, write_series


@pytest.mark.core
@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_is_taken(command):
    check(command)


def normal_dose(root: Path, patients) -> None:
    """A folder of normal-dose series, one a patient."""
    for seed, patient in enumerate(patients):
        hu = noisy(anatomy(seed, n=3), 10, seed)
        write_series(root / patient, hu, PatientID=patient)


@pytest.mark.promise("two-commands")
@pytest.mark.long
@pytest.mark.parametrize("command", [c for c in commands() if "EXP=" in c])
def test_a_training_of_the_readme_runs_at_the_smoke_scale(command, tmp_path):
    """Small patients made here stand in for the user's folders; one row is enough for those."""
    (words,) = called(command)
    assert "--init" not in words, "nothing stands in for a user's checkpoint yet"
    if "sample" in words:
        pytest.skip("fetches patients from the network")
    if "--data" in words:
        place = words.index("--data") + 1
        write = {"/path/to/dicom": normal_dose, "/path/to/mayo": write_mayo}[words[place]]
        write(tmp_path / "data", patients=("L067", "L096", "L109"))
        words[place : place + 1] = [str(tmp_path / "data"), "--variant", "full PCN"]
    settings = [w for w in words if w.startswith(("model.n_filters", "steps", "epochs"))]
    kept = [w for w in words if w not in ("--scale", "paper", "--set", *settings)]
    assert cli.run([*kept, "--scale", "smoke", "--out", str(tmp_path / "runs")]) == 0
    assert (tmp_path / "runs" / "report.html").is_file()
