"""A convolution, its input gradient and its weight gradient as three bilinear maps.

The derivatives of each map, of every order, are again these maps, so every gradient of a network
is one of three convolutions that are written here, in a form that each compiler has a kernel for:

* Padding is part of the convolution. Padded copies and cut borders would be images in memory.
* No window is reversed and none is larger than its image. XLA:GPU hands a weight gradient with a
  reversed window to cuDNN as a forward convolution whose window is the whole image
  (openxla/xla#34273), which takes many times as long.
* XLA:CPU needs other forms of some gradients: :mod:`ldct_jax.models.cpu_conv`; oneDNN, where it is
  installed, does all three there: :mod:`ldct_jax.models.onednn`.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from ldct_jax.models import cpu_conv, onednn

NHWC = ("NHWC", "HWIO", "NHWC")
# Channels as batch, batch as channels, and the result as a kernel (kh, kw, C, O).
_CHWB = lax.ConvDimensionNumbers((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What the three maps share: how a kernel lies on an image.

    Args:
      size: (H, W) of the image.
      kernel: (kh, kw).
      padding: zeros ((top, bottom), (left, right)).
      stride, dilation: of the window and of its taps, in pixels.
      precision: ``lax.Precision`` or None, the default of ``jax_default_matmul_precision``.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    stride: int = 1
    dilation: int = 1
    precision: lax.Precision | None = None

    def reach(self, axis: int) -> int:
        """Pixels from a window's first tap to its last one, 0 for 1x1."""
        return self.dilation * (self.kernel[axis] - 1)

    def output(self, axis: int) -> int:
        """Side of the output."""
        room = self.size[axis] + sum(self.padding[axis]) - self.reach(axis)
        return (room - 1) // self.stride + 1

    def spread(self, g_bhwc, axis: int) -> int:
        """Side of the output when ``stride`` - 1 zeros stand between its pixels."""
        return (g_bhwc.shape[1 + axis] - 1) * self.stride + 1


def conv(
    x_bhwc, kernel_hwio, *, padding=(0, 0), stride: int = 1, dilation: int = 1, precision=None
):
    """Convolve (cross-correlation, as every deep-learning library means it): (B, H', W', O).

    x: (B, H, W, C), kernel: (kh, kw, C, O), of one dtype; ``padding``: zeros before and after, for
    both height and width.
    """
    geometry = Geometry(
        tuple(x_bhwc.shape[1:3]),
        tuple(kernel_hwio.shape[:2]),
        (tuple(padding),) * 2,
        stride,
        dilation,
        precision,
    )
    return convolve(x_bhwc, kernel_hwio, geometry)


def _on_this_platform(*operands, default, **forms):
    """The form of the platform that runs it; where all have one form, no choice is traced."""
    if not forms:
        return default(*operands)
    return lax.platform_dependent(*operands, default=default, **forms)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x_bhwc, kernel_hwio, geometry: Geometry):
    """y[b, h, w, o] = sum over i, j, c of x[b, s·h + d·i - p, s·w + d·j - p, c] k[i, j, c, o]."""

    def convolution(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (geometry.stride,) * 2,
            geometry.padding,
            rhs_dilation=(geometry.dilation,) * 2,
            dimension_numbers=NHWC,
            precision=geometry.precision,
        )

    shape = (x_bhwc.shape[0], geometry.output(0), geometry.output(1), kernel_hwio.shape[3])
    forms = onednn.form("forward", geometry, x_bhwc, kernel_hwio, shape)
    return _on_this_platform(x_bhwc, kernel_hwio, default=convolution, **forms)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def input_gradient(g_bhwo, kernel_hwio, geometry: Geometry):
    """The gradient of <convolve(x, kernel), g> with respect to x: (B, H, W, C)."""
    forms = {"default": functools.partial(spread_input_gradient, geometry=geometry)}
    if cpu_conv.has_blocks(geometry):
        forms["cpu"] = functools.partial(cpu_conv.input_gradient_in_blocks, geometry=geometry)
    shape = (g_bhwo.shape[0], *geometry.size, kernel_hwio.shape[2])
    forms |= onednn.form("input_gradient", geometry, g_bhwo, kernel_hwio, shape)
    return _on_this_platform(g_bhwo, kernel_hwio, **forms)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def weight_gradient(x_bhwc, g_bhwo, geometry: Geometry):
    """The gradient of <convolve(x, kernel), g> with respect to the kernel: (kh, kw, C, O)."""
    if geometry.stride == 1 and sum(geometry.padding[0]) > geometry.reach(0):
        # g is larger than x: XLA would swap the two and reverse the window, so x is the window.
        other = dataclasses.replace(
            geometry, size=tuple(g_bhwo.shape[1:3]), padding=_opposite(geometry)
        )
        return flipped(weight_gradient(g_bhwo, x_bhwc, other))
    forms = {"default": functools.partial(strided_weight_gradient, geometry=geometry)}
    if geometry.stride == 1 or cpu_conv.has_blocks(geometry):
        forms["cpu"] = functools.partial(cpu_conv.weight_gradient, geometry=geometry)
    if geometry.dilation > 1 and geometry.stride == 1:
        # cuDNN knows no weight gradient with gaps between its taps; for a TPU it is the best form.
        forms["cuda"] = functools.partial(weight_gradient_by_phases, geometry=geometry)
    shape = (*geometry.kernel, x_bhwc.shape[3], g_bhwo.shape[3])
    forms |= onednn.form("weight_gradient", geometry, x_bhwc, g_bhwo, shape)
    return _on_this_platform(x_bhwc, g_bhwo, **forms)


convolve.defvjp(
    lambda x, k, geometry: (convolve(x, k, geometry), (x, k)),
    lambda geometry, saved, g: (
        input_gradient(g, saved[1], geometry),
        weight_gradient(saved[0], g, geometry),
    ),
)
input_gradient.defvjp(
    lambda g, k, geometry: (input_gradient(g, k, geometry), (g, k)),
    lambda geometry, saved, x: (
        convolve(x, saved[1], geometry),
        weight_gradient(x, saved[0], geometry),
    ),
)
weight_gradient.defvjp(
    lambda x, g, geometry: (weight_gradient(x, g, geometry), (x, g)),
    lambda geometry, saved, k: (
        input_gradient(saved[1], k, geometry),
        convolve(saved[0], k, geometry),
    ),
)


def flipped(kernel_hwio):
    """The kernel of the transposed convolution: reversed, inputs and outputs exchanged."""
    return kernel_hwio[::-1, ::-1].swapaxes(2, 3)


def _opposite(geometry: Geometry):
    """The padding with which a convolution makes x's size of g's."""
    return tuple(tuple(geometry.reach(axis) - p for p in geometry.padding[axis]) for axis in (0, 1))


def spread_input_gradient(g_bhwo, kernel_hwio, geometry: Geometry):
    """:func:`input_gradient` with ``stride`` - 1 zeros between the pixels of g."""
    pads = []
    for axis in (0, 1):
        reach = geometry.reach(axis)
        before = reach - geometry.padding[axis][0]
        after = geometry.size[axis] + reach - before - geometry.spread(g_bhwo, axis)
        pads.append((before, after))
    return lax.conv_general_dilated(
        g_bhwo,
        flipped(kernel_hwio),
        (1, 1),
        pads,
        lhs_dilation=(geometry.stride,) * 2,
        rhs_dilation=(geometry.dilation,) * 2,
        dimension_numbers=NHWC,
        precision=geometry.precision,
    )


def strided_weight_gradient(x_bhwc, g_bhwo, geometry: Geometry):
    """:func:`weight_gradient` as a convolution of x with the window g, channels as batch."""
    pads = []
    for axis in (0, 1):
        before = geometry.padding[axis][0]
        whole = geometry.reach(axis) + geometry.spread(g_bhwo, axis)
        pads.append((before, whole - before - x_bhwc.shape[1 + axis]))
    return lax.conv_general_dilated(
        x_bhwc,
        g_bhwo,
        (geometry.dilation,) * 2,
        pads,
        rhs_dilation=(geometry.stride,) * 2,
        dimension_numbers=_CHWB,
        precision=geometry.precision,
    )


def weight_gradient_by_phases(x_bhwc, g_bhwo, geometry: Geometry):
    """:func:`weight_gradient` with the d x d phases of both as so many images more."""
    d, (kh, kw) = geometry.dilation, geometry.kernel
    rows, columns = (-(-n // d) for n in g_bhwo.shape[1:3])
    padding = [(0, 0), *geometry.padding, (0, 0)]
    x = _phases(x_bhwc, padding, d, rows + kh - 1, columns + kw - 1)
    g = _phases(g_bhwo, [(0, 0)] * 4, d, rows, columns)
    plain = Geometry(tuple(x.shape[1:3]), (kh, kw), precision=geometry.precision)
    return strided_weight_gradient(x, g, plain)


def _phases(a_bhwc, padding, d: int, rows: int, columns: int):
    """(B·d·d, rows, columns, C): every d-th row and column, from each of the first d on."""
    b, _, _, c = a_bhwc.shape
    # What lies beyond the last phase is cut (a negative padding), what it lacks is zero.
    config = [(low, 0, 0) for low, _ in padding]
    for axis, side in ((1, rows * d), (2, columns * d)):
        low = padding[axis][0]
        config[axis] = (low, side - low - a_bhwc.shape[axis], 0)
    a = lax.pad(a_bhwc, jnp.zeros((), a_bhwc.dtype), config)
    a = a.reshape(b, rows, d, columns, d, c).transpose(0, 2, 4, 1, 3, 5)
    return a.reshape(b * d * d, rows, columns, c)
