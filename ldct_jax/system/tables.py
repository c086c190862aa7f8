"""Tables for a terminal, a log or a pipe."""

from __future__ import annotations

import io
from collections.abc import Sequence


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> str:
    """Aligned columns without borders, never wrapped or cut, however wide.

    ``right``: a letter a column, ``r`` for those of numbers that are aligned on the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(head):
        aligned = "right" if right[i : i + 1] == "r" else "left"
        table.add_column(Text(name), justify=aligned, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as Text: a name in brackets is no mark-up
    width = 10 + max(sum(2 + len(cell) for cell in row) for row in [head, *rows])
    console = Console(file=io.StringIO(), width=2 * width, color_system=None, legacy_windows=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
