"""Speed beside PyTorch: ``python -m experiments.speed`` (``make bench``).

Each row is a process of its own, the rows of a group take turns, a row that fails says so and the
rest goes on. Writes ``speed.json`` and ``speed.md`` after every group. On a GPU: first whether all
forms have the right gradients, then the comparison, in under ten minutes.

    python -m experiments.speed --only train --only infer
    python -m experiments.speed --torch-python /opt/torch/bin/python --out runs/speed
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from experiments.speed import table
from experiments.speed.rows import CLOSE, MODELS, OURS, Plan, Row, cpu, gpu, tiny
from ldct_jax.errors import LdctError
from ldct_jax.system import xla_flags

HERE = Path(__file__).parent
# Between two repeats: threads of the process that has just worked go to sleep.
PAUSE_S = 0.2
# A row is not started with less time left than this.
MIN_S = 10.0
# Paths and user names have no place in results that are published.
_PATH = re.compile(r"(?:/[\w.+~-]+){2,}/?")


class RowFailed(Exception):
    """A process that ended or took too long; the text says why, without paths."""


class Child:
    """A row's process, see :mod:`experiments.speed.child`; ends with the ``with`` block."""

    def __init__(self, row: Row, request: dict, torch_python: str):
        folder = Path(request["folder"])
        file = Path(tempfile.mkstemp(suffix=".json", dir=folder)[1])
        file.write_text(json.dumps(request))
        environment = dict(os.environ)
        if row.side == OURS:
            command = [sys.executable, "-m", "experiments.speed.ours", str(file)]
            root = str(HERE.parents[1])
            paths = filter(None, (root, environment.get("PYTHONPATH")))
            environment["PYTHONPATH"] = os.pathsep.join(paths)
            # Several processes share the device: none may take most of its memory at the start.
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
            if not row.how.get("onednn", True):
                environment["LDCT_ONEDNN"] = "0"
            if row.flags:
                given = environment.get(xla_flags.FLAGS, "").split()
                others = [w for w in given if w.split("=")[0] != row.flags.split("=")[0]]
                environment[xla_flags.FLAGS] = " ".join([*others, row.flags])
        else:
            command = [torch_python, str(HERE / "theirs.py"), str(file)]
            environment["PYTHONPATH"] = ""
            # Compiled kernels are kept nowhere, so that every compile time is a cold one.
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(file.with_suffix(".inductor"))
            environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        self._left_s = row.limit_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            start_new_session=True,  # a row may have workers of its own: they end with it
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_) -> None:
        self._kill()
        self._process.communicate()
        self._errors.close()

    def read(self, limit_s: float) -> dict:
        """The next line of the process.

        Raises RowFailed at its end, after ``limit_s``, and when the row has used its own time.
        """
        limit_s, began = min(limit_s, self._left_s), time.monotonic()
        late = threading.Timer(limit_s, self._kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        self._left_s = max(0.0, self._left_s - (time.monotonic() - began))
        if line:
            return json.loads(line)
        if (
            late.finished.is_set()
            and not late.is_alive()
            and self._process.wait() == -signal.SIGKILL
        ):
            raise RowFailed(f"took longer than the {limit_s:.0f} s that were left")
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        last = _PATH.sub("…", " ".join(said[-1].split()))[:200] if said else "nothing was said"
        raise RowFailed(f"exit {self._process.wait()}: {last}")

    def measure(self, limit_s: float) -> dict:
        """One repeat."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self.read(limit_s)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run(plan: Plan, out: Path, torch_python: str, only: list[str]) -> dict:
    """Measure, print each group as it comes, write ``speed.json`` and ``speed.md``; the record."""
    began = time.monotonic()
    end = began + 60 * plan.minutes
    names = [n for n in plan.groups if n in only] if only else list(plan.groups)
    record = table.empty(plan, [sys.executable.rsplit("/", 1)[-1], *sys.orig_argv[1:]])
    with tempfile.TemporaryDirectory(prefix="ldct-speed-") as folder:
        rows = [row for name in names for row in plan.groups[name]]
        nominal = prepare(plan, rows, Path(folder))
        for name in names:
            repeats = plan.more if name in CLOSE else plan.repeats
            group = measure(name, plan.groups[name], repeats, plan, end, folder, torch_python)
            record["rows"] += group
            table.derive(record, nominal)
            record["seconds"] = time.monotonic() - began
            for row in group:
                print(table.line(row), flush=True)
            table.write(record, out)
    return record


def prepare(plan: Plan, rows: list[Row], folder: Path) -> dict[str, int]:
    """What the rows share, in ``folder``: written here, on the CPU; the GPU stays with the rows."""
    works = {row.work for row in rows if row.work.model}
    if not works:
        return {}
    import jax

    with jax.default_device(jax.devices("cpu")[0]):
        from experiments.speed import shared
        from ldct_jax.data.embedded import Phantoms, phantom_pairs

        size = plan.slice_size
        phantoms = Phantoms(patients=-(-plan.slices // 2), slices=2, size=size, pixel_mm=380 / size)
        pairs = phantom_pairs(phantoms)
        low, full = (a[: plan.slices] for a in (pairs.low_hu, pairs.full_hu))
        named = [
            (w.model, *MODELS[w.model], w.task, w.batch, w.size) for w in sorted(works, key=str)
        ]
        return shared.write(folder, low, full, named)


def measure(
    name: str, rows: list[Row], repeats: int, plan: Plan, end: float, folder: str, torch_python: str
) -> list[dict]:
    """All rows are made ready, one after the other, then repeat in turn, there and back."""
    found, running = [], []
    with contextlib.ExitStack() as stack:
        for row in rows:
            kind, fields = MODELS.get(row.work.model, ("", {}))
            found.append(record := table.row(name, row))
            left = end - time.monotonic()
            if left < MIN_S:
                record["reason"] = f"the time limit of {plan.minutes:g} min was reached"
                continue
            request = {
                **dataclasses.asdict(row.work),
                "kind": kind,
                "fields": fields,
                "how": row.how,
                "folder": folder,
                "repeat_s": plan.repeat_s,
                "loss_steps": plan.loss_steps,
                "epoch_steps": plan.epoch_steps,
            }
            child = stack.enter_context(Child(row, request, torch_python))
            with failing(record):
                record["facts"] = child.read(min(left, plan.setup_s))
                running.append((record, child))
        timed = rows[0].work.task != "gradient"
        for i in range(repeats if timed else 0):
            # What drifts meets the first and the last row alike.
            for record, child in running[:: -1 if i % 2 else 1]:
                time.sleep(PAUSE_S)
                with failing(record):
                    record["repeats"].append(child.measure(max(end - time.monotonic(), 1.0)))
            running = [(record, child) for record, child in running if not record["reason"]]
        for record, _ in running:
            record["status"] = "measured"
    return found


@contextlib.contextmanager
def failing(record: dict):
    try:
        yield
    except RowFailed as error:
        record["status"], record["reason"] = "failed", str(error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m experiments.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="folder")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--plan", choices=("gpu", "cpu", "tiny"), help="[by the device]")
    parser.add_argument("--only", action="append", default=[], help="only this group (repeatable)")
    parser.add_argument("--minutes", type=float, help="time limit")
    asked = parser.parse_args(arguments)
    name = asked.plan or by_device()
    plan = cpu(uses_onednn()) if name == "cpu" else {"gpu": gpu, "tiny": tiny}[name]()
    if asked.minutes:
        plan = dataclasses.replace(plan, minutes=asked.minutes)
    if unknown := [name for name in asked.only if name not in plan.groups]:
        parser.error(f"there is no group {unknown[0]!r}: use {', '.join(plan.groups)}")
    try:
        run(plan, asked.out, asked.torch_python, asked.only)
    except LdctError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"written: {asked.out / 'speed.json'}, {asked.out / 'speed.md'}")
    return 0


def by_device() -> str:
    """``gpu`` or ``cpu``, asked in a process that gives the device back."""
    return "gpu" if "gpu" in said_by("import jax; print(jax.default_backend())") else "cpu"


def uses_onednn() -> bool:
    code = "from ldct_jax.models import onednn; print(onednn.library() is not None)"
    return "True" in said_by(code)


def said_by(code: str) -> list[str]:
    """What a process of its own prints, by words."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.split()


if __name__ == "__main__":
    xla_flags.find_out()
    xla_flags.restart_with_large_pages()
    sys.exit(main())
