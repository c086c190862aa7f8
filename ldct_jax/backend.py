"""The accelerator: that it is the one the user means, and that compiled programs are kept."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ldct_jax.errors import LdctError

ACCEL = "ACCEL"


def cache_folder() -> Path:
    """The user's cache folder of this package (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ldct_jax"


def nvidia_driver() -> bool:
    """Whether an NVIDIA driver answers on this machine."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def start() -> None:
    """Set jax up for a command: compilation cache on, quiet libraries, the accelerator checked.

    Raises LdctError where there is a GPU that jax doesn't see, unless ``ACCEL=cpu`` is set in the
    environment: training on the CPU by accident costs a day before anyone notices.
    """
    # Orbax logs what it also raises, with a traceback; its errors reach the user as one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if os.environ.get(ACCEL) == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    except OSError:
        logging.getLogger(__name__).warning(
            "the cache folder can't be written: programs are compiled anew each time "
            "(XDG_CACHE_HOME chooses another)"
        )
    if nvidia_driver() and jax.default_backend() == "cpu" and os.environ.get(ACCEL) != "cpu":
        raise LdctError(
            "this machine has an NVIDIA GPU that jax doesn't see: set up again with ACCEL=cuda12 "
            "or ACCEL=cuda13 (make clean-venv setup ACCEL=cuda12), or say ACCEL=cpu"
        )
