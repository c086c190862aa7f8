"""The log of a run: ``metrics.jsonl``, a line a step, and TensorBoard events of the same numbers.

The lines hold nothing that a clock or the machine's speed decides, so that two runs with one seed,
or one run with interruptions, leave the same file.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

from ldct_jax.system.files import write_bytes


class MetricsLog:
    """Appends to a run's log; ``from_step`` drops what an interrupted run logged after its last
    checkpoint, because those steps are run again.

    ``losses`` are those of the steps that were kept.
    """

    def __init__(self, folder: Path, from_step: int = 0):
        self.path = Path(folder) / "metrics.jsonl"
        self.losses: list[float] = []
        self._evaluated: set[int] = set()
        if self.path.exists():
            kept = [row for row in read(self.path) if row["step"] <= from_step]
            self.losses = [row["loss"] for row in kept if "loss" in row]
            self._evaluated = {row["step"] for row in kept if "evaluation" in row}
            text = "".join(json.dumps(row) + "\n" for row in kept)
            # In one step: a crash in between must not lose what the checkpoint counts on.
            write_bytes(self.path, text.encode())
        self._file = self.path.open("a")
        self._events = Events(Path(folder) / "tensorboard", from_step + 1 if from_step else None)

    def evaluated(self, step: int) -> bool:
        """Whether the log has the evaluation of ``step``."""
        return step in self._evaluated

    def step(self, step: int, epoch: int, **numbers: float) -> None:
        """One training step, counted from 1."""
        self._write("train", {"step": step, "epoch": epoch, **numbers})

    def evaluation(self, step: int, epoch: int, numbers: dict) -> None:
        """What the monitor found after ``step`` steps; values are numbers or lists of them."""
        self._evaluated.add(step)
        self._write("evaluation", {"step": step, "epoch": epoch, "evaluation": numbers})

    def _write(self, group: str, row: dict) -> None:
        self._file.write(json.dumps(row) + "\n")
        scalars = {
            f"{group}/{name}": value
            for name, value in {**row, **row.get("evaluation", {})}.items()
            if name not in ("step", "evaluation") and isinstance(value, int | float)
        }
        self._events.add(row["step"], scalars)

    def flush(self) -> None:
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        self._file.close()
        self._events.close()


class Events:
    """A TensorBoard event file of scalars, under a name that doesn't hold the machine's.

    tensorboardX's own writer appends the host name, which stays where the process is killed.
    ``purge_step``: TensorBoard forgets what earlier files say from this step on.
    """

    def __init__(self, folder: Path, purge_step: int | None):
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        names = (f"events.out.tfevents.{n:06d}" for n in itertools.count())
        free = next(name for name in names if not (folder / name).exists())
        self._file = RecordWriter(str(folder / free))
        self._put(file_version="brain.Event:2")
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._put(step=purge_step, session_log=start)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
        # One event for all of them: one for each was a per cent of short steps' time.
        self._put(step=step, summary=self._summary(value=values))

    def _put(self, **what) -> None:
        self._file.write(self._event(wall_time=time.time(), **what).SerializeToString())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class NoLog:
    """The log of all processes but the first: they see the same numbers and write none."""

    losses = ()

    def step(self, step: int, epoch: int, **numbers: float) -> None: ...

    def evaluation(self, step: int, epoch: int, numbers: dict) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def read(path: Path) -> list[dict]:
    """The rows of a ``metrics.jsonl``; a line that a crash cut short is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
