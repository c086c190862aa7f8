"""What XLA:CPU is told before jax starts: one flag, and large pages for its working memory.

**The flag.** jaxlib 0.10.2 to 0.12.0 hand convolutions of more than 16 channels to YNNPACK, which
takes our shapes at half to nine tenths of the speed of XLA's own. The flag keeps them: a training
step of the full PCN takes three quarters of the time. jaxlib 0.10.2 also hands it
reductions that it computes wrongly (jax-ml/jax#39103), so there it must not have those either.
`import ldct_jax` sets the flag, before the first computation; it is read once in a process.

**Large pages.** XLA:CPU allocates the memory of a program anew at every call and frees it at the
end. A training step of the full PCN takes 450 MB that way, which in pages of 4 KiB is 116,000 page
faults and a tenth of the step's time, in pages of 2 MiB 600. glibc asks for them where its tunable
``glibc.malloc.hugetlb`` says so, which it reads when a process starts: hence a re-exec.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
RESTARTED = "LDCT_RESTARTED"
_TUNABLE = "glibc.malloc.hugetlb"
# The first glibc that knows the tunable.
_GLIBC = (2, 35)

FLAGS = "XLA_FLAGS"
FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"
_CONVOLUTION, _REDUCE = "-individual_convolution", "-reduce"
# XLA aborts at a flag, or a value of one, that it doesn't know: versions that were tried.
_FIRST, _AFTER = (0, 10, 2), (0, 12, 1)
_WRONG_REDUCTIONS = (0, 10, 2)
# The user's own flags, before ours are added.
_GIVEN = os.environ.get(FLAGS, "")
# Convolutions stay with XLA unless that is slower by this factor; a busy machine is no reason.
SLOWER = 1.1
_ROUNDS = 12
_TOO_LONG_S = 60.0


def jaxlib_version() -> str:
    """The installed jaxlib's version, without importing it; an empty string where there is none."""
    from importlib import metadata

    try:
        return metadata.version("jaxlib")
    except metadata.PackageNotFoundError:
        return ""


def with_ours(given: str, jaxlib: str, convolutions_pay: bool = True) -> str:
    """``given`` XLA flags and ours for this ``jaxlib``; the user's own value of our flag stays.

    ``convolutions_pay``: whether XLA's own convolutions are the faster ones on this machine.
    """
    version = tuple(int(x) for x in jaxlib.split(".")[:3] if x.isdecimal())
    if FUSIONS in given or not _FIRST <= version < _AFTER:
        return given
    without = [_CONVOLUTION] if convolutions_pay else []
    if version == _WRONG_REDUCTIONS:
        without.append(_REDUCE)
    return f"{given} {FUSIONS}={','.join(without)}".strip() if without else given


def add_flags() -> None:
    """Put our flags into ``XLA_FLAGS`` unless it is too late for this process."""
    if _too_late():
        return
    jaxlib = jaxlib_version()
    flags = with_ours(_GIVEN, jaxlib, remembered(_machine(jaxlib), True))
    if flags != os.environ.get(FLAGS, ""):
        os.environ[FLAGS] = flags


def _too_late() -> bool:
    """Whether jax has started its devices, after which XLA reads no flags."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is None:
        return False
    started = getattr(bridge, "backends_are_initialized", None)
    return started is None or started()


def find_out() -> None:
    """Measure once for each CPU model and jaxlib whether the flag pays (two seconds), and set it.

    For commands that compute, before jax starts. The answer is kept in the cache folder, for
    `import ldct_jax` as well. Nothing happens where the user set the flag, or jax is running.
    """
    jaxlib = jaxlib_version()
    key = _machine(jaxlib)
    never = with_ours(_GIVEN, jaxlib, False)
    if _too_late() or remembered(key) is not None or with_ours(_GIVEN, jaxlib) == never:
        return
    theirs, ours = _in_turn(never, with_ours(_GIVEN, jaxlib))
    # What was too late, as on a busy machine, says nothing that is worth keeping (NaN).
    if not math.isnan(theirs + ours) and min(theirs, ours) < float("inf"):
        remember(key, ours < SLOWER * theirs)
        add_flags()


def _machine(jaxlib: str) -> str:
    from ldct_jax.system.provenance import cpu_model

    return f"convolutions of jaxlib {jaxlib} on {cpu_model()}"


# A convolution of the PCN in a process of its own: one time for each line that it reads.
_PROBE = """
import sys, time, jax, jax.numpy as jnp
from jax import lax
x, kernel = jnp.ones((8, 51, 51, 48)), jnp.ones((3, 3, 48, 48))
names = ("NHWC", "HWIO", "NHWC")
f = jax.jit(lambda *a: lax.conv_general_dilated(*a, (1, 1), "VALID", dimension_numbers=names))
f(x, kernel).block_until_ready()
for _ in sys.stdin:
    began = time.perf_counter()
    f(x, kernel).block_until_ready()
    print(time.perf_counter() - began, flush=True)
"""


def _in_turn(*choices: str) -> list[float]:
    """The shortest time of the probe's convolution, seconds, with each value of ``XLA_FLAGS``.

    The processes take turns, so that other work on the machine meets them alike. One that dies has
    infinite time, one that takes too long NaN.
    """
    times = [float("inf")] * len(choices)
    late = set()
    with contextlib.ExitStack() as stack:
        running = []
        for flags in choices:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROBE],
                env={**os.environ, FLAGS: flags, "JAX_PLATFORMS": "cpu"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            timer = threading.Timer(_TOO_LONG_S, _give_up, (process, len(running), late))
            stack.callback(timer.cancel)
            timer.start()
            running.append(process)
        for _ in range(_ROUNDS):
            for i, process in enumerate(running):
                with contextlib.suppress(BrokenPipeError, ValueError):
                    process.stdin.write("\n")
                    process.stdin.flush()
                    times[i] = min(times[i], float(process.stdout.readline()))
    return [math.nan if i in late else time for i, time in enumerate(times)]


def _give_up(process: subprocess.Popen, number: int, late: set[int]) -> None:
    late.add(number)
    process.kill()


def _notes() -> Path:
    from ldct_jax.system.accelerator import cache_folder

    return cache_folder() / "this_machine.json"


def remembered(key: str, default=None):
    """What :func:`remember` kept under ``key``, else ``default``."""
    try:
        return json.loads(_notes().read_text("utf-8")).get(key, default)
    except (OSError, ValueError, AttributeError):
        return default


def remember(key: str, value: bool) -> None:
    """Keep ``value`` in the cache folder; where that can't be written, it is found out again."""
    from ldct_jax.errors import LdctError
    from ldct_jax.system.files import write_bytes

    try:
        kept = json.loads(_notes().read_text("utf-8"))
    except (OSError, ValueError):
        kept = {}
    with contextlib.suppress(LdctError):
        write_bytes(_notes(), json.dumps({**kept, key: value}, indent=1).encode())


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


def restart_with_large_pages() -> None:
    """Re-exec this process, the same command with large pages, where they aren't on yet.

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
