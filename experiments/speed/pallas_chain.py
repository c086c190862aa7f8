"""A prototype, no default: 3x3 convolutions and ReLUs, one after the other, as one Pallas kernel.

Between two layers cuDNN writes every activation to the GPU's memory and reads it again. Here one
program takes an image row by row and keeps the last two rows of each layer's input: memory sees
the first layer's input and the last layer's output alone. Forward only; a training step needs the
activations between the layers for its gradients.

``python -m tests.aot.table`` lists its bytes beside those of the same layers through cuDNN
(docs/results/speed/aot.md). Nobody has run it on a GPU yet.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

KERNEL = 3  # rows and columns of a convolution's window


def xla_chain(x_bhwc, kernels: Sequence, biases: Sequence):
    """The same layers as XLA's convolutions: valid, bias and ReLU, rounded to x's dtype."""
    for kernel, bias in zip(kernels, biases, strict=True):
        y = lax.conv_general_dilated(
            x_bhwc,
            kernel,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=x_bhwc.dtype,
        )
        x_bhwc = jnp.maximum(y + bias, 0)
    return x_bhwc


def pallas_chain(x_bhwc, kernels: Sequence, biases: Sequence, *, interpret: bool = False):
    """ReLU(convolution) of each of ``kernels`` in turn: (B, H - 2 L, W - 2 L, C).

    x_bhwc: (B, H, W, C); kernels: L of (3, 3, C, C), biases: L of (C,); all float32 or bfloat16.
    Sums are float32, what one layer hands to the next has x's dtype. Rows and channels are padded
    to powers of 2 in registers (Triton knows no other sizes), not in memory.

    Raises:
      ValueError: an image without one output pixel, or a kernel that isn't (3, 3, C, C).
    """
    batch, height, width, channels = x_bhwc.shape
    layers, lost = len(kernels), (KERNEL - 1) * len(kernels)
    if min(height, width) <= lost:
        raise ValueError(f"{height}x{width} pixels are too few for {layers} layers")
    if any(kernel.shape != (KERNEL, KERNEL, channels, channels) for kernel in kernels):
        raise ValueError(f"every kernel must be {(KERNEL, KERNEL, channels, channels)}")
    columns, lanes = (max(16, pl.next_power_of_2(n)) for n in (width, channels))
    more = lanes - channels
    k = jnp.pad(jnp.stack(kernels), ((0, 0),) * 3 + ((0, more),) * 2)
    bias = jnp.pad(jnp.stack(biases), ((0, 0), (0, more)))
    k = k.reshape(layers * KERNEL * KERNEL, lanes, lanes)
    out = (batch, height - lost, width - lost, channels)
    return pl.pallas_call(
        functools.partial(_rows, size=(height, width, channels), layers=layers),
        out_shape=jax.ShapeDtypeStruct(out, x_bhwc.dtype),
        grid=(batch,),
        in_specs=[
            pl.BlockSpec((None, height, columns, lanes), lambda b: (b, 0, 0, 0)),
            pl.BlockSpec(k.shape, lambda b: (0, 0, 0)),
            pl.BlockSpec(bias.shape, lambda b: (0, 0)),
        ],
        out_specs=pl.BlockSpec((None, height - lost, columns, lanes), lambda b: (b, 0, 0, 0)),
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=1),
        interpret=interpret,
        name="chain",
    )(x_bhwc, k, bias)


def _rows(x_ref, k_ref, bias_ref, y_ref, *, size, layers: int):
    """One image: every step takes a row of it through all layers.

    Layer l's row of a step is the one 2 (l + 1) above the image's, so the first 2 L steps fill the
    rows that are kept; what they compute is never stored.
    """
    height, width, channels = size
    columns, lanes = x_ref.shape[-2:]
    lost = (KERNEL - 1) * layers

    def inside(n_columns: int):
        column = lax.broadcasted_iota(jnp.int32, (columns, lanes), 0)
        lane = lax.broadcasted_iota(jnp.int32, (columns, lanes), 1)
        return (column < n_columns) & (lane < channels)

    def step(r, kept):
        row = plgpu.load(x_ref.at[r], mask=inside(width), other=0)
        following = []
        for layer, (first, second) in enumerate(kept):
            following.append((second, row))
            row = _layer_row((first, second, row), k_ref, bias_ref, layer)
        plgpu.store(
            y_ref.at[jnp.maximum(r - lost, 0)], row, mask=inside(width - lost) & (r >= lost)
        )
        return tuple(following)

    empty = jnp.zeros((columns, lanes), x_ref.dtype)
    lax.fori_loop(0, height, step, ((empty, empty),) * layers)


def _layer_row(rows, k_ref, bias_ref, layer: int):
    """One row (columns, lanes) of ReLU(convolution + bias), of the three rows of its input."""
    dtype, shape = rows[0].dtype, rows[0].shape
    total = jnp.zeros(shape, jnp.float32)
    for i, row in enumerate(rows):
        for j in range(KERNEL):
            total += _product(_moved(row, j), k_ref[(layer * KERNEL + i) * KERNEL + j])
    # cuDNN's fused bias and ReLU work on the float32 sums, too.
    return jnp.maximum(total + bias_ref[layer].astype(jnp.float32), 0).astype(dtype)


def _moved(row, j: int):
    """The row, j columns to the left: a product, as Triton can't index what is in registers.

    Exact: each sum has one term. The columns that come in on the right are zeros.
    """
    if j == 0:
        return row
    square = (row.shape[0],) * 2
    here, source = (lax.broadcasted_iota(jnp.int32, square, axis) for axis in (0, 1))
    return _product((source == here + j).astype(row.dtype), row).astype(row.dtype)


def _product(a, b):
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)
