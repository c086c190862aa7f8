"""SHA-256 of arrays and records: what says that a checkpoint or a released model is what it was."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np


def digests(arrays: dict[str, Any]) -> dict[str, str]:
    """sha256 of type, shape and bytes of every array, by its name."""
    out = {}
    for name, value in arrays.items():
        array = np.ascontiguousarray(jax.device_get(value))
        digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
        out[name] = digest.hexdigest()
    return out


def combined(parts: dict[str, str]) -> str:
    """One digest of many, in a fixed order: what is printed as *the* digest of a checkpoint."""
    joined = "\n".join(f"{name} {digest}" for name, digest in sorted(parts.items()))
    return hashlib.sha256(joined.encode()).hexdigest()
