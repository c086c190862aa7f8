"""Files that are there whole or not at all, and a folder that nobody else writes to."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldct_jax.errors import LdctError

PART = ".part"
"""Ending of files and folders that are being written; they start with a dot."""

DAMAGED_ARRAY = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError)
"""What numpy's reading of a damaged ``.npy`` can end in; the last two come from its header."""


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, make it durable, and rename it.

    Raises LdctError where the disk is full or can't be written; nothing half-written stays.
    """
    part = path.with_name(f".{path.name}{PART}")
    with telling(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """:func:`write_whole` of bytes."""
    write_whole(path, lambda part: part.write_bytes(data))


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn the errors of writing ``path`` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise LdctError(
                f"{path.parent} is full: free some space and run the same command again to resume"
            ) from error
        raise LdctError(
            f"{path} can't be written ({error.strerror}): choose another folder"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    if os.name != "posix":  # a folder can't be opened on Windows, where the rename is enough
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Make ``folder`` and keep a second command out of it; with ``wait`` let it come next.

    ``shared`` ones let each other in, and keep out those that aren't.
    """
    import fcntl

    with telling(folder / "."):
        folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise LdctError(
                f"another command is writing to {folder}: wait for it, or choose another OUT folder"
            ) from None
        yield
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """The sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
