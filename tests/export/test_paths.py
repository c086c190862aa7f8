"""Artefacts say nothing of the machine that made them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import ldct_jax
from ldct_jax.export import stablehlo

pytestmark = pytest.mark.core
CLONE = Path(ldct_jax.__file__).parents[1]


def test_no_artefact_holds_a_path(exported, package):
    files = [p for folder in (exported, package) for p in folder.iterdir()]
    assert len(files) == 5 + 11
    places = [Path.home(), CLONE, Path(jax.__file__).parents[1], exported, package, Path.cwd()]
    secrets = {str(place).encode() for place in places} - {b"/"}
    for path in files:
        data = path.read_bytes()
        found = [s for s in (*secrets, b"site-packages", b".py\x00", b"layers.py") if s in data]
        assert not found, (path.name, found)
        assert path.name == "LICENSE" or not re.search(rb"20\d\d-\d\d-\d\d", data), path.name


PROGRAM = """
import hashlib
import jax
import ldct_jax
from ldct_jax.export import stablehlo
from tests.export.networks import SMALL, source_of
data, _ = stablehlo.serialized(jax.jit(source_of(SMALL).function()), (64, 64))
print(ldct_jax.__file__)
print(hashlib.sha256(data).hexdigest())
"""


def test_the_bytes_do_not_depend_on_the_folder_of_the_package(small, tmp_path):
    for name in ("ldct_jax", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.npz")
        shutil.copytree(CLONE / name, tmp_path / "elsewhere" / name, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "elsewhere")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, digest = done.stdout.split()
    assert where.startswith(str(tmp_path))
    data, _ = stablehlo.serialized(jax.jit(small.function()), (64, 64))
    assert hashlib.sha256(data).hexdigest() == digest
