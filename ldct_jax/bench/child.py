"""The benchmark's half of the talk with a cell's process (the other half: ``bench/serve.py``)."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence

# Paths and user names have no place in results that are published.
_PATH = re.compile(r"(?:/[\w.+~-]+){2,}/?")


class CellFailed(Exception):
    """A process that ended, refused or took too long; the text says why, without paths."""


def without_paths(text: str) -> str:
    """``text`` on one line of at most 200 characters, with every path replaced by ``…``."""
    return _PATH.sub("…", " ".join(text.split()))[:200]


class Child:
    """A cell's process: started, asked, ended. Use it as a context manager."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], work_folder: str):
        # Open as long as the process, and closed with it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **environment},
            cwd=work_folder,
            text=True,
            # A cell may start workers of its own: they end with it.
            start_new_session=True,
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_) -> None:
        if self._process.poll() is None:
            _end_session(self._process)
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def answer(self, limit_s: float) -> dict:
        """The next record the process says. Raises CellFailed at its end or after ``limit_s``."""
        try:
            line = self._answers.get(timeout=max(limit_s, 0.001))
        except queue.Empty:
            raise CellFailed(f"took longer than the {limit_s:.0f} s that were left") from None
        if line is None:
            raise CellFailed(self._last_words())
        record = json.loads(line)
        if record.get("event") == "refused":
            raise CellFailed(without_paths(record["reason"]))
        return record

    def ask(self, word: str, limit_s: float) -> dict:
        """Say ``go`` or ``end`` and return the answer."""
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise CellFailed(self._last_words()) from None
        return self.answer(limit_s)

    def _read(self) -> None:
        for line in self._process.stdout:
            if line.startswith("@"):
                self._answers.put(line[1:])
        self._answers.put(None)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = next((x for x in reversed(lines) if x.strip()), "")
        return without_paths(f"its process ended with {code}: {said}" if said else f"exit {code}")


def _end_session(process: subprocess.Popen) -> None:
    """Ask the process and its workers to end, then make them."""
    import signal

    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if process.poll() is not None:
                return
            time.sleep(0.05)
