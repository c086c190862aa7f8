"""Gradients of convolutions in the forms that XLA:CPU is fast with.

XLA:CPU brings convolutions into the form of its fast kernel only in a program's entry
computation; inside a ``while`` body (``nn.scan``, ``lax.scan``, ``fori_loop``) anything but a
plain NHWC/HWIO convolution without gaps falls to a naive kernel, 30 to 50 times slower
(jax-ml/jax#12868). A weight gradient with built-in padding is 18 to 60 times slower than an
explicit pad. ``geometry`` is a :class:`ldct_jax.models.convolution.Geometry`.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax

NHWC = ("NHWC", "HWIO", "NHWC")
# Each group of images is a convolution to compile.
MAX_GROUPS = 8
# Operands that fit into a core's cache together are one group.
CACHE_BYTES = 2**20


def weight_gradient(x_bhwc, g_bhwo, geometry):
    """The kernel's gradient (kh, kw, C, O); the stride is 1, or 2 without dilation."""
    if has_blocks(geometry):
        blocks = _image_blocks(x_bhwc, g_bhwo, geometry)
        return _from_kernel_blocks(weight_gradient_in_groups(1, blocks, g_bhwo), geometry)
    config = [(0, 0, 0), *((*p, 0) for p in geometry.padding), (0, 0, 0)]
    x = lax.pad(x_bhwc, jnp.zeros((), x_bhwc.dtype), config)
    return weight_gradient_in_groups(geometry.dilation, x, g_bhwo)


def weight_gradient_in_groups(dilation: int, x_bhwc, g_bhwo):
    """dw[i, j, c, o] = sum over b, h, w of x[b, h + i, w + j, c] g[b, h, w, o], in groups of b.

    The images of a group, two or more, lie one above the other. Rows of zeros below each image of
    g keep them apart. So the images need not be channels, g no transposition, and what is summed at
    a time fits into the cache: 4 to 7 % less for a step of the PCN with jax 0.12 and large pages,
    40 % with 0.10 (docs/results). Larger batches have larger groups, not more of them. What fits
    into the cache anyway is one group: one convolution to compile.
    """
    b, h, w, c = x_bhwc.shape
    _, gh, gw, o = g_bhwo.shape
    max_groups = 1 if x_bhwc.nbytes + g_bhwo.nbytes <= CACHE_BYTES else MAX_GROUPS
    images, gap = max(2, -(-b // max_groups)), h - gh

    def group(x, g):
        rows = len(x) * h
        tall_x = x.transpose(3, 0, 1, 2).reshape(c, rows, w, 1)
        tall_g = jnp.pad(g, ((0, 0), (0, gap), (0, 0), (0, 0))).reshape(rows, gw, 1, o)
        return _taps(tall_x, tall_g[: rows - gap], dilation).transpose(1, 2, 0, 3)

    groups = (slice(i, i + images) for i in range(0, b, images))
    return functools.reduce(jnp.add, (group(x_bhwc[s], g_bhwo[s]) for s in groups))


def _taps(x, g, dilation: int):
    # A dilated kernel's taps lie `dilation` apart, so here the window strides.
    return lax.conv_general_dilated(x, g, (dilation,) * 2, "VALID", dimension_numbers=NHWC)


# ---- stride 2: a convolution of stride 1 on blocks of 2x2 pixels ---------------------------------


def has_blocks(geometry) -> bool:
    """Whether the gradients are taken from blocks of 2x2 pixels: stride 2 without dilation.

    16/9 of the products for a 3x3 kernel, but plain convolutions, 20 times faster in a loop.
    """
    return geometry.stride == 2 and geometry.dilation == 1


def input_gradient_in_blocks(g_bhwo, kernel_hwio, geometry):
    """The image's gradient (B, H, W, C) for stride 2."""
    kernel = _kernel_blocks(kernel_hwio)
    (kbh, kbw), c = kernel.shape[:2], kernel_hwio.shape[2]
    blocks = lax.conv_general_dilated(
        g_bhwo,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        ((kbh - 1,) * 2, (kbw - 1,) * 2),
        dimension_numbers=NHWC,
    )
    b, rows, columns, _ = blocks.shape
    x = blocks.reshape(b, rows, columns, 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, 2 * rows, 2 * columns, c)
    config = [(0, 0, 0)] * 4
    for axis in (0, 1):
        low = -geometry.padding[axis][0]
        config[1 + axis] = (low, geometry.size[axis] - low - x.shape[1 + axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _image_blocks(x_bhwc, g_bhwo, geometry):
    """The padded image as blocks of 2x2 pixels: (B, rows, columns, 4 C)."""
    b, _, _, c = x_bhwc.shape
    config, sides = [(0, 0, 0)] * 4, []
    for axis in (0, 1):
        low = geometry.padding[axis][0]
        side = g_bhwo.shape[1 + axis] - 1 + (geometry.kernel[axis] + 1) // 2
        # Rows beyond the last window are cut; a row that only the padded kernel sees is zero.
        config[1 + axis] = (low, 2 * side - low - x_bhwc.shape[1 + axis], 0)
        sides.append(side)
    rows, columns = sides
    x = lax.pad(x_bhwc, jnp.zeros((), x_bhwc.dtype), config)
    x = x.reshape(b, rows, 2, columns, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows, columns, 4 * c)


def _kernel_blocks(kernel_hwio):
    """(kh, kw, C, O) → (kbh, kbw, 4 C, O), an odd last row or column filled up with zeros."""
    kh, kw, c, o = kernel_hwio.shape
    kbh, kbw = (kh + 1) // 2, (kw + 1) // 2
    kernel = jnp.pad(kernel_hwio, ((0, 2 * kbh - kh), (0, 2 * kbw - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(kbh, 2, kbw, 2, c, o).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(kbh, kbw, 4 * c, o)


def _from_kernel_blocks(blocks, geometry):
    """The inverse of :func:`_kernel_blocks`."""
    (kh, kw), (kbh, kbw, c4, o) = geometry.kernel, blocks.shape
    kernel = blocks.reshape(kbh, kbw, 2, 2, c4 // 4, o).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(2 * kbh, 2 * kbw, c4 // 4, o)[:kh, :kw]
