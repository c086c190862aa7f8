"""Convolutions with a gradient that stays fast inside loops, and their initialisers.

XLA:CPU brings convolutions into the form of its fast kernel only in a program's entry
computation; inside a ``while`` body (``nn.scan``, ``lax.scan``, ``fori_loop``) the gradients that
autodiff writes fall to a naive kernel, 30-50 times slower. :func:`conv_valid` therefore writes its
own gradients as plain NHWC/HWIO convolutions, which need no such help.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ldct_jax.errors import UsageError

NHWC = ("NHWC", "HWIO", "NHWC")
INITS = ("lecun", "torch_default", "zero_last")


def _plain_conv(x_bhwc, kernel_hwio, stride: int, dilation: int):
    return lax.conv_general_dilated(
        x_bhwc,
        kernel_hwio,
        window_strides=(stride, stride),
        padding="VALID",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=NHWC,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_canonical(x_bhwc, kernel_hwio, dilation: int):
    return _plain_conv(x_bhwc, kernel_hwio, 1, dilation)


def _conv_forward(x_bhwc, kernel_hwio, dilation):
    return _plain_conv(x_bhwc, kernel_hwio, 1, dilation), (x_bhwc, kernel_hwio)


def _conv_backward(dilation, saved, g_bhwc):
    x_bhwc, kernel_hwio = saved
    reach_h = dilation * (kernel_hwio.shape[0] - 1)
    reach_w = dilation * (kernel_hwio.shape[1] - 1)
    padded = jnp.pad(g_bhwc, ((0, 0), (reach_h, reach_h), (reach_w, reach_w), (0, 0)))
    flipped = kernel_hwio[::-1, ::-1].swapaxes(2, 3)
    dx = _conv_canonical(padded, flipped, dilation)
    dw = lax.platform_dependent(
        x_bhwc,
        g_bhwc,
        cpu=functools.partial(_weight_gradient_in_groups, dilation),
        default=functools.partial(_weight_gradient, dilation),
    )
    return dx, dw


def _weight_gradient(dilation: int, x_bhwc, g_bhwc):
    """dw[i, j, c, o] = sum over b, h, w of x[b, h + i, w + j, c] g[b, h, w, o].

    That is a convolution of x with c as batch and b as channels.
    """
    x_chwb, g_hwbo = x_bhwc.transpose(3, 1, 2, 0), g_bhwc.transpose(1, 2, 0, 3)
    return _taps(x_chwb, g_hwbo, dilation).transpose(1, 2, 0, 3)


def _taps(x, g, dilation: int):
    # A dilated kernel's taps lie `dilation` apart, so there the window strides instead.
    return _conv_canonical(x, g, 1) if dilation == 1 else _plain_conv(x, g, dilation, 1)


def _weight_gradient_in_groups(dilation: int, x_bhwc, g_bhwc, most_groups: int = 8):
    """The same for XLA:CPU: two images at a time, one above the other.

    Rows of zeros below each image of g keep the two apart. So the images need not be channels, g no
    transposition, and what is summed at a time fits into the cache: 4 to 7 % less for a step of the
    PCN with jax 0.12 and large pages, 40 % with 0.10 (docs/results). Larger batches have larger
    groups, not more of them, as each is a convolution to compile.
    """
    b, h, w, c = x_bhwc.shape
    _, gh, gw, o = g_bhwc.shape
    images, gap = max(2, -(-b // most_groups)), h - gh

    def group(x, g):
        rows = len(x) * h
        tall_x = x.transpose(3, 0, 1, 2).reshape(c, rows, w, 1)
        tall_g = jnp.pad(g, ((0, 0), (0, gap), (0, 0), (0, 0))).reshape(rows, gw, 1, o)
        return _taps(tall_x, tall_g[: rows - gap], dilation).transpose(1, 2, 0, 3)

    groups = (slice(i, i + images) for i in range(0, b, images))
    return functools.reduce(jnp.add, (group(x_bhwc[s], g_bhwc[s]) for s in groups))


_conv_canonical.defvjp(_conv_forward, _conv_backward)


def _blocks_conv(x_bhwc, kernel_hwio):
    """The stride-2 convolution as one of stride 1 on 2x2 blocks of pixels: same result.

    16/9 of the products for a 3x3 kernel, but canonical in all its gradients.
    """
    kh, kw, c, o = kernel_hwio.shape
    b, h, w, _ = x_bhwc.shape
    kbh, kbw = (kh + 1) // 2, (kw + 1) // 2
    rows, columns = (h - kh) // 2 + kbh, (w - kw) // 2 + kbw
    # Rows beyond the last window are cut; a row that only the padded kernel sees is zero.
    x = x_bhwc[:, : 2 * rows, : 2 * columns]
    x = jnp.pad(x, ((0, 0), (0, 2 * rows - x.shape[1]), (0, 2 * columns - x.shape[2]), (0, 0)))
    x = x.reshape(b, rows, 2, columns, 2, c).transpose(0, 1, 3, 2, 4, 5)
    kernel = jnp.pad(kernel_hwio, ((0, 2 * kbh - kh), (0, 2 * kbw - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(kbh, 2, kbw, 2, c, o).transpose(0, 2, 1, 3, 4, 5)
    return _conv_canonical(
        x.reshape(b, rows, columns, 4 * c), kernel.reshape(kbh, kbw, 4 * c, o), 1
    )


@jax.custom_vjp
def _conv_stride2(x_bhwc, kernel_hwio):
    return _plain_conv(x_bhwc, kernel_hwio, 2, 1)


def _stride2_forward(x_bhwc, kernel_hwio):
    return _plain_conv(x_bhwc, kernel_hwio, 2, 1), (x_bhwc, kernel_hwio)


def _stride2_backward(saved, g_bhwc):
    def gradients(conv):
        return lambda x, kernel, g: jax.vjp(conv, x, kernel)[1](g)

    # Only XLA:CPU needs the canonical form (20 times faster in a loop); elsewhere it costs more.
    return lax.platform_dependent(
        *saved,
        g_bhwc,
        cpu=gradients(_blocks_conv),
        default=gradients(lambda x, kernel: _plain_conv(x, kernel, 2, 1)),
    )


_conv_stride2.defvjp(_stride2_forward, _stride2_backward)


def conv_valid(x_bhwc, kernel_hwio, *, stride: int = 1, dilation: int = 1):
    """Convolve without padding (cross-correlation, as every deep-learning library means it).

    x: (B, H, W, C), kernel: (kh, kw, C, O), both of one dtype. With stride 1, and on the CPU with
    stride 2, the first and all further gradients are canonical convolutions (see the module's
    text).
    """
    if stride == 1:
        return _conv_canonical(x_bhwc, kernel_hwio, dilation)
    if stride == 2 and dilation == 1:
        return _conv_stride2(x_bhwc, kernel_hwio)
    return _plain_conv(x_bhwc, kernel_hwio, stride, dilation)


def pad_hw(x_bhwc, before: int, after: int | None = None):
    """Pad height and width with zeros, ``before`` on the top and left, ``after`` on the others.

    Explicit, because on XLA:CPU a convolution with built-in padding has a weight gradient
    18-60 times slower than padding followed by a VALID convolution.
    """
    after = before if after is None else after
    if before == 0 and after == 0:
        return x_bhwc
    return jnp.pad(x_bhwc, ((0, 0), (before, after), (before, after), (0, 0)))


def _torch_uniform(fan_in: int) -> Callable:
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def initializers(init: str, fan_in: int, *, last: bool = False) -> tuple[Callable, Callable]:
    """The (kernel, bias) initialisers of a named scheme.

    ``lecun``: truncated normal of variance 1/fan_in, bias 0 (flax's default). ``torch_default``:
    both uniform in ±1/sqrt(fan_in), what ``torch.nn.Conv2d`` does and so what the papers' public
    codes start from. ``zero_last``: lecun, but a network's last layer starts at zero, so that a
    residual network starts as the identity.
    """
    if init not in INITS:
        raise UsageError(f"unknown initialisation {init!r}: use one of {', '.join(INITS)}")
    if init == "torch_default":
        return _torch_uniform(fan_in), _torch_uniform(fan_in)
    if init == "zero_last" and last:
        return nn.initializers.zeros, nn.initializers.zeros
    return nn.initializers.lecun_normal(), nn.initializers.zeros


def _in_two_halves(x_bhwc, kernel_hwio):
    """Operands whose bfloat16 convolution is that of the float32 ones, up to its last bits.

    A pixel of an image in [0, 1] has 8 bits in bfloat16: of a window of 4096 HU some 8 HU, more
    than the noise that is looked for. So both operands are written as a bfloat16 number and the
    bfloat16 rest, and the three products that count stand side by side as channels. It costs a
    layer of one channel what three channels cost, next to nothing in a network of 48.
    """

    def halves(a):
        # Not two casts: XLA may take a number that is cast down and up again for the number.
        first = lax.reduce_precision(a, exponent_bits=8, mantissa_bits=7)
        return first, a - first

    (x, x_rest), (kernel, kernel_rest) = halves(x_bhwc), halves(kernel_hwio)
    return (
        jnp.concatenate([x, x_rest, x], axis=-1),
        jnp.concatenate([kernel, kernel, kernel_rest], axis=2),
    )


class Conv(nn.Module):
    """A 2-D convolution with parameters ``kernel`` (kh, kw, C, O) and ``bias`` (O,).

    ``padding``: ``valid`` (output smaller by k-1), ``same`` (zeros, equal on both sides, as
    torch's ``padding=(k-1)//2``), or ``full`` (output larger by k-1; with stride 1 this is the
    papers' "deconvolution", a transposed convolution whose kernel is stored unflipped).
    Parameters are float32; the convolution runs in ``dtype``. In bfloat16 a float32 input (the
    image) keeps its precision, see :func:`_in_two_halves`.
    """

    in_features: int
    features: int
    kernel_size: int = 3
    padding: str = "valid"
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    initialization: str = "lecun"
    last: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        k = self.kernel_size
        kernel_init, bias_init = initializers(
            self.initialization, k * k * self.in_features, last=self.last
        )
        self.kernel = self.param("kernel", kernel_init, (k, k, self.in_features, self.features))
        if self.use_bias:
            self.bias = self.param("bias", bias_init, (self.features,))

    def convolve(self, x_bhwc, kernel_hwio):
        """Pad as this layer does and convolve with ``kernel_hwio``, without the bias."""
        reach = self.dilation * (self.kernel_size - 1)
        if self.padding == "full":
            x_bhwc = pad_hw(x_bhwc, reach)
        elif self.padding == "same":
            x_bhwc = pad_hw(x_bhwc, reach // 2, reach - reach // 2)
        if self.dtype == jnp.bfloat16 and x_bhwc.dtype == jnp.float32:
            x_bhwc, kernel_hwio = _in_two_halves(x_bhwc, kernel_hwio)
        return conv_valid(
            x_bhwc.astype(self.dtype),
            kernel_hwio.astype(self.dtype),
            stride=self.stride,
            dilation=self.dilation,
        )

    def add_bias(self, x_bhwc):
        return x_bhwc + self.bias.astype(x_bhwc.dtype) if self.use_bias else x_bhwc

    def __call__(self, x_bhwc):
        return self.add_bias(self.convolve(x_bhwc, self.kernel))


def check_images(x_bhwc, network: str, *, channels: int = 1, least: int = 1, multiple: int = 1):
    """Refuse anything but (B, H, W, ``channels``) with sides the network can take.

    Sides must be at least ``least`` and divide by ``multiple``; raises UsageError that says so.
    """
    shape = tuple(x_bhwc.shape)
    if len(shape) != 4 or shape[3] != channels:
        raise UsageError(f"{network} takes images (B, H, W, {channels}), not {shape}")
    if any(side < least for side in shape[1:3]):  # symbolic sides have no minimum
        raise UsageError(
            f"{shape[1]}x{shape[2]} pixels are too few: {network} needs at least {least}x{least}"
        )
    if shape[1] % multiple or shape[2] % multiple:
        raise UsageError(
            f"{shape[1]}x{shape[2]} pixels: {network} needs sides that divide by {multiple}; "
            "ldct_jax.models.inference.denoise pads and crops whole slices"
        )


def max_pool2(x_bhwc):
    """2x2 maxima, stride 2; an odd last row or column is left out: (B, H//2, W//2, C).

    Written as a reshape, whose gradient needs no select-and-scatter.
    """
    b, h, w, c = x_bhwc.shape
    x = x_bhwc[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def upsample_bilinear(x_bhwc, height: int, width: int):
    """Bilinear enlargement to ``height`` x ``width`` with pixel centres aligned at half pixels.

    Equal to torch's ``interpolate(mode="bilinear", align_corners=False)``. Whole factors are
    written as shifted sums, anything else as jax.image.resize, a dense matrix product.
    """
    b, h, w, c = x_bhwc.shape
    if height % h == 0 and width % w == 0:
        return _enlarge(_enlarge(x_bhwc, 1, height // h), 2, width // w)
    return jax.image.resize(x_bhwc, (b, height, width, c), "bilinear")


def _enlarge(x, axis: int, factor: int):
    """Bilinear enlargement by a whole factor along one axis: one weighted pair per phase."""
    if factor == 1:
        return x
    n = x.shape[axis]
    first = lax.slice_in_dim(x, 0, 1, axis=axis)
    last = lax.slice_in_dim(x, n - 1, n, axis=axis)
    edged = jnp.concatenate([first, x, last], axis=axis)

    def phase(p: int):
        # Output pixel factor·i + p has its centre at i + offset in the input's pixels.
        offset = (p + 0.5) / factor - 0.5
        start = 0 if offset < 0 else 1
        share = offset + 1 if offset < 0 else offset
        near = lax.slice_in_dim(edged, start, start + n, axis=axis)
        far = lax.slice_in_dim(edged, start + 1, start + 1 + n, axis=axis)
        return near * (1.0 - share) + far * share

    stacked = jnp.stack([phase(p) for p in range(factor)], axis=axis + 1)
    return stacked.reshape(*x.shape[:axis], n * factor, *x.shape[axis + 1 :])
