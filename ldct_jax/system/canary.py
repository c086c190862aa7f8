"""A canary for compilers that compute wrong numbers: compiled programs against NumPy.

jaxlib 0.10.2 sums some fused reductions wrongly on the CPU (jax-ml/jax#39103), 0.11.0 and 0.11.1
on GPUs (jax-ml/jax#40633). No test of ours would be believed if the sums in it were wrong.
"""

from __future__ import annotations

import os

import numpy as np

from ldct_jax.errors import LdctError
from ldct_jax.system import xla_flags

# Of float32, with sums of 150,000 squares in any order.
TOLERANCE = 1e-4


def wrong_programs() -> list[str]:
    """Names of the programs that the compiler gets wrong on this process's default device."""
    import jax
    import jax.numpy as jnp

    # An array of jax: a constant of the program would be folded into it, and the error with it.
    matrix, high = jnp.eye(3), jax.lax.Precision.HIGHEST
    rows = np.zeros((32769, 3), np.float32)
    rows[:, 0] = np.arange(len(rows))
    images = np.random.default_rng(0).normal(1.0, 1.0, (48, 55, 55, 1)).astype(np.float32)

    def products(x):
        """Sum of squares of a matrix times each row: what 0.10.2 gets wrong."""
        return jax.vmap(lambda row: jnp.sum(jnp.matmul(matrix, row, precision=high) ** 2))(x)

    def errors(x):
        """Squared error of each image, as losses and PSNR take it."""
        return jnp.sum((x - 0.5 * x[::-1]) ** 2, axis=(1, 2, 3))

    def norm(x):
        """A sum over everything, as of a gradient's norm."""
        return jnp.sum(x * x)

    wide = images.astype(np.float64)
    cases = {
        "vmap(matvec) and a sum of squares": (
            products,
            rows,
            (rows.astype(np.float64) ** 2).sum(1),
        ),
        "squared errors by image": (
            errors,
            images,
            ((wide - 0.5 * wide[::-1]) ** 2).sum((1, 2, 3)),
        ),
        "a sum of squares": (norm, images, (wide**2).sum()),
    }
    return [
        name
        for name, (program, x, right) in cases.items()
        if not np.allclose(jax.jit(program)(x), right, rtol=TOLERANCE, atol=0)
    ]


def check() -> None:
    """Raise LdctError where compiled programs are wrong; done once for each installation.

    That is once for each jaxlib, kind of device and value of ``XLA_FLAGS``, remembered in the
    cache folder.
    """
    import jax

    jaxlib, device = xla_flags.jaxlib_version(), jax.local_devices()[0].device_kind
    key = f"right sums of jaxlib {jaxlib} on {device} with {os.environ.get(xla_flags.FLAGS, '')!r}"
    if xla_flags.remembered(key):
        return
    if wrong := wrong_programs():
        raise LdctError(
            f"jaxlib {jaxlib} computes wrong numbers on this {device} ({', '.join(wrong)}): "
            f"install another jaxlib, or on a CPU add {xla_flags.FUSIONS}=-reduce to XLA_FLAGS"
        )
    xla_flags.remember(key, True)
