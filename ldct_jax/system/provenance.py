"""What a result was made with: versions, device, source revision. No names, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

ONEDNN = "onednn-cpu-gomp"
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    ONEDNN,
)


def versions() -> dict[str, str]:
    """Versions of Python, this package and what it computes with."""
    found = {"python": platform.python_version()}
    for name in ("ldct-jax", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    if os.environ.get("LDCT_ONEDNN") == "0" and found[ONEDNN] != "not installed":
        found[ONEDNN] = "turned off"
    return found


def device() -> dict[str, str | int]:
    """The devices jax computes on, the processor, and XLA's flags."""
    import jax

    devices = jax.devices()
    return {
        "backend": jax.default_backend(),
        "kind": devices[0].device_kind,
        "count": len(devices),
        "cpu": cpu_model(),
        "cores": cores(),
        "xla_flags": xla_flags(),
    }


def xla_flags() -> str:
    """``XLA_FLAGS`` of this process, without the paths in it."""
    words = os.environ.get("XLA_FLAGS", "").split()
    return " ".join(w.split("=")[0] + "=…" if "/" in w else w for w in words)


def revision() -> str:
    """The git commit of the source, with ``+`` where files were changed, or ``unknown``."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "unknown"
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes else "")


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown"
    )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
