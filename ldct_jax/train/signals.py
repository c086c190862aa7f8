"""SIGTERM and SIGINT as a request: finish the call, save, and leave; a second one leaves at once.

Python runs signal handlers between byte codes of the main thread, and so not while XLA compiles
or executes there. A watcher thread reads the signal's number from the wake-up file descriptor
instead, which the interpreter writes at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# How long a first signal waits for the main thread where there is nothing to save: a compilation
# may take minutes, and a scheduler kills the process about 30 s after its signal.
GRACE_S = 15.0


class Interrupted(BaseException):
    """The run was asked to stop and has saved what it had; ``exit_code`` is 143 or 130.

    Not an Exception, so that no error handling on the way out mistakes it for a failure.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class StopRequest:
    """What the first signal means while :meth:`watching`.

    Inside :meth:`deferring` (the training loop) it only sets :attr:`number`: the loop saves and
    then calls :meth:`check`. Elsewhere (data, evaluation, report: a restart repeats them) it
    raises :class:`Interrupted` at once, and ends the process after :data:`GRACE_S` where the main
    thread is busy in compiled code. A second signal always ends it.
    """

    def __init__(self):
        self.number: int | None = None
        self._deferred = 0

    @contextlib.contextmanager
    def deferring(self):
        """Let a signal wait until :meth:`check` is called."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    @contextlib.contextmanager
    def immediate(self):
        """Inside :meth:`deferring`, a part that a signal leaves at once by :class:`Interrupted`."""
        deferred, self._deferred = self._deferred, 0
        try:
            self.check()
            yield
        finally:
            self._deferred = deferred

    def check(self) -> None:
        """Raise :class:`Interrupted` where a stop was asked for."""
        if self.number is not None:
            raise Interrupted(self.number)

    @contextlib.contextmanager
    def watching(self):
        if threading.current_thread() is not threading.main_thread():
            yield self  # signals belong to the main thread; a caller elsewhere stops us otherwise
            return
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        old_handlers = {s: signal.signal(s, self._handle) for s in SIGNALS}
        old_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(read_end,), daemon=True)
        watcher.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(old_fd)
            for s, handler in old_handlers.items():
                signal.signal(s, handler)
            os.close(write_end)
            watcher.join(timeout=1.0)

    def _handle(self, number: int, frame) -> None:
        self.number = number
        if not self._deferred:
            raise Interrupted(number)

    def _watch(self, read_end: int) -> None:
        # The handler may run before this thread wakes up, so it counts for itself.
        seen, busy_until = 0, 0.0
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            while True:
                if not select.select([pipe], [], [], 0.2 if seen else None)[0]:
                    if self._deferred:
                        busy_until = time.monotonic() + GRACE_S
                    elif time.monotonic() > busy_until:
                        os._exit(128 + self.number)
                    continue
                if not (data := pipe.read(1)):
                    return
                if data[0] not in SIGNALS:
                    continue
                seen += 1
                if seen > 1:
                    os._exit(128 + data[0])
                self.number, busy_until = data[0], time.monotonic() + GRACE_S
                print(
                    f"{signal.Signals(data[0]).name}: stopping "
                    f"{'when the state is saved ' if self._deferred else ''}"
                    "(once more to leave at once)",
                    file=sys.stderr,
                    flush=True,
                )
