"""What all tests share: two virtual devices, no user cache, and tools that may be missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile hundreds of small programs and hardly run them: skipping LLVM's expensive passes
# makes the whole suite three times faster. Subprocesses that train for real unset it.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# What this machine's user has measured decides nothing here; each test has a folder of its own.
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / "ldct-tests-have-no-cache")

# What one test has compiled the others find, in the other worker and in child processes too.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / f"ldct-tests-compiled-{os.getpid()}"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax

import ldct_jax  # noqa: F401  adds its own flags to XLA_FLAGS
from ldct_jax.ct import add_noise_to_projections

# Noise of projections is seconds of arithmetic in one small program: here the passes pay.
add_noise_to_projections._compiled = jax.jit(
    add_noise_to_projections._compiled.__wrapped__,
    static_argnames=add_noise_to_projections.STATIC,
    compiler_options={
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    },
)

# Several devices in every test run, so that a forgotten mean over devices shows everywhere.
jax.config.update("jax_num_cpu_devices", 2)


def pytest_unconfigure(config):
    compiled = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if compiled.name == f"ldct-tests-compiled-{os.getpid()}":  # not a worker's, nor the user's
        shutil.rmtree(compiled, ignore_errors=True)


def require(condition: bool, reason: str) -> None:
    """Skip with ``reason`` unless ``condition``; with LDCT_REQUIRE_TOOLS=1 that is a failure."""
    if condition:
        return
    if os.environ.get("LDCT_REQUIRE_TOOLS") == "1":
        pytest.fail(f"LDCT_REQUIRE_TOOLS=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests neither read nor fill the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """The folder of real CT series that LDCT_TEST_CT names."""
    folder = os.environ.get("LDCT_TEST_CT", "")
    require(bool(folder) and Path(folder).is_dir(), "LDCT_TEST_CT names no folder of CT series")
    return Path(folder)
