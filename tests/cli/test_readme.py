"""Every command in the README and the pages of docs is one that the real command line takes."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ldct_jax import cli
from tests.dicom_fixtures import anatomy, noisy, write_mayo, write_series

ROOT = Path(__file__).parents[2]


PAGES = sorted(page.relative_to(ROOT) for page in (ROOT / "docs").glob("*.md"))


def commands(page: Path = Path("README.md")) -> list[str]:
    """The ``make`` and ``ldct`` lines of a page's fenced blocks, without their comments."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    lines = (line.removeprefix("$ ") for block in blocks for line in block.splitlines())
    return [line.split(" #")[0].strip() for line in lines if re.match(r"(make|ldct) ", line)]


def called(command: str) -> list[list[str]]:
    """The words after ``ldct`` of what a command runs; ``make`` says it without running it."""
    if command.startswith("ldct "):
        return [shlex.split(command)[1:]]
    words = ["make", "-n", *shlex.split(command)[1:]]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = told.replace("\\\n", " ").splitlines()
    found = [line.split("bin/ldct ", 1)[1] for line in lines if "bin/ldct " in line]
    return [shlex.split(line.split(" | ")[0]) for line in found]


def parse(words: list[str]) -> None:
    """Raise click's error for a command, option or number of arguments that doesn't exist."""
    command = cli.ldct
    while hasattr(command, "get_command"):
        name, *words = words
        command = command.get_command(None, name)
        assert command is not None, name
    context = type(command).context_class(command, info_name=command.name)
    options, arguments, _ = command.make_parser(context).parse_args(args=list(words))
    assert not arguments, f"too many arguments: {arguments}"
    needed = [p.name for p in command.params if p.param_type_name == "argument" and p.required]
    assert all(options.get(name) for name in needed), needed


@pytest.mark.core
@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_is_taken(command):
    found = called(command)
    assert found or command.startswith(("make test", "make lint", "make bench")), command
    for words in found:
        parse(words)


@pytest.mark.core
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_commands_of_a_page_are_taken(page):
    for command in commands(page):
        found = called(command)
        assert found or command.startswith(("make test", "make lint", "make bench")), command
        for words in found:
            parse(words)


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
