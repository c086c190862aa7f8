"""The PyTorch twins, where torch is there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from tests.conftest import require

SPEED = Path(__file__).resolve().parents[2] / "experiments" / "speed"


@pytest.fixture(scope="session")
def twins():
    """The module ``experiments/speed/twins.py``; skips where torch is missing."""
    there = importlib.util.find_spec("torch") is not None
    require(there, "torch is missing: pip install 'ldct-jax[bench]'")
    importlib.import_module("torch").set_num_threads(1)
    sys.path.insert(0, str(SPEED))
    yield importlib.import_module("twins")
    sys.path.remove(str(SPEED))
