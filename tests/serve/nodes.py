"""Nodes, senders and receivers on this machine, and series small enough to send many."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import Options
from ldct_jax.serve.rules import Rules
from ldct_jax.serve.spool import Spool
from ldct_jax.serve.worker import Worker
from tests.dicom_fixtures import anatomy, noisy, write_series
from tests.processes import ROOT

SECONDS = 180.0


def small_series(folder: Path, n: int = 3, seed: int = 0, size: int = 16, **tags) -> list[Path]:
    """``n`` slices of ``size`` squared pixels, which differ by seed."""
    hu = noisy(anatomy(seed, n=n, size=size), 20, seed)
    tags.setdefault("SeriesNumber", seed + 1)
    return write_series(folder, hu, **tags)


def worker(spool: Spool, deliver=lambda batch, files, sent: None, **settings) -> Worker:
    settings = {"options": Options(), "rules": Rules(), "pause_s": 0.0, "log": print} | settings
    return Worker(spool, find("gaussian").open(), deliver, **settings)


class Receiver:
    """Stands for the PACS: keeps what is delivered, by its UID."""

    def __init__(self):
        self.got: dict[str, list[bytes]] = {}

    def __call__(self, batch, files, sent) -> None:
        from ldct_jax.dicom.write import instance_uid

        for file in files:
            self.got.setdefault(instance_uid(file), []).append(file.read_bytes())
            sent(file)


def pixels(data_set) -> np.ndarray:
    return np.frombuffer(data_set.PixelData, np.int16)


def eventually(condition, seconds: float = SECONDS) -> None:
    """Wait until ``condition()``; AssertionError when it takes too long.

    A folder that vanishes while it is listed is a moment in which nothing can be told.
    """
    end = time.monotonic() + seconds

    def holds() -> bool:
        try:
            return bool(condition())
        except FileNotFoundError:
            return False

    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


@contextlib.contextmanager
def program(*arguments: str, log: Path, **environment: str):
    """``ldct ARGUMENTS`` as a process of its own, killed at the end."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ldct_jax", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=file,
            stderr=file,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def send(files: list[Path], port: int, *, called: str = "LDCT", calling: str = "SCANNER"):
    """Send files by C-STORE over one association; the statuses, or None where it was refused."""
    from pydicom import dcmread
    from pynetdicom import AE

    data_sets = [dcmread(f) for f in files]
    ae = AE(calling)
    for kind in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in data_sets}:
        ae.add_requested_context(*kind)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    statuses = [association.send_c_store(d).Status for d in data_sets]
    association.release()
    return statuses


@contextlib.contextmanager
def pacs_on(port: int = 0, status: int = 0):
    """(port, {UID: data sets}) of a storage SCP that answers every C-STORE with ``status``."""
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import CTImageStorage

    got: dict[str, list] = {}

    def store(event):
        got.setdefault(str(event.request.AffectedSOPInstanceUID), []).append(event.dataset)
        return status

    ae = AE("PACS")
    ae.add_supported_context(CTImageStorage)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        yield server.server_address[1], got
    finally:
        ae.shutdown()


@contextlib.contextmanager
def node_on(root: Path, deliver, *, callers=(), quiet_s=0.3, free=None, log=print, **settings):
    """A node in this process on a port of its own."""
    from ldct_jax.serve.node import Listening, Node
    from ldct_jax.serve.spool import free_bytes

    spool = Spool(root, keep_free=10_000, free=free or free_bytes)
    listening = Listening(0, callers=callers, quiet_s=quiet_s)
    node = Node(listening, spool, worker(spool, deliver, log=log, **settings), log)
    node.start()
    try:
        yield node
    finally:
        node.stop()
