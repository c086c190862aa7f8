"""Large pages: asked for once, where the system gives them on request."""

import platform
import subprocess
import sys

import pytest

from ldct_jax import huge_pages

pytestmark = pytest.mark.core


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system that gives large pages on request, with a glibc that can ask."""
    enabled = tmp_path / "enabled"
    enabled.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "ENABLED", enabled)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    return enabled


def test_they_are_asked_for_beside_what_is_set(system):
    assert huge_pages.tunables({}) == "glibc.malloc.hugetlb=1"
    both = huge_pages.tunables({"GLIBC_TUNABLES": "glibc.malloc.check=3"})
    assert both == "glibc.malloc.check=3:glibc.malloc.hugetlb=1"


def test_not_where_it_was_decided_already(system, monkeypatch):
    assert huge_pages.tunables({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) is None
    for words in ("[always] madvise never", "always madvise [never]"):
        system.write_text(words)
        assert huge_pages.tunables({}) is None
    system.unlink()
    assert huge_pages.tunables({}) is None


@pytest.mark.parametrize("library", [("glibc", "2.31"), ("", "")])
def test_not_where_nobody_could_ask(library, system, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    assert huge_pages.tunables({}) is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")
@pytest.mark.parametrize("command, begins", [("train", 2), ("models", 1)])
def test_a_command_that_computes_begins_once_more_and_goes_on(command, begins, system):
    code = (
        "import os, pathlib, platform, sys\n"
        "from ldct_jax import cli, huge_pages\n"
        "print('begins', os.getpid(), os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
        f"huge_pages.ENABLED = pathlib.Path({str(system)!r})\n"
        "platform.libc_ver = lambda: ('glibc', '2.36')\n"
        f"cli.main([{command!r}, '--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("begins")]
    assert done.returncode == 0 and len(said) == begins, done.stderr
    assert len({pid for _, pid, _ in said}) == 1  # signals and exit codes reach the same process
    assert [value for *_, value in said] == ["None", "glibc.malloc.hugetlb=1"][:begins]
    assert f"Usage: ldct {command}" in done.stdout
