"""pynetdicom for the whole folder."""

from __future__ import annotations

import gc
import importlib.util
import warnings

import pytest

from tests.conftest import require


@pytest.fixture(autouse=True)
def hushed(request):
    """pydicom's warnings are hushed thread by thread, which warnings' filters can't do."""
    there = importlib.util.find_spec("pynetdicom") is not None
    require(there, "pynetdicom is not installed (the extra 'serve')")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        if "long" in request.keywords:
            gc.collect()  # pynetdicom leaves the sockets of associations that were broken off
