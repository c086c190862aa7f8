"""The page of third-party troubles is about the versions that are pinned."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.core
ROOT = Path(__file__).parents[1]
PAGE = "docs/third_party.md"


def rows() -> list[list[str]]:
    """Part, versions, trouble, remedy and test of each row."""
    lines = (ROOT / PAGE).read_text("utf-8").splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return table[1:]


def pinned() -> dict[str, set[str]]:
    """The versions of every package in all lock files."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "requirements").glob("*.txt"):
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M):
            found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("part", sorted({row[0] for row in rows()}))
def test_a_trouble_was_checked_for_the_pinned_versions(part):
    versions = {v for row in rows() if row[0] == part for v in row[1].split(", ")}
    assert versions == pinned().get(part), (
        f"the lock files pin another {part}: see whether its troubles in {PAGE} are still there "
        "and the remedies still work, then write the new version there"
    )


def test_every_row_is_whole_and_its_test_exists():
    assert len(rows()) > 15
    for row in rows():
        assert len(row) == 5 and all(row), row
        assert (ROOT / row[4]).is_file(), row


def test_what_is_held_at_one_version_says_why():
    """A pin in pyproject.toml is there for some trouble; PyTorch is only compared with."""
    text = (ROOT / "pyproject.toml").read_text()
    held = set(re.findall(r'"([\w.-]+)==', text)) - {"torch"}
    assert held and held <= {row[0] for row in rows()}
