"""An exported file as a function HU → HU again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.export.card import Card, read_beside, seal_holds


@dataclasses.dataclass(frozen=True)
class Artefact:
    """``compute``: (B, H, W) float32 HU → HU, ``batch`` slices at best; ``digest``: the file's."""

    compute: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)
    card: Card
    digest: str
    batch: int


def load(path: Path) -> Artefact:
    """Read a .stablehlo (with its .json) or .onnx file.

    Raises:
      CheckpointError: not written by ``ldct export``, or changed since.
      LdctError: a file that its runtime can't read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    compute, card, batch = (_stablehlo if path.suffix == ".stablehlo" else _onnx)(path, data)
    return Artefact(_sized(compute, card), card, digest, batch)


def _stablehlo(path: Path, data: bytes) -> tuple:
    import jax

    from ldct_jax.export import stablehlo

    card = read_beside(path)
    # Before anything reads the program: a damaged one may do worse than fail.
    _check(path, hashlib.sha256(data).hexdigest() == card.sha256)
    call = jax.jit(stablehlo.deserialized(data, str(path)).call)
    batch = 1 if jax.default_backend() == "cpu" else 8
    return lambda hu: np.asarray(call(hu)), card, batch


def _onnx(path: Path, data: bytes) -> tuple:
    from ldct_jax.export.onnx_session import CARD, open_session

    session = open_session(data, str(path))
    entries = session.get_modelmeta().custom_metadata_map
    card = Card.from_text(entries.get(CARD, ""), str(path))
    _check(path, seal_holds(data, card.sha256))
    name = session.get_inputs()[0].name
    batch = 1 if session.get_providers()[0] == "CPUExecutionProvider" else 8
    return lambda hu: session.run(None, {name: hu})[0], card, batch


def _check(path: Path, same: bool) -> None:
    if not same:
        raise CheckpointError(f"{path} is not the file that was verified: export it again")


def _sized(compute: Callable, card: Card) -> Callable:
    def sized(hu: np.ndarray) -> np.ndarray:
        if card.size is not None and hu.shape[1:] != card.size:
            h, w = card.size
            raise UsageError(
                f"this {card.kind} file takes slices of {h}x{w} pixels, not "
                f"{hu.shape[1]}x{hu.shape[2]}: export one with --size {hu.shape[1]}x{hu.shape[2]}"
            )
        return compute(hu)

    return sized
