"""What the networks are made of: convolutions, ReLU, pooling, enlargement."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ldct_jax.errors import UsageError
from ldct_jax.models.convolution import conv

INITS = ("lecun", "torch_default", "zero_last")
# A layer of so few channels reads an image, not features.
IMAGE_CHANNELS = 3


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

    A pixel of an image in [0, 1] has 8 bits in bfloat16: steps of 8 HU in a window of 4096 HU, too
    coarse for the noise of a scan. So both operands are split into bf16 high and low parts, and the
    three products that count stand side by side as channels (three-product emulation). It costs a
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


@jax.custom_jvp
def relu(x):
    """max(x, 0), with derivative 0 at 0.

    On accelerators the derivative looks at the result instead of ``x``: the same bits, but the
    convolution's output then has no second user, so that bias and ReLU become part of the
    convolution's kernel, and what is kept for the gradient is what the next layer keeps anyway. On
    a CPU that costs 2 to 10 %.
    """
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = relu(x)
    passes = lax.platform_dependent(
        lax.stop_gradient(x),
        lax.stop_gradient(y),
        cpu=lambda x, y: x > 0,
        # The barrier: XLA would turn max(x, 0) > 0 into x > 0 again.
        default=lambda x, y: lax.optimization_barrier(y) > 0,
    )
    return y, jnp.where(passes, dx, jnp.zeros_like(dx))


class Conv(nn.Module):
    """A 2-D convolution with parameters ``kernel`` (kh, kw, C, O) and ``bias`` (O,).

    ``padding``: ``valid`` (output smaller by k-1), ``same`` (zeros, equal on both sides, as
    torch's ``padding=(k-1)//2``), or ``full`` (output larger by k-1; with stride 1 this is the
    papers' "deconvolution", a transposed convolution whose kernel is stored unflipped).
    Parameters are float32; the convolution runs in ``dtype``. Images keep their precision: in
    bfloat16 a float32 input is split (:func:`_in_two_halves`), and in float32 a layer of up to
    three channels runs at the highest precision. A TPU rounds operands to bfloat16 otherwise (steps
    of 8 HU in a window of 4096), a GPU to TF32 (steps of 2 HU).
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
        paddings = {"valid": (0, 0), "same": (reach // 2, -(-reach // 2)), "full": (reach, reach)}
        if self.padding not in paddings:
            raise UsageError(f"padding={self.padding!r}: use valid, same or full")
        reads_image = self.in_features <= IMAGE_CHANNELS
        if is_split := self.dtype == jnp.bfloat16 and x_bhwc.dtype == jnp.float32:
            x_bhwc, kernel_hwio = _in_two_halves(x_bhwc, kernel_hwio)
        return conv(
            x_bhwc.astype(self.dtype),
            kernel_hwio.astype(self.dtype),
            padding=paddings[self.padding],
            stride=self.stride,
            dilation=self.dilation,
            precision=lax.Precision.HIGHEST if reads_image and not is_split else None,
        )

    def add_bias(self, x_bhwc):
        return x_bhwc + self.bias.astype(x_bhwc.dtype) if self.use_bias else x_bhwc

    def __call__(self, x_bhwc):
        return self.add_bias(self.convolve(x_bhwc, self.kernel))

    def of_parts(self, *parts_bhwc):
        """This layer of the parts' concatenation along the channels, which is never written.

        One convolution each; a GPU adds the other's result in the same kernel (``side input``).
        """
        ends = list(itertools.accumulate(part.shape[-1] for part in parts_bhwc))
        kernels = jnp.split(self.kernel, ends[:-1], axis=2)
        return self.add_bias(sum(map(self.convolve, parts_bhwc, kernels)))


def same_conv(network: nn.Module, name: str, x_bhwc, features: int, kernel_size: int = 3, **fields):
    """A convolution of ``network`` that keeps the size, with its initialisation and its dtype.

    For compact networks; ``fields``: further ones of :class:`Conv`.
    """
    conv = Conv(
        x_bhwc.shape[-1],
        features,
        kernel_size,
        padding="same",
        initialization=network.initialization,
        dtype=network.dtype,
        name=name,
        **fields,
    )
    return conv(x_bhwc)


def check_images(x_bhwc, network: str, *, channels: int = 1, min_side: int = 1, multiple: int = 1):
    """Refuse anything but (B, H, W, ``channels``) with sides the network can take.

    Sides must be at least ``min_side`` and divide by ``multiple``; raises UsageError that says so.
    """
    shape = tuple(x_bhwc.shape)
    if len(shape) != 4 or shape[3] != channels:
        raise UsageError(f"{network} takes images (B, H, W, {channels}), not {shape}")
    if any(side < min_side for side in shape[1:3]):  # symbolic sides have no minimum
        raise UsageError(
            f"{shape[1]}x{shape[2]} pixels are too few: {network} needs at least "
            f"{min_side}x{min_side}"
        )
    if shape[1] % multiple or shape[2] % multiple:
        raise UsageError(
            f"{shape[1]}x{shape[2]} pixels: {network} needs sides that divide by {multiple}; "
            "ldct_jax.models.whole_slices.denoise pads and crops whole slices"
        )


def unrolling(length: int, unroll: int | None) -> int:
    """How many rounds of a clone network's loop are written out as one.

    ``unroll``, or where it is None all of them on an accelerator, one on a CPU. It is only a matter
    of speed and compile time: the function is the same.
    """
    if unroll is not None:
        return unroll
    return 1 if jax.default_backend() == "cpu" else length


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
