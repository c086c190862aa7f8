"""Checkpoint → safetensors + JSON, for tools that bring their own network code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ldct_jax.errors import LdctError, UsageError
from ldct_jax.export import verify
from ldct_jax.export.card import Card, write_beside
from ldct_jax.export.source import Source
from ldct_jax.record import from_record
from ldct_jax.system.files import write_bytes

LAYOUT = "kernels are HWIO, cross-correlation; deconvolutions are convolutions of padded images"


def export(source: Source, path: Path, *, check: Path | None = None) -> Card:
    """Write ``path`` (.safetensors) and ``path.json``, read back and compared.

    Tensors are named ``params/clone/conv1/kernel``. The network rebuilt from the two files alone
    gives the checkpoint's images to the bit.

    Raises:
      UsageError: safetensors is missing. LdctError: not equal.
    """
    try:
        from safetensors.numpy import load, save
    except ImportError:
        raise UsageError("this needs safetensors: pip install 'ldct-jax[export]'") from None
    import jax

    arrays = {
        n: np.ascontiguousarray(a) for n, a in flatten_dict(source.variables, sep="/").items()
    }
    data = save(arrays, metadata={"layout": LAYOUT, "model": json.dumps(source.record["model"])})
    read = load(data)
    if set(read) != set(arrays) or any(not _same(read[n], arrays[n]) for n in arrays):
        raise LdctError("the tensors read back are not the checkpoint's: nothing was written")
    rebuilt = dataclasses.replace(
        source,
        model=from_record(source.record["model"]),
        variables=unflatten_dict(read, sep="/"),
    )
    stacks = {"real CT": verify.images(None, check)["real CT"]}
    with verify.on_cpu():
        differences = verify.compare(
            jax.jit(source.function()), jax.jit(rebuilt.function()), stacks, max_hu=0.0
        )
    sha256 = hashlib.sha256(data).hexdigest()
    card = source.card("safetensors", None, verified=differences, sha256=sha256)
    write_bytes(path, data)
    write_beside(card, path)
    return card


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)
