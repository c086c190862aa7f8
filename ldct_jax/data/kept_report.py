"""Which files were left out of a store, kept for when it is opened again.

A file is named by its place in the listing of the folders that it came from: a store must hold no
name of a file, for that may be a patient's. Places hold as long as the store's digest does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ldct_jax.dicom.left_out import LeftOut, walk
from ldct_jax.system.files import write_bytes


def write_report(path: Path, sources: Sequence[Path], left_out: Iterable[LeftOut]) -> None:
    """Write the report on files at or below ``sources`` to ``path``."""
    places = {file: i for i, file in enumerate(_listing(sources, []))}
    found = [(places[o.path], o.reason, o.kind) for o in left_out if o.path in places]
    write_bytes(path, json.dumps(found).encode())


def read_report(path: Path, sources: Sequence[Path]) -> list[LeftOut] | None:
    """What :func:`write_report` wrote, and what can't be opened; None where nothing can be read."""
    unread: list[LeftOut] = []
    try:
        found = json.loads(path.read_bytes())
        files = _listing(sources, unread)
        return unread + [LeftOut(files[i], reason, kind) for i, reason, kind in found]
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _listing(sources: Sequence[Path], unread: list[LeftOut]) -> list[Path]:
    return [file for source in sources for file in walk(source, unread)]
