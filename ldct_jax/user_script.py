"""The user's own script: imported only when it is named, and told apart by its SHA-256.

What it defines is recorded under the module :data:`OWN` (:mod:`ldct_jax.record`). A run keeps its
text; a run that needs it is read only with ``--code``.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ldct_jax.errors import CheckpointError, LdctError, UsageError

OWN = "own_code"
"""The module under which the user's script is loaded and recorded, whatever the file's name."""


def use_code(path: str | Path) -> ModuleType:
    """Import the user's own script, so that records can name what it defines or imports.

    Its folder is on the module search path, as when Python runs it. Raises UsageError for a
    missing file and, with the line, for a script that fails.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"there is no Python script {path}")
    source = path.read_bytes()
    module = ModuleType(OWN)
    module.__file__, module.__sha256__ = str(path), hashlib.sha256(source).hexdigest()
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    before = sys.modules.get(OWN)
    sys.modules[OWN] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except Exception as error:
        sys.modules.pop(OWN)
        if before is not None:
            sys.modules[OWN] = before
        raise UsageError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    return module


def _place(path: Path, error: Exception) -> str:
    """The script's own line that failed, as ``own.py, line 7``."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return path.name + (f", line {lines[-1]}" if lines else "")


def script() -> ModuleType | None:
    """The user's script: the one that was named, else the one that Python runs; None without."""
    main = sys.modules.get("__main__")
    started = getattr(main, "__spec__", None) is None and getattr(main, "__file__", None)
    running = main if started and str(started).endswith(".py") else None
    return sys.modules.get(OWN, running)


def script_record() -> dict:
    """``file`` and ``sha256`` of :func:`script`, for a run that needs it."""
    module = script()
    digest = getattr(module, "__sha256__", None)
    if digest is None:
        digest = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    return {"file": Path(module.__file__).name, "sha256": digest}


def names_own(record: Any) -> bool:
    """Whether a record names anything of the user's own script."""
    if isinstance(record, dict):
        names = (record.get("type"), record.get("function"))
        return any(str(n).startswith(f"{OWN}:") for n in names) or any(
            map(names_own, record.values())
        )
    return isinstance(record, list | tuple) and any(map(names_own, record))


def changed_code(code: dict | None) -> str:
    """How the script at hand differs from the one that a run recorded; empty where it doesn't.

    Raises CheckpointError where the run needs a script and none was named.
    """
    if code is None:
        return ""
    if script() is None:
        raise CheckpointError(
            f"this run needs the user's own script {code['file']}: give it with --code "
            f"{code['file']} (in Python: code={code['file']!r}); the run folder has a copy"
        )
    now = script_record()
    if now["sha256"] == code["sha256"]:
        return ""
    return (
        f"{now['file']} is not the script that this run was made with ({code['file']}, sha256 "
        f"{code['sha256'][:16]}; now {now['sha256'][:16]}): what it defines is used, with the "
        "settings that the run recorded; the run folder has a copy of that one"
    )


def warned(text: str) -> None:
    """A warning on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def check_code(code: dict | None) -> None:
    """Warn of what :func:`changed_code` finds."""
    if changed := changed_code(code):
        warned(changed)


@contextlib.contextmanager
def own_errors(what: str, *, always: bool = False) -> Iterator[None]:
    """Where the user's script is at fault, one UsageError with its line in place of a traceback.

    ``what`` was tried. Errors that pass through no line of the script stay as they are, unless
    ``always``.
    """
    try:
        yield
    except LdctError:
        raise
    except Exception as error:
        module = script()
        path = None if module is None else Path(module.__file__)
        place = "" if path is None else _place(path, error)
        if ", line " not in place and not always:
            raise
        words = " ".join(str(error).split())
        words = words if len(words) <= 400 else f"{words[:400]} …"
        told = f"{type(error).__name__}: {words} ({what})"
        raise UsageError(f"{place}: {told}" if place else told) from error
