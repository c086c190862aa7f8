"""From a complete series to a delivered result, one step at a time.

Each step ends in a change of state in the spool, so that another process may do the next one.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ldct_jax.denoise.models import Denoiser
from ldct_jax.denoise.run import RECORD, Options, denoise_path
from ldct_jax.denoise.summary import Summary
from ldct_jax.dicom.survey import survey
from ldct_jax.errors import DataError, LdctError
from ldct_jax.serve.facts import read_facts
from ldct_jax.serve.peer import NotDelivered
from ldct_jax.serve.rules import Rules
from ldct_jax.serve.spool import Spool
from ldct_jax.system.files import write_bytes
from ldct_jax.system.names import counted

STATE = "delivery.json"
"""In the spool, for ``--status``: how the last delivery went and when the next is tried."""
MODEL = "model.txt"
MAX_PAUSE_S = 600.0
DISK_PAUSE_S = 30.0


@dataclasses.dataclass
class Pause:
    """Growing pauses: ``first_s``, then twice as long each time, up to ten minutes."""

    first_s: float
    failures: int = 0
    until: float = 0.0

    def failed(self) -> float:
        """Count a failure; the seconds until the next try."""
        wait = min(self.first_s * 2 ** min(self.failures, 20), MAX_PAUSE_S)
        self.failures += 1
        self.until = time.monotonic() + wait
        return wait

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until


class Worker:
    """What the node does with what it has received.

    Args:
      deliver: called with a batch, its files, and a function to be called for each delivered one;
        raises :class:`NotDelivered`.
      log: is told what happens, in words without names and IDs.
      keep_s: how long failed and undeliverable series are kept.
      pause_s: until the first retry.
    """

    def __init__(
        self,
        spool: Spool,
        denoiser: Denoiser,
        deliver: Callable,
        *,
        options: Options,
        rules: Rules,
        log: Callable[[str], None] = lambda text: None,
        keep_s: float = 7 * 86400.0,
        pause_s: float = 2.0,
    ):
        self.spool, self.denoiser, self.deliver = spool, denoiser, deliver
        self.options, self.rules, self.log = options, rules, log
        self.keep_s, self._pause_s = keep_s, pause_s
        self._disk, self._peer = Pause(DISK_PAUSE_S), Pause(pause_s)
        self._of_batch: dict[str, Pause] = {}
        self._claiming, self._claimed = threading.Lock(), set()
        self._drop_work_of_another_model()

    def _drop_work_of_another_model(self) -> None:
        record = self.spool.root / MODEL
        ours = f"{self.denoiser.digest} {self.options!r}"
        if not record.exists() or record.read_text() != ours:
            for folder in self.spool.at("work").iterdir():
                shutil.rmtree(folder)
            write_bytes(record, ours.encode())

    # The model

    def denoise_next(self) -> bool:
        """Do the oldest complete series; False where there is nothing to do."""
        waiting = self.spool.to_do() if self._disk.is_over else []
        if not waiting:
            return False
        batch = waiting[0]
        try:
            self._denoise(batch)
        except LdctError as error:
            if isinstance(error.__cause__, OSError):
                wait = self._disk.failed()
                self.log(
                    f"series {batch}: the disk is full or can't be written; again in {wait:g} s"
                )
                return False
            self._fail(batch, str(error))
        except Exception as error:  # one series must not stop the node
            self._fail(batch, f"{type(error).__name__} in the model or its input")
        else:
            self._disk = Pause(DISK_PAUSE_S)
        return True

    def _denoise(self, batch: str) -> None:
        source, work = self.spool.at("ready", batch), self.spool.at("work", batch)
        if why := self._not_ours(source):
            self._others(batch, why)
            return
        try:
            summary = denoise_path(
                source,
                work,
                self.denoiser,
                self.options,
                warn=lambda text: self.log(f"series {batch}: warning: {text}"),
                note=lambda text: self.log(f"series {batch}: note: {text}"),
                quiet=True,
            )
        except DataError:
            found = survey(source)
            # A series may be refused with nothing left out: by --strict, or undecodable pixels.
            if not found.series and all(one.kind == "other" for one in found.left_out):
                self._others(batch, "no CT image that can be denoised (localizer, report, …)")
                return
            raise
        if why := _incomplete(summary):
            self._fail(batch, why)
            return
        (work / RECORD).unlink(missing_ok=True)
        self.spool.done(batch)
        results = summary.results
        slices, seconds = sum(r.slices for r in results), sum(r.seconds for r in results)
        self.log(f"series {batch}: {counted(slices, 'slice')} denoised in {seconds:.1f} s")

    def _not_ours(self, source: Path) -> str:
        """Why a series isn't to be denoised; "" where it is."""
        is_ct = False
        for file in sorted(source.glob("*.dcm")):
            facts = read_facts(file)
            if facts.is_ct and self.rules.fit(facts):
                return ""
            is_ct |= facts.is_ct
        return "no rule asks for it" if is_ct else "not CT"

    def _others(self, batch: str, why: str) -> None:
        if self.rules.others == "forward":
            self.log(f"series {batch}: {why}: forwarded as it is")
            self.spool.pass_on(batch)
        else:
            self.log(f"series {batch}: {why}: passed over")
            self.spool.finish(batch)

    def _fail(self, batch: str, why: str) -> None:
        self.spool.fail(batch, why)
        self.log(f"series {batch}: failed: {why}; kept in failed/")

    # Delivery

    def deliver_next(self) -> bool:
        """Deliver the oldest result that isn't waiting for its retry; False where there is none.

        May be called by several threads: each takes another one.
        """
        with self._claiming:
            if not self._peer.is_over:
                return False
            for batch in self.spool.to_send():
                pause = self._of_batch.setdefault(batch, Pause(self._pause_s))
                if pause.is_over and batch not in self._claimed:
                    self._claimed.add(batch)
                    break
            else:
                return False
        try:
            self._deliver(batch, pause)
        finally:
            self._claimed.discard(batch)
        return True

    def _deliver(self, batch: str, pause: Pause) -> None:
        files = self.spool.left(batch)
        try:
            if files:
                self.deliver(batch, files, lambda file: file.unlink())
        except Exception as error:
            if not isinstance(error, NotDelivered):
                error = NotDelivered(f"{type(error).__name__} while sending", peer_is_away=False)
            self._not_delivered(batch, pause, error)
            return
        self._of_batch.pop(batch, None)
        self.spool.finish(batch)
        self.log(f"series {batch}: {len(files)} instances delivered")
        if self._peer.failures:
            self._peer = Pause(self._pause_s)
            self._write_state("")

    def _not_delivered(self, batch: str, pause: Pause, error: NotDelivered) -> None:
        if error.peer_is_away and not self._peer.is_over:
            return  # another thread has just told
        wait = (self._peer if error.peer_is_away else pause).failed()
        self._write_state(str(error), wait)
        age = time.time() - self.spool.at("sending", batch).stat().st_mtime
        if not error.peer_is_away and age > self.keep_s:
            self._of_batch.pop(batch, None)
            self._fail(batch, f"not delivered for {age / 86400:.1f} days: {error}")
        else:
            self.log(f"series {batch}: {error}; again in {wait:g} s")

    def _write_state(self, why: str, wait: float = 0.0) -> None:
        again = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=wait)
        state = {"failures": self._peer.failures, "why": why} if why else {}
        if why:
            state["next_try"] = again.isoformat(timespec="seconds")
        write_bytes(self.spool.root / STATE, json.dumps(state).encode())

    def expire(self) -> None:
        """Remove what has failed long ago."""
        for batch in self.spool.expire(self.keep_s):
            self.log(f"series {batch}: failed, and removed after {self.keep_s / 86400:g} days")


def _incomplete(summary: Summary) -> str:
    """Why a result must not be delivered: a series that lacks slices looks like the whole."""
    if summary.failed:
        return summary.failed[0][1]
    if summary.incomplete:
        reasons = sorted({reason for _, reason, kind in summary.left_out if kind != "other"})
        return f"{summary.incomplete.removesuffix(' (see above)')}: {'; '.join(reasons)}"
    return ""
