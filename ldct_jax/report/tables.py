"""One table as Markdown, CSV, JSON and HTML, with the same bytes for the same numbers.

A number without its protocol and data means nothing, so a :class:`Table` can't be made without
them, and every format carries them.
"""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from ldct_jax.errors import UsageError
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.system.files import write_bytes

Cell = str | int | float | MeanSD | None


@dataclasses.dataclass(frozen=True)
class Column:
    """name: its head; unit: behind the head in brackets; digits: decimals shown in Markdown and
    HTML (CSV and JSON hold all of them); paper: the value a paper states, set apart from ours."""

    name: str
    unit: str = ""
    digits: int = 4
    paper: bool = False

    @property
    def head(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under columns.

    Args:
      name: file stem, such as ``table_1``.
      title: one line.
      columns: the heads.
      rows: as many cells a row as there are columns; a cell is text, a number, a
        :class:`MeanSD` or None (nothing is known: an en dash).
      protocol: under which protocol(s) the numbers were measured, in words.
      data: on which images, with the attribution they ask for.
      note: anything else that stands below the table.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    protocol: str
    data: str
    note: str = ""

    def __post_init__(self):
        if not (self.protocol.strip() and self.data.strip()):
            raise UsageError(f"table {self.name!r} must name its protocol and its data")
        heads = [c.head for c in self.columns]
        if not heads or len(set(heads)) < len(heads):
            raise UsageError(f"table {self.name!r} needs columns with different heads, not {heads}")
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise UsageError(
                    f"table {self.name!r}: row {i} has {len(row)} cells for {len(heads)} columns"
                )

    @property
    def caption(self) -> str:
        return f"Protocol: {self.protocol}. Data: {self.data}." + (
            f" {self.note}" * bool(self.note)
        )

    def markdown(self) -> str:
        """A GitHub table with title and caption."""

        def line(cells):
            return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

        texts = [[_text(c, k) for c, k in zip(row, self.columns, strict=True)] for row in self.rows]
        rule = ["---" if _is_text(self.rows, i) else "---:" for i in range(len(self.columns))]
        lines = [line(c.head for c in self.columns), line(rule), *(line(t) for t in texts)]
        return f"**{self.title}**\n\n" + "\n".join(lines) + f"\n\n{self.caption}\n"

    def csv(self) -> str:
        """One line a row, full precision; mean ± SD is two columns; protocol and data repeat."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        spread = [
            any(isinstance(r[i], MeanSD) for r in self.rows) for i in range(len(self.columns))
        ]
        head = []
        for column, has_sd in zip(self.columns, spread, strict=True):
            head += [column.head, f"SD of {column.head}"] if has_sd else [column.head]
        writer.writerow([*head, "protocol", "data"])
        for row in self.rows:
            cells = []
            for cell, has_sd in zip(row, spread, strict=True):
                pair = (cell.mean, cell.sd) if isinstance(cell, MeanSD) else (cell, None)
                cells += [_plain(c) for c in (pair if has_sd else pair[:1])]
            writer.writerow([*cells, self.protocol, self.data])
        return out.getvalue()

    def json(self) -> str:
        """Everything, for programs: ``{"name", "title", "protocol", "data", "note", "columns",
        "rows"}``; infinite numbers are the strings ``inf`` and ``-inf``, which JSON lacks."""
        record = {
            "name": self.name,
            "title": self.title,
            "protocol": self.protocol,
            "data": self.data,
            "note": self.note,
            "columns": [dataclasses.asdict(c) for c in self.columns],
            "rows": [
                {c.head: _json_cell(v) for c, v in zip(self.columns, row, strict=True)}
                for row in self.rows
            ],
        }
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def html(self) -> str:
        """A ``<table>`` with its caption; all text is escaped."""
        heads = "".join(
            f'<th scope="col"{_css(c, _is_text(self.rows, i))}>{html.escape(c.head)}</th>'
            for i, c in enumerate(self.columns)
        )
        body = []
        for row in self.rows:
            cells = [
                f"<td{_css(c, _is_text(self.rows, i))}>{html.escape(_text(v, c))}</td>"
                for i, (c, v) in enumerate(zip(self.columns, row, strict=True))
            ]
            body.append("<tr>" + "".join(cells) + "</tr>")
        return (
            f'<table id="{html.escape(self.name)}">'
            f"<caption><b>{html.escape(self.title)}</b></caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f'<p class="caption">{html.escape(self.caption)}</p>'
        )

    @property
    def files(self) -> dict[str, str]:
        """File name → content, for Markdown, CSV and JSON."""
        return {
            f"{self.name}.md": self.markdown(),
            f"{self.name}.csv": self.csv(),
            f"{self.name}.json": self.json(),
        }

    def write(self, folder: Path) -> None:
        """Write :attr:`files` into ``folder``, which is made."""
        for name, text in self.files.items():
            write_bytes(folder / name, text.encode())


def stem(title: str) -> str:
    """A file's stem from a title up to its colon: ``Table I: …`` is ``table_i``."""
    return re.sub(r"[^a-z0-9]+", "_", title.partition(":")[0].lower()).strip("_")


def _text(cell: Cell, column: Column) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, MeanSD):
        return cell.text(column.digits)
    if isinstance(cell, str | bool | int):
        return f"{cell:,}" if type(cell) is int else str(cell)
    return f"{cell:.{column.digits}f}"


def _is_text(rows, i: int) -> bool:
    return all(isinstance(r[i], str) for r in rows)


def _css(column: Column, text: bool) -> str:
    names = [n for n, on in (("paper", column.paper), ("number", not text)) if on]
    return f' class="{" ".join(names)}"' if names else ""


def _plain(value: Cell) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _json_cell(value: Cell):
    if isinstance(value, MeanSD):
        return {k: _json_cell(v) for k, v in dataclasses.asdict(value).items()}
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
