"""The child's half of the talk between the benchmark and a cell's process.

On standard output, lines that begin with ``@`` are JSON. The child says ``ready`` with what it
found out while it was set up, then does one timed repeat for each line ``go`` it reads, and at
``end`` says what is known only then. (The parent's half is ``bench/child.py``.)
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A cell that is compiled and warm.

    ``repeat`` → {"seconds", "units"}: how long it took and how many patches, slices or operations
    were done. ``close`` → what is known at the end, such as the peak memory.
    """

    facts: dict
    repeat: Callable[[], dict]
    close: Callable[[], dict]


class Refused(Exception):
    """The cell can't be measured, for the reason given: outputs that differ, for example."""


def serve(prepare: Callable[[], Prepared]) -> None:
    """Answer the parent on standard input and output until it says ``end``."""
    try:
        cell = prepare()
    except Refused as error:
        _say({"event": "refused", "reason": str(error)})
        return
    _say({"event": "ready", **cell.facts})
    for line in sys.stdin:
        if line.strip() == "end":
            break
        _say(cell.repeat())
    _say(cell.close())


def _say(record: dict) -> None:
    print("@" + json.dumps(record), flush=True)
