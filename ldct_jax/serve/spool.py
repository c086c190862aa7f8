"""What the node has taken over, on the disk: a folder a series, whose place is its state.

===============  ================================================================================
receiving/KEY    instances of a series that may not be complete
ready/BATCH      a complete series: it waits for the model, or for the delivery of its result
work/BATCH       results that are being computed
sending/BATCH    what is left to deliver: results, or originals that are passed on
failed/BATCH     originals that could not be done, with ``why.txt``
seen/BATCH       the names of a batch's instances, by which a second copy is known
part, trash      being written, being removed; emptied at every start
===============  ================================================================================

A change of state is one rename, so a process that is killed anywhere leaves each series in one
state. KEY is a digest of the series UID and BATCH is KEY-001, KEY-002, …: instances that arrive
after their series was closed make another batch. Files are named by a digest of their UID.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from ldct_jax.errors import LdctError
from ldct_jax.serve.facts import Facts, read_facts, short
from ldct_jax.system.files import sync_folder, telling, write_bytes

STATES = ("receiving", "ready", "work", "sending", "failed", "seen", "part", "trash")
WAIT_FOR_REST = 6
"""Quiet times to wait where a series says that more instances exist."""
WHY = "why.txt"


class Full(LdctError):
    """No room for another instance."""


class Mismatch(LdctError):
    """The data set is of another instance than the request says."""


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclasses.dataclass
class Arriving:
    """A series on its way: instances so far, how many exist, when the last one came, from whom."""

    count: int = 0
    expected: int = 0
    last: float = 0.0
    senders: set[int] = dataclasses.field(default_factory=set)


class Spool:
    """The folder ``root``; all methods may be called from any thread.

    Args:
      keep_free: bytes of the disk that must stay free; nothing more is received below that.
      free: tells how many there are.
    """

    def __init__(self, root: Path, *, keep_free: int = 0, free: Callable[[Path], int] = free_bytes):
        self.root, self.keep_free, self._free = Path(root), keep_free, free
        self._lock = threading.RLock()
        self._known: dict[str, set[str]] = {}
        self._last_batch: dict[str, int] = {}
        self.arriving: dict[str, Arriving] = {}
        with telling(self.root / "."):
            for state in STATES:
                self.at(state).mkdir(parents=True, exist_ok=True)
            for state in ("part", "trash"):
                shutil.rmtree(self.at(state))
                self.at(state).mkdir()
        self._look()

    def at(self, state: str, name: str = "") -> Path:
        return self.root / state / name

    def _look(self) -> None:
        """Learn from the disk what is here."""
        for record in self.at("seen").iterdir():
            if not record.name.startswith("."):
                self._count(record.name)
                self._known.setdefault(_key(record.name), set()).update(record.read_text().split())
        for state in ("ready", "sending", "failed"):
            for folder in self.at(state).iterdir():
                self._count(folder.name)
        for folder in self.at("receiving").iterdir():
            files = list(folder.iterdir())
            self._known.setdefault(folder.name, set()).update(f.stem for f in files)
            expected = read_facts(files[0]).expected if files else 0
            self.arriving[folder.name] = Arriving(len(files), expected, time.monotonic())

    def _count(self, batch: str) -> None:
        key = _key(batch)
        self._last_batch[key] = max(self._last_batch.get(key, 0), int(batch.rpartition("-")[2]))

    # Receiving

    def store(self, sop_uid: str, data: bytes, sender: int) -> bool:
        """Keep one instance, a DICOM file's bytes, for good; False for one that is here already.

        When this returns, file and folder are on the disk. ``sender`` identifies the association.

        Raises:
          Full: less than ``keep_free`` bytes would stay free, or the disk can't be written.
          Mismatch: ``sop_uid`` is not the data set's. Unusable: a data set that can't be parsed.
        """
        if self._free(self.root) - len(data) < self.keep_free:
            raise Full("the disk is nearly full")
        part = self.at("part", uuid.uuid4().hex)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                facts = read_facts(part)
                if facts.sop_uid != sop_uid:
                    raise Mismatch("the data set has another SOP instance UID than the request")
                os.fsync(file.fileno())
            return self._place(part, facts, sender)
        except OSError as error:
            raise Full(f"the spool can't be written ({error.strerror})") from error
        finally:
            part.unlink(missing_ok=True)

    def _place(self, part: Path, facts: Facts, sender: int) -> bool:
        key, name = short(facts.series_uid), short(facts.sop_uid)
        folder = self.at("receiving", key)
        with self._lock:
            known = self._known.setdefault(key, set())
            new = name not in known
            if new and not folder.exists():
                folder.mkdir()
                sync_folder(folder.parent)
            if new:
                part.rename(folder / f"{name}.dcm")
                known.add(name)
            if folder.exists():
                arriving = self.arriving.setdefault(key, Arriving())
                arriving.count += new
                arriving.expected = max(arriving.expected, facts.expected)
                arriving.last = time.monotonic()
                arriving.senders.add(sender)
                handle = os.open(folder, os.O_RDONLY)  # follows the folder where it is moved
            else:
                return False
        try:
            os.fsync(handle)  # for a copy, too: the first one's may not have ended yet
        finally:
            os.close(handle)
        return new

    def gone(self, sender: int) -> None:
        """An association has ended."""
        with self._lock:
            for arriving in self.arriving.values():
                arriving.senders.discard(sender)

    def holds(self, sop_uid: str) -> bool:
        """Whether an instance is on the disk now (not only remembered)."""
        name = f"{short(sop_uid)}.dcm"
        with self._lock:
            return any(
                (folder / name).exists()
                for state in ("receiving", "ready", "failed")
                for folder in self.at(state).iterdir()
            )

    def close_complete(self, quiet_s: float) -> list[tuple[str, int, int]]:
        """Close every series that is complete: (batch, instances, how many it should have).

        It is where it has as many instances as it says exist; or where the associations that
        brought it have ended and for ``quiet_s`` seconds nothing came (several times as long where
        it says that more exist).
        """
        closed = []
        with self._lock:
            now = time.monotonic()
            for key, one in list(self.arriving.items()):
                rest = one.expected - one.count
                wait = quiet_s * (WAIT_FOR_REST if rest > 0 else 1)
                is_whole = one.expected > 0 and rest <= 0
                if is_whole or (not one.senders and now - one.last >= wait):
                    closed.append((self._close(key), one.count, one.expected))
        return closed

    def _close(self, key: str) -> str:
        batch = f"{key}-{self._last_batch.get(key, 0) + 1:03d}"
        names = sorted(f.stem for f in self.at("receiving", key).iterdir())
        write_bytes(self.at("seen", batch), "\n".join(names).encode())
        self._move(self.at("receiving", key), self.at("ready", batch))
        self._last_batch[key] = self._last_batch.get(key, 0) + 1
        del self.arriving[key]
        return batch

    # Denoising and delivery

    def to_do(self) -> list[str]:
        """Batches that wait for the model, the oldest first."""
        return [b for b in self._in("ready") if not self.at("sending", b).exists()]

    def to_send(self) -> list[str]:
        """Batches that wait for delivery, the oldest first."""
        return self._in("sending")

    def _in(self, state: str) -> list[str]:
        return [f.name for f in sorted(self.at(state).iterdir(), key=_age)]

    def left(self, batch: str) -> list[Path]:
        """Files of a batch that are still to be delivered."""
        return sorted(f for f in self.at("sending", batch).rglob("*.dcm") if f.is_file())

    def done(self, batch: str) -> None:
        """The results of ``batch`` in ``work`` are complete: they can be delivered."""
        self._move(self.at("work", batch), self.at("sending", batch))

    def pass_on(self, batch: str) -> None:
        """Deliver the originals themselves."""
        self._move(self.at("ready", batch), self.at("sending", batch))

    def finish(self, batch: str) -> None:
        """Remove everything of a batch but the record by which copies are known."""
        # The originals first: a batch with nothing in ``sending`` would be denoised again.
        for state in ("ready", "sending", "work"):
            self._remove(self.at(state, batch))

    def fail(self, batch: str, why: str) -> None:
        """Set the originals aside; they may be sent again, and are removed by :meth:`expire`."""
        source = next(p for s in ("ready", "sending") if (p := self.at(s, batch)).exists())
        write_bytes(source / WHY, why.encode())
        os.utime(source)
        self._move(source, self.at("failed", batch))
        for state in ("sending", "work"):
            self._remove(self.at(state, batch))
        self._forget(batch)

    def expire(self, seconds: float) -> list[str]:
        """Remove what failed, and forget what was done, longer ago; the failed batches."""
        old = time.time() - seconds
        failed = [f.name for f in self.at("failed").iterdir() if f.stat().st_mtime < old]
        for batch in failed:
            self._remove(self.at("failed", batch))
        for record in list(self.at("seen").iterdir()):
            pending = any(self.at(s, record.name).exists() for s in ("ready", "sending"))
            if record.stat().st_mtime < old and not pending:
                self._forget(record.name)
        return failed

    def _forget(self, batch: str) -> None:
        record = self.at("seen", batch)
        with self._lock:
            if record.exists():
                self._known.get(_key(batch), set()).difference_update(record.read_text().split())
                record.unlink()
            if not self._known.get(_key(batch), True):
                del self._known[_key(batch)]

    def _move(self, source: Path, target: Path) -> None:
        source.rename(target)
        sync_folder(target.parent)
        sync_folder(source.parent)

    def _remove(self, path: Path) -> None:
        if path.exists():
            trash = self.at("trash", uuid.uuid4().hex)
            path.rename(trash)
            sync_folder(path.parent)
            shutil.rmtree(trash, ignore_errors=True)


def counts(root: Path) -> dict[str, tuple[int, int]]:
    """State → (series, instances) of a spool that a node may be working in."""
    found = {"waiting for the model": [0, 0], "failed": [0, 0]}
    names = {"receiving": "arriving", "ready": "waiting for the model", "sending": "to deliver"}
    for state, name in (names | {"failed": "failed"}).items():
        row = found.setdefault(name, [0, 0])
        for folder in _listed(root / state):
            if state == "ready" and (root / "sending" / folder.name).exists():
                continue  # its result is counted where it waits for delivery
            row[0] += 1
            row[1] += sum(1 for f in folder.rglob("*.dcm") if f.is_file())
    order = ("arriving", "waiting for the model", "to deliver", "failed")
    return {name: tuple(found[name]) for name in order}


def _listed(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _key(batch: str) -> str:
    return batch.rpartition("-")[0]


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # moved by another thread meanwhile
        return 0.0
