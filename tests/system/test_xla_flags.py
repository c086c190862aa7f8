"""XLA's flags: ours beside the user's, measured once. Large pages: asked for once."""

import math
import os
import platform
import subprocess
import sys

import jax
import pytest

from ldct_jax import cli
from ldct_jax.errors import LdctError
from ldct_jax.system import canary, provenance, xla_flags

pytestmark = pytest.mark.core


BOTH = f"{xla_flags.FUSIONS}=-individual_convolution,-reduce"
ONE = f"{xla_flags.FUSIONS}=-individual_convolution"


@pytest.mark.parametrize(
    ("jaxlib", "pays", "ours"),
    [
        ("0.10.2", True, BOTH),
        ("0.10.2", False, f"{xla_flags.FUSIONS}=-reduce"),
        ("0.11.2", True, ONE),
        ("0.12.0.1", True, ONE),
        ("0.12.0.1", False, ""),
        ("0.10.1", True, ""),  # XLA aborts at what it doesn't know
        ("0.12.1", True, ""),
        ("0.12.1.dev20261128", True, ""),
        ("", True, ""),
    ],
)
def test_each_jaxlib_gets_flags_that_it_knows(jaxlib, pays, ours):
    assert xla_flags.with_ours("", jaxlib, pays) == ours
    assert xla_flags.with_ours("--a=1", jaxlib, pays) == f"--a=1 {ours}".strip()


def test_the_users_own_value_stays():
    given = f"--a=1 {xla_flags.FUSIONS}=-dot"
    assert xla_flags.with_ours(given, "0.10.2") == given


CONVOLUTION = """
import jax, jax.numpy as jnp
import ldct_jax
from jax import lax
names = ("NHWC", "HWIO", "NHWC")
f = jax.jit(lambda *a: lax.conv_general_dilated(*a, (1, 1), "VALID", dimension_numbers=names))
program = f.lower(jnp.ones((2, 20, 20, 48)), jnp.ones((3, 3, 48, 48))).compile().as_text()
print("ynn" in program)
"""


@pytest.mark.parametrize(
    ("flags", "ynn"), [("", "False"), (f"{xla_flags.FUSIONS}=-reduce", "True")]
)
def test_importing_the_package_takes_convolutions_from_ynnpack_unless_the_user_says(flags, ynn):
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CONVOLUTION], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [ynn], done.stderr


def test_nothing_is_set_once_jax_has_started(monkeypatch):
    jax.devices()
    monkeypatch.delenv("XLA_FLAGS")
    xla_flags.add_flags()
    assert "XLA_FLAGS" not in os.environ


@pytest.fixture
def early(monkeypatch, tmp_path):
    """A process that jax hasn't started in, with a cache folder of its own; the times it finds."""
    monkeypatch.setattr(xla_flags, "_too_late", lambda: False)
    monkeypatch.setattr(xla_flags, "_GIVEN", "")
    monkeypatch.setattr(xla_flags, "jaxlib_version", lambda: "0.12.0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")
    times = []
    monkeypatch.setattr(xla_flags, "_in_turn", lambda *_: times.pop())
    return times


@pytest.mark.parametrize(
    ("without", "with_flag", "flags"),
    [(2.0, 1.0, ONE), (1.0, 1.05, ONE), (1.0, 1.2, ""), (1.0, float("inf"), "")],
)
def test_the_flag_is_measured_once_and_left_out_where_it_does_not_pay(
    without, with_flag, flags, early
):
    early.append((without, with_flag))
    for _ in range(2):  # the second time there is no time left to pop
        xla_flags.find_out()
        assert os.environ["XLA_FLAGS"] == flags
    os.environ["XLA_FLAGS"] = ""
    xla_flags.add_flags()
    assert os.environ["XLA_FLAGS"] == flags


@pytest.mark.parametrize("failed", [(float("inf"), float("inf")), (1.0, float("nan"))])
def test_a_measurement_that_failed_is_not_remembered(failed, early):
    """On a busy machine a process that was killed for being late decided for good."""
    early.append(failed)
    xla_flags.find_out()
    early.append((1.0, 2.0))
    xla_flags.find_out()
    assert not early and os.environ["XLA_FLAGS"] == ""


def test_a_process_that_is_late_has_no_time(monkeypatch):
    monkeypatch.setattr(xla_flags, "_TOO_LONG_S", 0.05)
    (time,) = xla_flags._in_turn(os.environ["XLA_FLAGS"])
    assert math.isnan(time)


def test_nothing_is_measured_where_the_user_chose(early, monkeypatch):
    monkeypatch.setattr(xla_flags, "_GIVEN", f"{xla_flags.FUSIONS}=-dot")
    xla_flags.find_out()


def test_a_flag_that_xla_aborts_at_takes_infinitely_long():
    given = os.environ["XLA_FLAGS"]
    unknown, known = xla_flags._in_turn("--xla_no_such_flag=1", given)
    assert unknown == float("inf") and 0 < known < 10


def test_flags_are_recorded_without_paths(monkeypatch):
    assert xla_flags.FUSIONS in provenance.device()["xla_flags"]
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/someone/dump --a=1")
    assert provenance.device()["xla_flags"] == "--xla_dump_to=… --a=1"


def test_compiled_sums_are_right_here():
    assert canary.wrong_programs() == []


@pytest.mark.skipif(jax.__version__ != "0.10.2", reason="the version that is wrong")
def test_the_canary_finds_what_jaxlib_0_10_2_gets_wrong():
    code = "from ldct_jax.system import canary; print(canary.wrong_programs())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_FLAGS": ONE, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert "vmap(matvec)" in done.stdout, done.stderr


def test_wrong_sums_stop_a_command_and_right_ones_are_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers = [[], ["a sum of squares"]]
    monkeypatch.setattr(canary, "wrong_programs", lambda: answers.pop())
    with pytest.raises(LdctError, match=r"wrong numbers on this cpu .a sum of squares.*-reduce"):
        canary.check()
    canary.check()
    canary.check()
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    with pytest.raises(IndexError):  # other flags, another compiler: checked again
        canary.check()


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
    from ldct_jax import cli
    from ldct_jax.system import xla_flags
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
