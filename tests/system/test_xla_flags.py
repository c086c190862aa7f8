"""Large pages: asked for once, where the system gives them on request."""

import platform
import subprocess
import sys

import pytest

from ldct_jax import cli
from ldct_jax.system import xla_flags

pytestmark = pytest.mark.core


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system that gives large pages on request, with a glibc that can ask."""
    enabled = tmp_path / "enabled"
    enabled.write_text("always [madvise] never\n")
    monkeypatch.setattr(xla_flags, "ENABLED", enabled)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    return enabled


def test_they_are_asked_for_beside_what_is_set(system):
    assert xla_flags.tunables({}) == "glibc.malloc.hugetlb=1"
    both = xla_flags.tunables({"GLIBC_TUNABLES": "glibc.malloc.check=3"})
    assert both == "glibc.malloc.check=3:glibc.malloc.hugetlb=1"


def test_not_where_it_was_decided_already(system, monkeypatch):
    assert xla_flags.tunables({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) is None
    for words in ("[always] madvise never", "always madvise [never]"):
        system.write_text(words)
        assert xla_flags.tunables({}) is None
    system.unlink()
    assert xla_flags.tunables({}) is None


@pytest.mark.parametrize("library", [("glibc", "2.31"), ("", "")])
def test_not_where_nobody_could_ask(library, system, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    assert xla_flags.tunables({}) is None


# What a system does at a process's start, before the command line is run as a module.
SYSTEM = """
import os, pathlib, platform, sys
if sys.argv[0] == "-m":
    print("begins", os.getpid(), os.environ.get("GLIBC_TUNABLES"), flush=True)
    from ldct_jax import cli, xla_flags
    xla_flags.ENABLED = pathlib.Path(os.environ["ENABLED"])
    platform.libc_ver = lambda: ("glibc", "2.36")
    if "FORGETS" in os.environ:
        os.environ.pop("GLIBC_TUNABLES", None)
"""


def begins(system, tmp_path, command: str, **environment) -> list[list[str]]:
    """(pid, tunables) of each beginning of ``ldct COMMAND --help``."""
    (tmp_path / "sitecustomize.py").write_text(SYSTEM)
    path = ":".join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "ldct_jax", command, "--help"],
        env={"PATH": "", "PYTHONPATH": path, "ENABLED": str(system), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and f"Usage: ldct {command}" in done.stdout, done.stderr
    return [x.split()[1:] for x in done.stdout.splitlines() if x.startswith("begins")]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")
def test_a_command_that_computes_begins_once_more_and_goes_on(system, tmp_path):
    (first, none), (second, value) = begins(system, tmp_path, "train")
    assert (none, value) == ("None", "glibc.malloc.hugetlb=1")
    assert first == second  # signals and exit codes reach the same process
    assert len(begins(system, tmp_path, "models")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")
def test_it_begins_no_third_time_where_the_system_forgets_what_was_asked(system, tmp_path):
    assert len(begins(system, tmp_path, "train", FORGETS="1")) == 2


def test_a_caller_in_python_is_left_alone(system, monkeypatch):
    monkeypatch.setattr(xla_flags.os, "execve", lambda *_: pytest.fail("began again"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--help"])
    assert ended.value.code == 0
