"""The benchmark: every cell a fresh process, the sides of a group in turn, one JSON at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ldct_jax
from ldct_jax.bench import results
from ldct_jax.bench.cells import OURS, THEIRS, Cell, Group, Plan
from ldct_jax.bench.child import CellFailed, Child, without_paths
from ldct_jax.bench.plans import cpu, gpu
from ldct_jax.errors import LdctError, UsageError

# Between two repeats: threads of the process that has just worked go to sleep.
PAUSE_S = 0.2
# A group is not begun with less time left than this.
LEAST_S = 10.0


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
      torch_script: the PyTorch cells' program, or None to measure our side alone.
      torch_python: its interpreter.
      small: the CPU plan even where there is a GPU.
      only: names of groups; none means all. minutes: the time limit, None for the plan's.
      command: as typed, for the record.
    """

    out: Path
    torch_script: Path | None = None
    torch_python: str = sys.executable
    small: bool = False
    only: Sequence[str] = ()
    minutes: float | None = None
    command: str = ""


class Deadline:
    def __init__(self, minutes: float):
        self._end, self.minutes = time.monotonic() + 60 * minutes, minutes

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def reason(self) -> str:
        return f"the run's time limit of {self.minutes:g} min was reached"


def run(request: Request, plan: Plan | None = None) -> dict:
    """Measure, print each row as it comes, and write ``request.out``; the record that is written.

    Rows that could not be measured stay in the record with the reason. Raises UsageError for an
    unknown group, LdctError where not even the preparation runs.
    """
    began = time.monotonic()
    device = _probe()
    on_gpu = device["backend"] == "gpu"
    plan = plan or (gpu() if on_gpu and not request.small else cpu())
    groups = _chosen(plan, request.only)
    deadline = Deadline(request.minutes or plan.minutes)
    print(f"bench: plan {plan.name}, {deadline.minutes:g} min at most", file=sys.stderr, flush=True)
    record = results.empty(plan, device, request.command, torch=request.torch_script is not None)
    with tempfile.TemporaryDirectory(prefix="ldct-bench-") as folder:
        _prepare(plan, groups, folder)
        for group in groups:
            rows = _measure(group, plan, request, folder, deadline, on_gpu)
            record["rows"] += rows
            results.derive(record, json.loads((Path(folder) / "flops.json").read_text()))
            for row in rows:
                print(results.line(row), flush=True)
            # After every group: a run that is cut short keeps what it has.
            record["seconds"] = time.monotonic() - began
            results.write(record, request.out)
    return record


def _chosen(plan: Plan, only: Sequence[str]) -> tuple[Group, ...]:
    known = [g.name for g in plan.groups]
    if unknown := [name for name in only if name not in known]:
        raise UsageError(f"no group {unknown[0]!r} in plan {plan.name}: use {', '.join(known)}")
    return tuple(g for g in plan.groups if not only or g.name in only)


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **_import_path(), **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise LdctError(f"the benchmark can't be prepared: {without_paths(said)}")
    return done


def _import_path() -> dict[str, str]:
    """This package for our children, also where it was found beside the current folder."""
    root = str(Path(ldct_jax.__file__).parent.parent)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def _probe() -> dict:
    """The device, asked in a process that gives it back."""
    code = (
        "import json; from ldct_jax.system import provenance;"
        "print('@' + json.dumps(provenance.device()))"
    )
    lines = _python("-c", code).stdout.splitlines()
    return json.loads(next(x for x in lines if x.startswith("@"))[1:])


def _prepare(plan: Plan, groups: Sequence[Group], folder: str) -> None:
    cells = (c for g in groups for c in g.cells if c.work.task != "matrix")
    works = {c.work: c.request(folder, plan.settings) for c in cells}
    if not works:
        (Path(folder) / "flops.json").write_text("{}")
        return
    request = {
        "folder": folder,
        "slices": plan.slices,
        "slice_size": plan.slice_size,
        "stride": plan.stride,
        "works": list(works.values()),
    }
    path = Path(folder) / "prepare.json"
    path.write_text(json.dumps(request))
    _python("-m", "ldct_jax.bench.prepare", str(path), JAX_PLATFORMS="cpu", XLA_FLAGS="")


def _measure(
    group: Group, plan: Plan, request: Request, folder: str, deadline: Deadline, on_gpu: bool
) -> list[dict]:
    """One row for each cell: all are set up, one after the other, then repeat in turn."""
    rows, running = [], []
    with contextlib.ExitStack() as stack:
        for i, cell in enumerate(group.cells):
            row = results.row(group, cell)
            rows.append(row)
            if cell.side == THEIRS and request.torch_script is None:
                row["reason"] = "PyTorch was not asked for (--torch)"
            elif cell.needs_gpu and not on_gpu:
                row["reason"] = "needs a GPU"
            elif deadline.left < LEAST_S:
                row["reason"] = deadline.reason
            else:
                child = stack.enter_context(_start(cell, plan, request, folder, f"cell-{i}"))
                try:
                    row["facts"] = child.answer(min(deadline.left, plan.setup_seconds))
                    running.append((row, child))
                except CellFailed as error:
                    _failed(row, error)
                    child.__exit__()
        repeats = 1 if group.cells[0].work.task == "reach" else group.repeats or plan.repeats
        for i in range(repeats):
            if i >= plan.repeats and deadline.left < LEAST_S:
                break  # more would be better, these will do
            # There and back: what drifts meets the first and the last cell alike.
            for row, child in running[:: -1 if i % 2 else 1]:
                time.sleep(PAUSE_S)
                try:
                    row["repeats"].append(child.ask("go", deadline.left))
                except CellFailed as error:
                    _failed(row, error)
                    running.remove((row, child))
        for row, child in running:
            try:
                row["facts"] |= child.ask("end", 30.0)
                row["status"] = "measured"
            except CellFailed as error:
                _failed(row, error)
    return rows


def _failed(row: dict, error: CellFailed) -> None:
    row["status"], row["reason"] = "failed", str(error)


def _start(cell: Cell, plan: Plan, request: Request, folder: str, name: str) -> Child:
    path = Path(folder) / f"{name}.json"
    path.write_text(json.dumps(cell.request(folder, plan.settings)))
    if cell.side == OURS:
        # Several processes share the device: none may take most of its memory at the start.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **_import_path()}
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {cell.xla_flags}".strip()
        command = [sys.executable, "-m", "ldct_jax.bench.jax_cell", str(path)]
    else:
        environment = {"PYTHONPATH": ""}
        # Compiled kernels are kept nowhere, so that every compile time is a cold one.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / f"{name}-inductor")
        environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        command = [request.torch_python, str(request.torch_script), str(path)]
    return Child(command, environment, folder)
