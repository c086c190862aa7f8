"""Checkpoint → StableHLO through ``jax.export``: one file for CPU, CUDA and TPU, any slice size.

Running it needs jax and numpy (and flatbuffers, which jax's reader wants):

    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    denoised_hu = exported.call(hu)  # (batch, height, width) float32

or, where the network keeps a share of the noise (``len(exported.in_avals) == 2``):

    _, noise_hu = exported.call(some_slices, 0.0)  # (batch,) noise of each slice
    denoised_hu, _ = exported.call(hu, numpy.median(noise_hu))
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from ldct_jax.errors import LdctError, UsageError
from ldct_jax.export import verify
from ldct_jax.export.card import Card, write_beside
from ldct_jax.export.source import Source
from ldct_jax.models import onednn
from ldct_jax.system.files import write_bytes

PLATFORMS = ("cpu", "cuda", "tpu")
LARGEST_MIN_SIDE = 48
"""Symbolic heights and widths start at most here: more than any of the networks' layers take away.
"""


def export(
    source: Source, path: Path, *, size: tuple[int, int] | None = None, check: Path | None = None
) -> Card:
    """Write ``path`` and ``path.json``, verified: equal to the network on the CPU, to the bit.

    Args:
      size: (H, W), or None for any from the smallest that the network's layers allow.
      check: real slices to verify with; see :func:`ldct_jax.export.verify.images`.

    Raises:
      UsageError: a network that can't be exported for any size. LdctError: not equal.
    """
    import jax

    function = jax.jit(source.with_noise() if source.takes_noise else source.function())
    data, min_side = serialized(function, size, with_noise=source.takes_noise)
    with verify.on_cpu():
        exported = deserialized(data, str(path))
        differences = verify.compare(
            function,
            exported.call,
            verify.images(size, check),
            max_hu=0.0,
            with_noise=source.takes_noise,
        )
    sha256 = hashlib.sha256(data).hexdigest()
    card = source.card("stablehlo", size, verified=differences, sha256=sha256, min_side=min_side)
    write_bytes(path, data)
    write_beside(card, path)
    return card


def serialized(
    function, size: tuple[int, int] | None, *, with_noise: bool = False
) -> tuple[bytes, int]:
    """(StableHLO bytes, smallest side) of a jitted (B, H, W) → (B, H, W).

    ``with_noise``: the function takes the series' noise too. The bytes hold no path of this
    machine, so that the same network gives the same bytes in every folder.
    """
    from jax import export as jax_export

    sides = range(1, LARGEST_MIN_SIDE + 1) if size is None else (min(size),)
    for min_side in sides:
        if size is None:
            constraints = [f"{name} >= {min_side}" for name in "hw"]
            shape = jax_export.symbolic_shape("b, h, w", constraints=constraints)
        else:
            (batch,) = jax_export.symbolic_shape("b")
            shape = (batch, *size)
        try:
            with _without_locations():
                return bytes(_lowered(function, shape, with_noise).serialize()), min_side
        except Exception as error:
            # jax tells an undecidable size by an error of its own, the networks by UsageError.
            if size is not None or type(error).__name__ not in (
                "InconclusiveDimensionOperation",
                "UsageError",
            ):
                raise
            if min_side == LARGEST_MIN_SIDE:
                raise UsageError(
                    "this network can't be exported for any slice size: give one, as --size 512x512"
                ) from error
    raise AssertionError("one side at least is tried")


def _lowered(function, shape, with_noise: bool):
    import jax
    import jax.numpy as jnp
    from jax import export as jax_export

    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32)]
    if with_noise:
        arguments.append(jax.ShapeDtypeStruct((), jnp.float32))
    with onednn.disabled():
        return jax_export.export(function, platforms=PLATFORMS)(*arguments)


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """jax notes in each operation which file and line it came from; here it doesn't."""
    import jax

    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


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
