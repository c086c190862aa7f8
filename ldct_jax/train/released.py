"""A trained model in one small file: the parameters for inference, and what they are.

An ``.npz`` without pickles: one float32 array a parameter under names such as
``params/clone/conv1/kernel``, and ``meta``, JSON with the record from which the model is rebuilt
and a SHA-256 of every array. Everything that takes a checkpoint takes such a file too.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ldct_jax.errors import CheckpointError
from ldct_jax.system.files import write_whole
from ldct_jax.train.digests import digests

SUFFIX = ".npz"
FORMAT = 1


def write(path: Path, variables: dict, meta: dict) -> None:
    """Write ``variables`` (nested dicts of arrays) with ``meta``'s record; read back and compared.

    Paths, commands and machines that a run's meta may name stay behind: only ``record`` is kept.
    """
    arrays = {k: np.asarray(v) for k, v in flatten_dict(variables, sep="/").items()}
    record = meta["record"]
    kept = {
        "format": FORMAT,
        "record": record,
        "digests": digests({**arrays, "record": _of(record)}),
    }
    text = np.frombuffer(json.dumps(kept, sort_keys=True).encode(), np.uint8)

    def save(part: Path) -> None:
        with part.open("wb") as file:  # np.savez would add an ending to a path
            np.savez_compressed(file, meta=text, **arrays)

    write_whole(path, save)
    read(path)


def read(path: Path) -> tuple[dict, dict]:
    """(nested dicts of arrays, meta); CheckpointError for damaged or foreign files."""
    try:
        # numpy leaves a file open that turns out not to be an archive.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop("meta").tobytes())
        found, said, _ = meta["format"], meta["digests"], meta["record"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as e:
        raise CheckpointError(f"{path.name} is not a released model, or is damaged ({e})") from None
    except Exception as e:  # zlib.error, struct.error: what a flipped bit can raise
        raise CheckpointError(f"{path.name} is damaged ({e})") from None
    if found != FORMAT:
        raise CheckpointError(
            f"{path.name} has format {found}, this version reads {FORMAT}: was it written by a "
            "newer one?"
        )
    if digests({**arrays, "record": _of(meta["record"])}) != said:
        raise CheckpointError(f"{path.name} is damaged: it is not what was released")
    return unflatten_dict(arrays, sep="/"), meta


def _of(record: dict) -> np.ndarray:
    """The record as bytes, so that its digest stands beside those of the arrays."""
    return np.frombuffer(json.dumps(record, sort_keys=True).encode(), np.uint8)
