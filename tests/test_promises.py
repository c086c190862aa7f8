"""Every promise of the README has a test, and its numbers are those of docs/results."""

import json
import re

import pytest

from tests.promises import PAGE, PROMISES, ROOT, held, page, sections

pytestmark = pytest.mark.core
RESULTS = ROOT / "docs" / "results"


def test_a_promise_is_the_readmes_own_text_and_stands_there_once():
    text = " ".join(sections().values())
    wrong = {key: words for key, words in PROMISES.items() if text.count(words) != 1}
    assert not wrong, "tests/promises.py quotes the README; it changed, so see what holds it now"


def test_every_promise_has_a_test_and_every_mark_a_promise():
    assert set(held()) == set(PROMISES)


def test_no_section_and_no_command_is_without_a_promise():
    for head, text in sections().items():
        assert any(words in text for words in PROMISES.values()), f"{head} has no promise"
    commands = re.findall(r"\| `(?!ldct`)[a-z].*? \|.*?\|", sections()["What there is"])
    assert len(commands) > 7
    for row in commands:
        assert any(words in row for words in PROMISES.values()), f"{row} has no promise"


def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == page(), "python -m tests.promises writes it"


@pytest.mark.promise("quality")
def test_the_readmes_image_quality_is_what_was_measured():
    found = json.loads((RESULTS / "shipped" / "held_out.json").read_text())["rows"]
    psnr = {(row["dose"], row["method"]): row["PSNR [dB]"] for row in found}
    names = {"nlm": "non-local means", "tv": "total variation"}
    row = r"\| (\d+ %) \| (\S+) dB \| (\S+) dB \((.+?)\) \| (.+?) \|"
    rows = re.findall(row, sections()["ldct_jax"])
    assert len(rows) == 4
    for dose, low, best, name, model in rows:
        filters = {method: x for (of, method), x in psnr.items() if of == dose}
        del filters["undenoised"], filters["model"]
        assert len(filters) == 6
        expected = max(filters, key=filters.get)
        assert name == names[expected]
        numbers = psnr[dose, "undenoised"], filters[expected], psnr[dose, "model"]
        told = [float(x) for x in (low, best, re.sub(r"\*| dB", "", model))]
        assert told == pytest.approx(numbers, abs=0.0051)
        assert model.startswith("**") == (numbers[2] > numbers[1]), "bold is what beats the filters"


def ratios(file: str, row: str) -> list[str]:
    """Of a row of ours to the fastest PyTorch row: a PCN step, RED-CNN's, whole slices."""
    text = (RESULTS / "speed" / file).read_text("utf-8")
    lines = [line for line in text.splitlines() if f"| {row} |" in line and "/s " in line]
    found = {}
    for work, _, _, _, compared, *_ in (line.strip("| ").split(" | ") for line in lines):
        found.setdefault(" ".join(work.split()[:2]).rstrip(","), compared)
    return [found[k] for k in ("pcn train", "redcnn train", "pcn infer")]


@pytest.mark.promise("speed")
def test_the_readmes_speed_is_what_was_measured():
    three = r"(\S+), (\S+), (\S+)"
    told = re.search(
        rf"{three} of PyTorch's rate on an AMD EPYC; {three} on an Intel Xeon, with the optional "
        r"\[oneDNN\]\(docs/training.md\) "
        rf"{three} ",
        " ".join(sections()["ldct_jax"].split()),
    )
    epyc, xeon = ratios("speed.md", "ours"), ratios("xeon/speed.md", "without oneDNN")
    assert list(told.groups()) == epyc + xeon + ratios("xeon/speed.md", "ours")


@pytest.mark.promise("no-patients")
def test_no_image_of_anybody_is_in_the_repository():
    """No file is DICOM, a volume or an array, but for the weights of what ships."""
    files = [
        path
        for folder in ("ldct_jax", "experiments", "tests", "docs", "requirements")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    endings = (
        ".dcm",
        ".nii",
        ".gz",
        ".nrrd",
        ".npy",
        ".npz",
        ".h5",
        ".tar",
        ".zip",
        ".raw",
        ".mha",
    )
    assert [path.name for path in files if path.name.endswith(endings)] == ["pcn3.npz"]
    for path in files:
        with path.open("rb") as file:
            assert file.read(132)[128:] != b"DICM", path
