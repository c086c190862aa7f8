"""Forms of a convolution's weight gradient on XLA:CPU, alone and in a whole step of the PCN.

    python -m experiments.speed.weight_gradients

The weight gradient is the slowest part of a step on the CPU; ``ldct_jax/models/cpu_conv.py`` has
the form in use, and here are others to try it against on another machine or another jax. 3x3, 48 to
48 channels, 16 images of 51x51 pixels, float32; then forward and backward pass of four clones, 16
patches of 55x55. What is slower and not kept: nine matrix products, one product of all taps side by
side, batched products, a three-dimensional convolution, transposes in two steps. About two minutes.
"""

from __future__ import annotations

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldct_jax.losses import every_clone, mse
from ldct_jax.models import cpu_conv
from ldct_jax.models.clones import ClonesNet
from ldct_jax.system import provenance, xla_flags

IMAGES, SIDE, CHANNELS, KERNEL = 16, 51, 48, 3
OUT = SIDE - KERNEL + 1
PRODUCTS = 2 * IMAGES * OUT**2 * KERNEL**2 * CHANNELS**2
REPEATS = 9
# Sums of 38,416 products in another order.
TOLERANCE = 3e-5


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=cpu_conv.NHWC)


def channels_as_batch(dilation, x, g):
    """All images at once, images as channels."""
    return conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)


def shifted(dilation, x, g, max_groups=8):
    """Groups of images one above the other, three shifts of g side by side as channels."""
    b, h, w, c = x.shape
    _, gh, gw, o = g.shape
    images, gap = max(2, -(-b // max_groups)), h - gh
    taps = w - gw + 1

    def group(x, g):
        rows = len(x) * h
        tall = x.transpose(3, 0, 1, 2).reshape(c, rows, w, 1)
        shifts = [jnp.pad(g, ((0, 0), (0, gap), (j, taps - 1 - j), (0, 0))) for j in range(taps)]
        wide = jnp.concatenate(shifts, -1).reshape(rows, w, 1, taps * o)[: rows - gap]
        return conv(tall, wide)[:, :, 0].reshape(c, h - gh + 1, taps, o).transpose(1, 2, 0, 3)

    groups = (slice(i, i + images) for i in range(0, b, images))
    return functools.reduce(jnp.add, (group(x[s], g[s]) for s in groups))


def groups(n: int):
    return functools.partial(cpu_conv.weight_gradient_in_groups, max_groups=n)


FORMS = {
    "images as channels": channels_as_batch,
    "one group of 16 images": groups(1),
    "two groups of 8": groups(2),
    "four groups of 4": groups(4),
    "eight groups of 2 (in use)": groups(8),
    "four groups of 4, three shifts of g": functools.partial(shifted, max_groups=4),
    "eight groups of 2, three shifts of g": shifted,
}


def in_turn(programs: dict) -> dict[str, list[float]]:
    """Seconds of each program's repeats, all in turn, there and back."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for i in range(REPEATS):
        for name in list(programs)[:: -1 if i % 2 else 1]:
            began = time.perf_counter()
            jax.block_until_ready(programs[name]())
            seconds[name].append(time.perf_counter() - began)
    return seconds


def alone() -> dict[str, float]:
    """The shortest time of each form, and of the forward convolution, seconds."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (IMAGES, SIDE, SIDE, CHANNELS))
    g = jax.random.normal(keys[1], (IMAGES, OUT, OUT, CHANNELS))
    kernel = jax.random.normal(keys[2], (KERNEL, KERNEL, CHANNELS, CHANNELS))
    compiled = {n: jax.jit(functools.partial(f, 1)) for n, f in FORMS.items()}
    programs = {name: functools.partial(f, x, g) for name, f in compiled.items()}
    right = np.asarray(programs["images as channels"]())
    for name, program in programs.items():
        error = np.abs(np.asarray(program()) - right).max() / np.abs(right).max()
        if not error < TOLERANCE:
            raise AssertionError(f"{name} is another gradient: {error:.1e}")
    programs["forward convolution"] = functools.partial(jax.jit(conv), x, kernel)
    jax.block_until_ready(programs["forward convolution"]())
    return {name: min(times) for name, times in in_turn(programs).items()}


def in_a_step() -> dict[str, tuple[float, float]]:
    """(median seconds of forward and backward pass, seconds of compiling) with each form."""
    net, loss = ClonesNet(), every_clone(mse)
    x = jax.random.uniform(jax.random.key(0), (IMAGES, 55, 55, 1))
    variables = jax.jit(net.init)(jax.random.key(1), x)
    programs, compiling, kept = {}, {}, cpu_conv.weight_gradient_in_groups
    try:
        for name, form in FORMS.items():
            cpu_conv.weight_gradient_in_groups = form
            jax.clear_caches()
            began = time.perf_counter()
            # A function of its own: jax would find the form before in its caches.
            gradient = jax.jit(jax.grad(lambda v, x: jnp.mean(loss(net.apply(v, x), 0.9 * x))))
            compiled = gradient.lower(variables, x).compile()
            compiling[name] = time.perf_counter() - began
            programs[name] = functools.partial(compiled, variables, x)
            jax.block_until_ready(programs[name]())
    finally:
        cpu_conv.weight_gradient_in_groups = kept
    return {n: (statistics.median(t), compiling[n]) for n, t in in_turn(programs).items()}


def main() -> None:
    device, found, step = provenance.device(), alone(), in_a_step()
    print(
        f"{device['cpu']}, {device['cores']} cores, jax {jax.__version__}, {device['xla_flags']}\n"
    )
    print("| form | alone [ms] | [GFLOP/s] | forward and backward [s] | compiled in [s] |")
    print("|---|---:|---:|---:|---:|")
    for name, seconds in found.items():
        rest = "{:.3f} | {:.1f}".format(*step[name]) if name in step else " | "
        print(f"| {name} | {1e3 * seconds:.1f} | {PRODUCTS / seconds / 1e9:.0f} | {rest} |")


if __name__ == "__main__":
    xla_flags.restart_with_large_pages()
    main()
