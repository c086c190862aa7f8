"""The accelerator: that it is the one the user means, and that compiled programs are kept."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from ldct_jax.errors import LdctError, UsageError

ACCEL = "ACCEL"
# Set by hand where there is no launcher: HOST:PORT of the first process, how many, which one.
JOIN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# A process that is silent for this long is lost; the others then end, wherever they wait for it.
LOST_AFTER_S = 30


def cache_folder() -> Path:
    """The user's cache folder of this package (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ldct_jax"


def nvidia_driver() -> bool:
    """Whether an NVIDIA driver answers on this machine."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def start(*, distributed: bool = False) -> None:
    """Set jax up for a command: compilation cache, quiet libraries, accelerator and sums checked.

    ``distributed``: this process is one of several, see :func:`join`. Raises LdctError where
    there is a GPU that jax doesn't see, unless ``ACCEL=cpu`` is set in the environment: training
    on the CPU by accident costs a day before anyone notices.
    """
    # Orbax logs what it also raises, with a traceback; its errors reach the user as one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # The first report on a machine builds a cache of fonts: nothing that a user has to know.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    _quieten_closed_loops()
    if os.environ.get(ACCEL) == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # the user's own choice, jax has read it
        _keep_programs(cache_folder() / "compiled")
    if distributed:
        join()  # before the first question about devices
    if nvidia_driver() and jax.default_backend() == "cpu" and os.environ.get(ACCEL) != "cpu":
        raise LdctError(
            "this machine has an NVIDIA GPU that jax doesn't see: set up again with ACCEL=cuda12 "
            "or ACCEL=cuda13 (make clean-venv setup ACCEL=cuda12), or say ACCEL=cpu"
        )
    from ldct_jax.system import canary

    canary.check()


def _keep_programs(folder: Path) -> None:
    """Compiled programs that took half a second or more stay in ``folder``."""
    import jax

    try:
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    except OSError:
        logging.getLogger(__name__).warning(
            "the cache folder can't be written: programs are compiled anew each time "
            "(XDG_CACHE_HOME chooses another)"
        )


def _quieten_closed_loops() -> None:
    """Drop one known, harmless message: writes that end after their checkpoint has failed.

    On a full disk the other arrays' writers find their event loop closed and report that through
    ``sys.unraisablehook``, with a traceback each, around the one line that says what is wrong.
    """
    before = sys.unraisablehook

    def hook(unraisable):
        known = isinstance(unraisable.exc_value, RuntimeError)
        if not (known and str(unraisable.exc_value) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook


def join() -> None:
    """Find the other processes: by :data:`JOIN`, else by jax's own detection of launchers.

    Afterwards ``jax.devices()`` are those of all processes. Raises UsageError where only some of
    the variables are set, LdctError where no launcher is recognised or the others don't answer.
    """
    import jax

    given = {name: os.environ[name] for name in JOIN if os.environ.get(name)}
    # jax itself reads the first of them, also beside a launcher that knows the other two.
    arguments = {}
    if given.keys() & set(JOIN[1:]):
        if missing := [name for name in JOIN if name not in given]:
            raise UsageError(f"{missing[0]} is not set: give {', '.join(JOIN)}, or none of them")
        address, *numbers = given.values()
        if not all(number.isdecimal() for number in numbers):
            raise UsageError(
                f"{JOIN[1]} and {JOIN[2]} must be numbers, not {' and '.join(numbers)}"
            )
        arguments = {
            "coordinator_address": address,
            "num_processes": int(numbers[0]),
            "process_id": int(numbers[1]),
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=LOST_AFTER_S)
    except ValueError as error:
        raise LdctError(
            f"no launcher was recognised ({' '.join(str(error).split())}): start under SLURM, "
            f"Open MPI, Kubernetes or on a TPU pod, or set {', '.join(JOIN)}"
        ) from error
    except RuntimeError as error:
        raise LdctError(f"the processes don't find each other: {error}") from error


def is_first() -> bool:
    """Whether this process is the one that reports to the user."""
    import jax

    return jax.process_index() == 0
