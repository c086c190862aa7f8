"""The PyTorch twins, where torch is there."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "experiments" / "speed"


@pytest.fixture(scope="session")
def twins():
    """The module ``experiments/speed/twins.py``; skips where torch is missing."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        if os.environ.get("LDCT_REQUIRE_TOOLS") == "1":
            pytest.fail("LDCT_REQUIRE_TOOLS=1, but torch is missing")
        pytest.skip("torch is missing: pip install 'ldct-jax[bench]'")
    torch.set_num_threads(1)
    sys.path.insert(0, str(SPEED))
    yield importlib.import_module("twins")
    sys.path.remove(str(SPEED))
