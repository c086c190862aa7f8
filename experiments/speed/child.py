"""A row's own process: it gets ready, says so, and measures once for each line that it reads."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def answer(facts: dict, once: Callable[[], dict]) -> None:
    """Print ``facts`` as JSON, then for each line on standard input what ``once()`` found."""
    # Libraries that print find standard error.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(facts), file=out, flush=True)
    for _ in sys.stdin:
        print(json.dumps(once()), file=out, flush=True)


def repeats(run: Callable[[int], None], units: float, seconds: float, step: int = 1) -> tuple:
    """(facts, function that measures once) of ``run(n)``, which does ``n`` steps and waits.

    A repeat has a multiple of ``step`` steps and takes ``seconds`` at least; ``units``: what one
    step does. A few untimed steps come first: while other rows had their turn, the system took
    back memory.
    """
    run(step)
    began = time.perf_counter()
    run(step)
    n = step * max(1, math.ceil(seconds / max(time.perf_counter() - began, 1e-9)))

    def once() -> dict:
        run(step)
        began = time.perf_counter()
        run(n)
        return {"seconds": time.perf_counter() - began, "units": n * units, "steps": n}

    return {"steps_per_repeat": n}, once


def peak_of_process() -> int:
    """Bytes. On Linux not by getrusage, which counts what was there before this program's exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
