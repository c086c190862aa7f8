"""Making a store: resumable, by one process or several, patients' labels from a random key.

Several processes (:class:`ldct_jax.system.shard.Shard`) each do their share of the series and leave
it in the unfinished store. Whichever is last makes an ordinary run over all of them, which finds
every series there and writes the manifest (:func:`put_together`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from ldct_jax.data.store import (
    FORMAT,
    MANIFEST,
    STATE,
    VERSION,
    ArrayRecord,
    SeriesRecord,
    Store,
    check_array,
    is_store,
    manifest_sha256,
    series_from_json,
)
from ldct_jax.errors import DataError
from ldct_jax.system.files import PART, locked, sha256, write_bytes, write_whole
from ldct_jax.system.shard import WHOLE, Shard

T = TypeVar("T")


class Unfinished:
    """The folder of a store on its way; made by :func:`begin`.

    Until :meth:`finish`, a subfolder keeps the key of the labels and one record a finished
    series. Both go when the manifest is written, so that nobody can recompute a label from a
    patient's ID later.
    """

    def __init__(self, folder: Path, key: bytes, digest: str, shard: Shard):
        self.folder, self._key, self._digest, self._shard = folder, key, digest, shard
        self._records: list[SeriesRecord] = []
        self._seen: set[str] = set()

    def label(self, patient_key: str) -> str:
        """The pseudonym of a patient in this store."""
        return "patient-" + self._hash("patient", patient_key)[:10]

    def series(
        self, identity: str, make: Callable[[str], SeriesRecord]
    ) -> tuple[SeriesRecord | None, bool]:
        """The record of the next series, from an interrupted run or by ``make(file name stem)``.

        ``identity`` tells the series from all others; only its keyed hash is kept. Returns the
        record, or None where the series is another process's, and whether it was there already.

        Raises DataError for one identity twice, and for equal images under two patients' labels:
        a split by patient would train and test on one body.
        """
        name = self._hash("series", identity)
        if name in self._seen:
            raise DataError("a series came twice; this is a fault of the program, please report it")
        number = len(self._seen)
        self._seen.add(name)
        if not self._shard.takes(number):
            return None, False
        state = self.folder / STATE / f"{name}.json"
        record = self._resumed(state)
        resumed = record is not None
        if record is None:
            record = make(f"series-{number:04d}")
            text = json.dumps(dataclasses.asdict(record), allow_nan=False)
            write_bytes(state, text.encode("utf-8"))
        for other in self._records:
            if other.full.sha256 == record.full.sha256 and other.patient != record.patient:
                raise DataError(
                    f"{other.full.file} and {record.full.file} hold the same images under two "
                    "patients: correct the patients' IDs, or take one of the copies out"
                )
        self._records.append(record)
        return record, resumed

    def _resumed(self, state: Path) -> SeriesRecord | None:
        """The record of a finished series whose arrays are still what they were."""
        if not state.is_file():
            return None
        try:
            record = series_from_json(json.loads(state.read_text("utf-8")))
            for array in (record.full, record.low):
                if array is not None:
                    check_array(self.folder, array, verify=True)
        except (DataError, KeyError, TypeError, ValueError):
            return None  # made anew
        return record

    def finish(self, source: str, attribution: str) -> Store | None:
        """Write the manifest, forget the key, and open the store; None for one of several parts."""
        if self._shard.count > 1:
            write_bytes(_done(self.folder, self._shard), b"")
            return None
        store = Store(self.folder, source, attribution, tuple(self._records), self._digest)
        write_manifest(store)
        shutil.rmtree(self.folder / STATE)
        # Every array was read back when it was written or resumed.
        return Store.open(self.folder, verify=False)

    def _hash(self, kind: str, text: str) -> str:
        data = f"{kind}\0{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()


@contextlib.contextmanager
def begin(
    folder: Path, digest: str, *, needed_bytes: int, shard: Shard = WHOLE, wait: bool = False
) -> Iterator[Unfinished]:
    """Start or go on with the store ``folder``.

    Args:
      digest: of all that decides the store's content; work begun with another one is refused.
      needed_bytes: what the arrays will take; checked against the free space.
      shard: which of the series this process makes.
      wait: for processes that are about to end.

    Raises:
      DataError: another store, other files, another writer, or too little space.
    """
    if is_store(folder):
        raise DataError(f"{folder} is a finished store; choose another folder or delete it")
    state = folder / STATE
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; a store is a folder")
    if folder.is_dir() and not state.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty and not a store; choose another folder")
    with _locked(folder, shard, wait):
        state.mkdir(exist_ok=True)
        with locked(state, wait=True):
            key = _key(state, digest, folder)
        there = sum(f.stat().st_size for f in folder.glob("*.npy"))
        free = shutil.disk_usage(folder).free
        if free + there < needed_bytes * 1.02 + (1 << 20):
            raise DataError(
                f"{folder} needs {needed_bytes / 1e9:.2f} GB but {free / 1e9:.2f} GB are free; "
                "make space or choose another folder"
            )
        if shard.count == 1:
            for stale in folder.glob(f".*{PART}"):
                stale.unlink()
        yield Unfinished(folder, key, digest, shard)


@contextlib.contextmanager
def _locked(folder: Path, shard: Shard, wait: bool) -> Iterator[None]:
    if shard.count == 1:
        with locked(folder, wait=wait):
            yield
    else:
        with locked(folder, shared=True), locked(folder / STATE / str(shard)):
            yield


def _done(folder: Path, shard: Shard) -> Path:
    return folder / STATE / f"{shard}.done"


def put_together(folder: Path, shard: Shard, whole: Callable[[], T]) -> T | None:
    """What ``whole``, the run of one process, gives once every part is done; None before.

    One process does it, and others that end at the same moment wait for it.
    """
    parts = [Shard(k, shard.count) for k in range(1, shard.count + 1)]
    everything = all(_done(folder, part).exists() for part in parts)
    if not everything and not is_store(folder):
        return None
    with contextlib.ExitStack() as stack:
        if everything:
            stack.enter_context(locked(folder / STATE / "last", wait=True))
        result = whole()
    # Another one may have removed it, and the lock made it again.
    shutil.rmtree(folder / STATE, ignore_errors=True)
    return result


def _key(state: Path, digest: str, folder: Path) -> bytes:
    """The labels' key: that of the interrupted run, or 32 new random bytes."""
    path = state / "begun.json"
    if path.is_file():
        begun = json.loads(path.read_text("utf-8"))
        if begun["digest"] != digest:
            raise DataError(
                f"{folder} was begun from other files or with other options; delete it or choose "
                "another folder"
            )
        return bytes.fromhex(begun["key"])
    key = secrets.token_bytes(32)
    text = json.dumps({"digest": digest, "key": key.hex()})
    write_bytes(path, text.encode("utf-8"))
    path.chmod(0o600)
    return key


def write_array(folder: Path, name: str, hu: np.ndarray) -> ArrayRecord:
    """Write (N, H, W) int16 HU to ``folder/name``, read it back and compare."""
    if hu.dtype != np.int16 or hu.ndim != 3:
        raise DataError(f"a store holds (N, H, W) int16 HU, not {hu.shape} {hu.dtype}")
    write_whole(folder / name, lambda part: _save(part, hu))
    record = ArrayRecord(name, sha256(folder / name), tuple(hu.shape))
    if not np.array_equal(np.load(folder / name, mmap_mode="r", allow_pickle=False), hu):
        raise DataError(f"{folder / name} reads back differently from what was written; bad disk?")
    return record


def _save(path: Path, hu: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add an ending to a path
        np.save(file, np.ascontiguousarray(hu))


def write_manifest(store: Store) -> None:
    """Finish a store: the manifest comes last, in one step."""
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "source": store.source,
        "attribution": store.attribution,
        "digest": store.digest,
        "series": [dataclasses.asdict(s) for s in store.series],
    }
    manifest["sha256"] = manifest_sha256(manifest)
    text = json.dumps(manifest, indent=1, allow_nan=False)
    write_bytes(store.folder / MANIFEST, text.encode("utf-8"))


def finished(folder: Path, digest: str) -> Store | None:
    """The store in ``folder`` if it was made from the same files with the same options."""
    if not (folder / MANIFEST).is_file():
        return None
    store = Store.open(folder)
    return store if store.digest == digest else None
