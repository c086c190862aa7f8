"""Where results may go: never where they could be taken for originals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ldct_jax.errors import LdctError, UsageError


def check_folders(source: Path, out: Path) -> None:
    """Refuse an OUT that is a file, IN itself, or below it: results must not become inputs."""
    if not out.exists() and out.name.endswith((".npy", ".nii", ".nii.gz", ".dcm")):
        raise UsageError(f"{out} names a file: OUT is a folder, results keep their input's name")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: OUT is a folder, results keep their input's name")
    inside = source.resolve() if source.is_dir() else source.resolve().parent
    if out.resolve() == inside or (source.is_dir() and inside in out.resolve().parents):
        raise UsageError(
            f"OUT={out} is {'below' if out.resolve() != inside else 'the folder of'} IN: originals "
            "and derived images must not lie together; choose another folder"
        )


def is_finished(path: Path, out: Path, is_result: Callable[[], bool], *, overwrite: bool) -> bool:
    """Whether the result ``path`` below ``out`` is there already, as ``is_result`` tells.

    Raises UsageError where a link in OUT leads elsewhere, LdctError where another file is in the
    way that may not be overwritten.
    """
    parent = path.parent.resolve()
    if out.resolve() not in (parent, *parent.parents):
        raise UsageError(
            f"{path.parent} leads out of {out}: remove that link or choose another OUT"
        )
    if overwrite or not (path.exists() or path.is_symlink()):
        return False
    if not is_result():
        raise LdctError(
            f"{path} exists and isn't this result: choose another OUT folder, or say --overwrite"
        )
    return True
