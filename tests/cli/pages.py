"""The README and the pages of docs as programs: their blocks, commands, scripts and links."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from ldct_jax import cli

ROOT = Path(__file__).parents[2]
README = Path("README.md")
DOCS = sorted(page.relative_to(ROOT) for page in (ROOT / "docs").rglob("*.md"))
PAGES = [page for page in DOCS if page.parent.name == "docs"]
NOT_LDCT = ("make test", "make lint", "make bench", "make setup")
"""Targets that call no ``ldct``."""


def text_of(page: Path) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: Path) -> list[str]:
    """The contents of the fenced blocks of a page."""
    return re.findall(r"```\w*\n(.*?)```", text_of(page), re.S)


def commands(page: Path = README) -> list[str]:
    """The ``make`` and ``ldct`` lines of a page's fenced blocks, without their comments."""
    return [command for command, _ in commands_and_output(page)]


def commands_and_output(page: Path) -> list[tuple[str, str]]:
    """The same, each with the lines below it, where the page shows what it prints."""
    found: list[tuple[str, str]] = []
    for block in blocks(page):
        after = False
        for line in block.replace("\\\n", " ").splitlines():
            line, after = line.removeprefix("$ "), after and not line.startswith("$ ")
            if re.match(r"(make|ldct) ", line):
                found.append((" ".join(line.split(" #")[0].split()), ""))
                after = True
            elif after:
                found[-1] = found[-1][0], f"{found[-1][1]}{line}\n"
    return found


def scripts(page: Path) -> dict[str, str]:
    """The Python files of a page: blocks that begin with their name, ``# own.py``."""
    named = re.compile(r"# (\w+\.py)\n")
    return {m[1]: block for block in blocks(page) if (m := named.match(block))}


def called(command: str) -> list[list[str]]:
    """The words after ``ldct`` of what a command runs; ``make`` says it without running it."""
    if command.startswith("ldct "):
        return [shlex.split(command)[1:]]
    # A named interpreter saves make the search for one.
    words = ["make", "-n", "PYTHON=python3", *shlex.split(command)[1:]]
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


def check(command: str) -> None:
    """AssertionError or click's error for a command that the real command line doesn't take."""
    found = called(command)
    assert found or command.startswith(NOT_LDCT), command
    for words in found:
        parse(words)


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures, outside its blocks and code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.S)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """What a link may name behind ``#``: the headings as code hosts write them."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    plain = (re.sub(r"[^\w\- ]", "", h.strip().lower()) for h in headings)
    return {h.replace(" ", "-") for h in plain}
