"""The log of a run: ``metrics.jsonl``, a line a step, and TensorBoard events of the same numbers.

The lines hold nothing that a clock or the machine's speed decides, so that two runs with one seed,
or one run with interruptions, leave the same file.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from ldct_jax.system.files import write_bytes


class MetricsLog:
    """Appends to a run's log; ``from_step`` drops what an interrupted run logged after its last
    checkpoint, because those steps are run again.

    ``evaluated=False``: the evaluation of ``from_step`` is to come again as well. ``losses`` are
    those of the steps that were kept.
    """

    def __init__(self, folder: Path, from_step: int = 0, *, evaluated: bool = True):
        from tensorboardX import SummaryWriter
        from tensorboardX.proto.summary_pb2 import Summary

        self._summary, self._value = Summary, Summary.Value
        self.path = Path(folder) / "metrics.jsonl"
        self.losses: list[float] = []
        if self.path.exists():
            kept = [row for row in read(self.path) if row["step"] <= from_step]
            if not evaluated:
                kept = [r for r in kept if r["step"] < from_step or "evaluation" not in r]
            self.losses = [row["loss"] for row in kept if "loss" in row]
            text = "".join(json.dumps(row) + "\n" for row in kept)
            # In one step: a crash in between must not lose what the checkpoint counts on.
            write_bytes(self.path, text.encode())
        self._file = self.path.open("a")
        self._events = Path(folder) / "tensorboard"
        _forget_host(self._events)
        self._board = SummaryWriter(
            str(self._events), purge_step=from_step + 1 if from_step else None
        )

    def step(self, step: int, epoch: int, **numbers: float) -> None:
        """One training step, counted from 1."""
        self._write("train", {"step": step, "epoch": epoch, **numbers})

    def evaluation(self, step: int, epoch: int, numbers: dict) -> None:
        """What the monitor found after ``epoch`` epochs; values are numbers or lists of them."""
        self._write("evaluation", {"step": step, "epoch": epoch, "evaluation": numbers})

    def _write(self, group: str, row: dict) -> None:
        self._file.write(json.dumps(row) + "\n")
        scalars = [
            self._value(tag=f"{group}/{name}", simple_value=value)
            for name, value in {**row, **row.get("evaluation", {})}.items()
            if name not in ("step", "evaluation") and isinstance(value, int | float)
        ]
        # One event for all of them: add_scalar's one for each was a per cent of short steps' time.
        self._board.file_writer.add_summary(self._summary(value=scalars), row["step"])

    def flush(self) -> None:
        self._file.flush()
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()
        _forget_host(self._events)


class NoLog:
    """The log of all processes but the first: they see the same numbers and write none."""

    losses = ()

    def step(self, step: int, epoch: int, **numbers: float) -> None: ...

    def evaluation(self, step: int, epoch: int, numbers: dict) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _forget_host(folder: Path) -> None:
    """Take the machine's name, which tensorboardX appends, off the names of finished files."""
    for path in folder.glob("events.out.tfevents.*.*"):
        stem = ".".join(path.name.split(".")[:4])
        free = (n for n in itertools.count() if not (folder / f"{stem}-{n}").exists())
        path.rename(folder / f"{stem}-{next(free)}")


def read(path: Path) -> list[dict]:
    """The rows of a ``metrics.jsonl``; a line that a crash cut short is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
