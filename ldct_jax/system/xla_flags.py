"""Large pages for the working memory of XLA:CPU.

XLA:CPU asks for the memory of a program anew at every call and gives it back at its end. A training
step of the full PCN takes 450 MB that way, and where Linux hands them out in pages of 4 KiB, that
is 116,000 page faults and a tenth of the step's time. With pages of 2 MiB there are 600. glibc asks
for them where its tunable ``glibc.malloc.hugetlb`` says so, which it reads when a process begins.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
RESTARTED = "LDCT_RESTARTED"
_TUNABLE = "glibc.malloc.hugetlb"
# The first glibc that knows the tunable.
_GLIBC = (2, 35)


def tunables(environment=os.environ) -> str | None:
    """The value of ``GLIBC_TUNABLES`` that asks for large pages; None where it isn't needed.

    That is where it was set by somebody already, and where the system has no glibc that knows it,
    or gives large pages always, or never.
    """
    present = environment.get(TUNABLES, "")
    name, version = platform.libc_ver()
    if _TUNABLE in present or name != "glibc":
        return None
    if tuple(int(x) for x in version.split(".")[:2]) < _GLIBC:
        return None
    try:
        if "[madvise]" not in ENABLED.read_text():
            return None
    except OSError:
        return None
    return ":".join(filter(None, (present, f"{_TUNABLE}=1")))


def restart_with_them() -> None:
    """Begin this process again, the same command with large pages, where they aren't on yet.

    Only for a process's first lines: nothing that it did so far is kept but its number.
    """
    # An exec keeps the number. Some systems take the tunables out of the environment again.
    again = os.environ.pop(RESTARTED, None) == str(os.getpid())
    if again or not sys.executable or (value := tunables()) is None:
        return
    environment = {**os.environ, TUNABLES: value, RESTARTED: str(os.getpid())}
    sys.stdout.flush()
    sys.stderr.flush()
    # Where it can't: slower, and right all the same.
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
