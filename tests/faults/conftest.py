"""Restarts in one process compile each program once: what is tested is not the compiler."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory):
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    # One folder for all modules of a session: most of them train the same small network.
    folder = tmp_path_factory.getbasetemp() / "compiled"
    folder.mkdir(exist_ok=True)
    for name, value in {**SETTINGS, "jax_compilation_cache_dir": str(folder)}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in {**before, "jax_compilation_cache_dir": None}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def pytest_collection_modifyitems(items):
    """Writers of a checkpoint that was damaged under them find their event loop closed, and say so
    through sys.unraisablehook: noise (system.accelerator drops it), not a failure."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
            )
