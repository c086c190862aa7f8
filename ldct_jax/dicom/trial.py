"""Compressed pixels decoded on trial, in a process that may die.

Decoders are C and C++: on a damaged codestream they have been seen to abort the whole interpreter
and to compute for seconds. What survives here can be decoded in the main process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from ldct_jax.dicom.file import NATIVE
from ldct_jax.dicom.header import Header, read_headers
from ldct_jax.dicom.pixels import read_stored
from ldct_jax.dicom.values import Unusable

MEMORY = 2 << 30
"""Bytes of address space that the decoding process may have."""
SECONDS = 1.0
SECONDS_PER_MEGAPIXEL = 2.0
"""Processor time for one image; healthy ones take a fiftieth of it."""


class Trials:
    """A context with one decoding process, started when it is first needed and after each death."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *error) -> None:
        self._stop()

    def check(self, header: Header) -> None:
        """Decode the image of ``header``; raises Unusable where that fails, hangs or crashes.

        Uncompressed pixels need no trial: their length was judged with the header.
        """
        if header.transfer_syntax in NATIVE:
            return
        process = self._running()
        seconds = SECONDS + SECONDS_PER_MEGAPIXEL * header.rows * header.columns / 1e6
        try:
            process.stdin.write(json.dumps([str(header.path), header.frame, seconds]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer.endswith("\n"):
            code = self._stop()
            how = "never ends with" if code == -signal.SIGPROF else "crashes at"
            raise Unusable(header.path, f"damaged: the decoder {how} its compressed pixels")
        verdict = json.loads(answer)
        if verdict is not None:
            raise Unusable(header.path, verdict["reason"], kind=verdict["kind"])

    def _running(self) -> subprocess.Popen:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from ldct_jax.dicom.trial import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        return self._process

    def _stop(self) -> int | None:
        """End the process; its exit code, negative for the signal that it died of."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        return process.wait()


def main() -> None:
    """The decoding process: a path, frame and time limit a line in, a verdict a line out."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, frame, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process
        verdict = None
        try:
            headers, _ = read_headers(Path(path))
            read_stored(headers[frame or 0])
        except Unusable as error:
            verdict = {"reason": error.reason, "kind": error.kind}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)
