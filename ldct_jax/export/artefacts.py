"""An exported file as a function HU → HU again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.export.card import Card, read_beside, seal_holds

QUIET_HU = 1.0
"""The noise of a series so quiet that the network is skipped: only the slices' own is measured."""


@dataclasses.dataclass(frozen=True)
class Artefact:
    """``compute``: (B, H, W) float32 HU → HU, ``batch`` slices at best; ``digest``: the file's.

    Where the network keeps a share of the noise, ``compute`` takes the noise of the series (HU) as
    a second argument, and ``noise`` measures it: (B, H, W) HU → (B,) HU; else it is None.
    """

    compute: Callable[..., np.ndarray] = dataclasses.field(repr=False)
    noise: Callable[[np.ndarray], np.ndarray] | None = dataclasses.field(repr=False)
    card: Card
    digest: str
    batch: int


def load(path: Path) -> Artefact:
    """Read a .stablehlo (with its .json) or .onnx file; the latter needs no jax.

    Raises:
      CheckpointError: not written by ``ldct export``, or changed since.
      LdctError: a file that its runtime can't read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    opened = (_stablehlo if path.suffix == ".stablehlo" else _onnx)(path, data)
    return dataclasses.replace(
        opened,
        compute=_sized(opened.compute, opened.card),
        noise=opened.noise and _sized(opened.noise, opened.card),
    )


def _stablehlo(path: Path, data: bytes) -> Artefact:
    import jax

    from ldct_jax.export import stablehlo

    card, digest = read_beside(path), hashlib.sha256(data).hexdigest()
    # Before anything reads the program: a damaged one may do worse than fail.
    _check(path, digest == card.sha256)
    exported = stablehlo.deserialized(data, str(path))
    batch = 1 if jax.default_backend() == "cpu" else 8
    if len(exported.in_avals) == 1:
        call = jax.jit(exported.call)
        return Artefact(lambda hu: np.asarray(call(hu)), None, card, digest, batch)
    denoised = jax.jit(lambda hu, noise: exported.call(hu, noise)[0])
    measured = jax.jit(lambda hu: exported.call(hu, np.float32(QUIET_HU))[1])
    return Artefact(
        lambda hu, noise=0.0: np.asarray(denoised(hu, np.float32(noise))),
        lambda hu: np.asarray(measured(hu)),
        card,
        digest,
        batch,
    )


def _onnx(path: Path, data: bytes) -> Artefact:
    from ldct_jax.export.onnx_session import CARD, open_session

    session = open_session(data, str(path))
    entries = session.get_modelmeta().custom_metadata_map
    card = Card.from_text(entries.get(CARD, ""), str(path))
    _check(path, seal_holds(data, card.sha256))
    batch = 1 if session.get_providers()[0] == "CPUExecutionProvider" else 8
    outputs = [output.name for output in session.get_outputs()]
    names = [one.name for one in session.get_inputs() + session.get_overridable_initializers()]

    def compute(hu: np.ndarray, *noise: float) -> np.ndarray:
        inputs = [hu, *(np.array(n, np.float32) for n in noise)]
        return session.run(outputs[:1], dict(zip(names, inputs, strict=False)))[0]

    def measured(hu: np.ndarray) -> np.ndarray:
        inputs = [hu, np.array(QUIET_HU, np.float32)]
        return session.run(outputs[1:], dict(zip(names, inputs, strict=True)))[0]

    digest = hashlib.sha256(data).hexdigest()
    return Artefact(compute, measured if len(outputs) > 1 else None, card, digest, batch)


def _check(path: Path, same: bool) -> None:
    if not same:
        raise CheckpointError(f"{path} is not the file that was verified: export it again")


def _sized(compute: Callable, card: Card) -> Callable:
    def sized(hu: np.ndarray, *noise: float) -> np.ndarray:
        h, w = hu.shape[1:]
        if card.size is not None and (h, w) != card.size:
            raise UsageError(
                f"this {card.kind} file takes slices of {card.size[0]}x{card.size[1]} pixels, not "
                f"{h}x{w}: export one with --size {h}x{w}"
            )
        if min(h, w) < card.min_side:
            raise UsageError(
                f"this {card.kind} file takes slices of at least {card.min_side}x{card.min_side} "
                f"pixels, not {h}x{w}"
            )
        return compute(hu, *noise)

    return sized
