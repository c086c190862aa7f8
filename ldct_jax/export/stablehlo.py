"""Checkpoint → StableHLO through ``jax.export``: one file for CPU, CUDA and TPU, any slice size.

Running it needs jax and numpy (and flatbuffers, which jax's reader wants):

    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    denoised_hu = exported.call(hu)  # (batch, height, width) float32
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ldct_jax.errors import LdctError, UsageError
from ldct_jax.export import verify
from ldct_jax.export.card import Card, write_beside
from ldct_jax.export.source import Source
from ldct_jax.system.files import write_bytes

PLATFORMS = ("cpu", "cuda", "tpu")
LEAST_SIDE = 48
"""Symbolic heights and widths start here: more than any of the networks' layers take away."""


def export(
    source: Source, path: Path, *, size: tuple[int, int] | None = None, check: Path | None = None
) -> Card:
    """Write ``path`` and ``path.json``, verified: equal to the network on the CPU, to the bit.

    Args:
      size: (H, W), or None for any of at least LEAST_SIDE.
      check: real slices to verify with; see :func:`ldct_jax.export.verify.images`.

    Raises:
      UsageError: a network that can't be exported for any size. LdctError: not equal.
    """
    import jax

    function = jax.jit(source.function())
    data = serialized(function, size)
    stacks = verify.images(size, check)
    with verify.on_cpu():
        exported = deserialized(data, str(path))
        differences = verify.compare(function, exported.call, stacks, most_hu=0.0)
    card = source.card(
        "stablehlo", size, verified=differences, sha256=hashlib.sha256(data).hexdigest()
    )
    write_bytes(path, data)
    write_beside(card, path)
    return card


def serialized(function, size: tuple[int, int] | None) -> bytes:
    """The StableHLO bytes of a jitted (B, H, W) → (B, H, W)."""
    import jax
    import jax.numpy as jnp
    from jax import export as jax_export

    if size is None:
        least = [f"{name} >= {LEAST_SIDE}" for name in "hw"]
        shape = jax_export.symbolic_shape("b, h, w", constraints=least)
    else:
        (batch,) = jax_export.symbolic_shape("b")
        shape = (batch, *size)
    try:
        exported = jax_export.export(function, platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    except Exception as error:
        # jax tells an undecidable size by an error of its own, the networks by UsageError.
        if size is not None or type(error).__name__ not in (
            "InconclusiveDimensionOperation",
            "UsageError",
        ):
            raise
        raise UsageError(
            "this network can't be exported for any slice size: give one, as --size 512x512"
        ) from error
    return bytes(exported.serialize())


def deserialized(data: bytes, where: str):
    """The ``jax.export.Exported`` of the bytes; raises LdctError for anything else."""
    from jax import export as jax_export

    try:
        return jax_export.deserialize(bytearray(data))
    except ModuleNotFoundError as error:
        raise LdctError(
            f"reading StableHLO needs {error.name}: pip install 'ldct-jax[export]'"
        ) from None
    except Exception as error:  # whatever a broken flatbuffer leads its reader to
        raise LdctError(f"{where} is no usable StableHLO file ({type(error).__name__})") from None
