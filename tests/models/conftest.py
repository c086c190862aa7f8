"""The PyTorch twins, where torch is there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import require

SPEED = Path(__file__).resolve().parents[2] / "experiments" / "speed"


@pytest.fixture(scope="session")
def twins():
    """``experiments/speed/twins.py`` and its layers as one; skips where torch is missing."""
    there = importlib.util.find_spec("torch") is not None
    require(there, "torch is missing: pip install 'ldct-jax[bench]'")
    importlib.import_module("torch").set_num_threads(1)
    sys.path.insert(0, str(SPEED))
    modules = (importlib.import_module(name) for name in ("twins_layers", "twins"))
    yield SimpleNamespace(**{name: value for m in modules for name, value in vars(m).items()})
    sys.path.remove(str(SPEED))
