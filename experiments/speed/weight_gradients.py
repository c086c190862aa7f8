"""Ways to write the weight gradient of a convolution for XLA:CPU, one beside the other.

    python experiments/speed/weight_gradients.py --out docs/results/speed

The weight gradient is the slowest part of a step on the CPU. The form in use is the last one
(ldct_jax/models/cpu_conv.py); what else was tried is kept here, so that it need not be tried again,
and can be on another machine or another jax. 3x3, 48 to 48 channels, 16 images of 51x51 pixels,
float32. Then what the forms with channels as batch make of a whole step of the PCN, where operands
come from and go to other layers. About two minutes.
"""

import argparse
import contextlib
import functools
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldct_jax.losses import every_clone, mse
from ldct_jax.models import cpu_conv
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.convolution import Geometry, strided_weight_gradient
from ldct_jax.report import tables
from ldct_jax.system import provenance, xla_flags

IMAGES, SIDE, CHANNELS, KERNEL = 16, 51, 48, 3
OUT = SIDE - KERNEL + 1
PRODUCTS = 2 * IMAGES * OUT**2 * KERNEL**2 * CHANNELS**2
REPEATS = 9
# Sums of 38,416 products in another order.
TOLERANCE = 3e-5


def conv(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dims)


def channels_as_batch(x, g):
    """a convolution with channels as batch and images as channels"""
    return conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)


def two_transposes(x, g):
    """the same, its transpose in two steps that each move whole cache lines"""
    near = lax.optimization_barrier(x.transpose(1, 2, 3, 0))
    far = lax.optimization_barrier(near.transpose(2, 0, 1, 3))
    return conv(far, g.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)


def transposed_by_a_product(x, g):
    """the same, transposed by a matrix product with the identity"""
    rows = lax.optimization_barrier(x.transpose(1, 2, 0, 3)).reshape(-1, CHANNELS)
    far = lax.optimization_barrier(jnp.einsum("cd,nd->cn", jnp.eye(CHANNELS), rows))
    far = far.reshape(CHANNELS, SIDE, SIDE, IMAGES)
    return conv(far, g.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)


def volume(x, g):
    """a three-dimensional convolution with channels as the third axis: no far transpose"""
    return lax.conv_general_dilated(
        x.transpose(1, 2, 3, 0)[None],
        g.transpose(1, 2, 0, 3)[:, :, None],
        (1, 1, 1),
        "VALID",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )[0]


def rows_as_channels(x, g):
    """a convolution along the height alone, width and images as channels"""
    far = x.transpose(3, 1, 2, 0)
    shifted = jnp.stack([far[:, :, j : j + OUT].reshape(CHANNELS, SIDE, 1, -1) for j in range(3)])
    kernel = g.transpose(1, 2, 0, 3).reshape(OUT, 1, -1, CHANNELS)
    out = conv(shifted.reshape(3 * CHANNELS, SIDE, 1, -1), kernel)
    return out.reshape(3, CHANNELS, 3, CHANNELS).transpose(2, 0, 1, 3)


def nine_products(x, g):
    """nine matrix products, one a tap"""
    flat = g.reshape(-1, CHANNELS)
    taps = [
        [x[:, i : i + OUT, j : j + OUT].reshape(-1, CHANNELS).T @ flat for j in range(3)]
        for i in range(3)
    ]
    return jnp.stack([jnp.stack(row) for row in taps])


def one_product(x, g):
    """one matrix product with all taps side by side"""
    far = x.transpose(3, 0, 1, 2)
    taps = [far[:, :, i : i + OUT, j : j + OUT] for i in range(3) for j in range(3)]
    columns = jnp.stack([t.reshape(CHANNELS, -1) for t in taps]).reshape(9 * CHANNELS, -1)
    return (columns @ g.reshape(-1, CHANNELS)).reshape(3, 3, CHANNELS, CHANNELS)


def squares(x, g, batch: str):
    """a batched product of 144 x 144: three shifts of the image, three of the gradient"""
    wide = jnp.concatenate([x[:, :, j : j + OUT] for j in range(3)], axis=-1)
    high = jnp.concatenate(
        [jnp.pad(g, ((0, 0), (i, 2 - i), (0, 0), (0, 0))) for i in range(3)], axis=-1
    )
    if batch == "rows":
        wide, high = (a.transpose(1, 0, 2, 3) for a in (wide, high))
    wide, high = (a.reshape(len(a), -1, 3 * CHANNELS) for a in (wide, high))
    out = jnp.einsum("bkm,bkn->bmn", wide, high).sum(0)
    return out.reshape(3, CHANNELS, 3, CHANNELS).transpose(2, 0, 1, 3)


def by_image(x, g):
    """a batched product of 144 x 144, one an image: three shifts of both"""
    return squares(x, g, "images")


def by_row(x, g):
    """a batched product of 144 x 144, one a row of pixels: three shifts of both"""
    return squares(x, g, "rows")


def one_by_one(x, g):
    """channels as batch, image by image: the gradient needs no transpose"""
    parts = (channels_as_batch(x[i : i + 1], g[i : i + 1]) for i in range(len(x)))
    return functools.reduce(jnp.add, parts)


def one_above_the_other(x, g):
    """channels as batch, all images one above the other with rows of zeros between"""
    return cpu_conv.weight_gradient_in_groups(1, x, g, max_groups=1)


def in_pairs(x, g):
    """channels as batch, two images at a time, one above the other: what the package does"""
    return cpu_conv.weight_gradient_in_groups(1, x, g)


FORMS = (
    channels_as_batch,
    two_transposes,
    transposed_by_a_product,
    volume,
    rows_as_channels,
    nine_products,
    one_product,
    by_image,
    by_row,
    one_by_one,
    one_above_the_other,
    in_pairs,
)


def in_turn(programs: dict) -> dict[str, list[float]]:
    """Seconds of each program's repeats, all in turn, there and back."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for i in range(REPEATS):
        for name in list(programs)[:: -1 if i % 2 else 1]:
            began = time.perf_counter()
            jax.block_until_ready(programs[name]())
            seconds[name].append(time.perf_counter() - began)
    return seconds


def measured(forms) -> dict[str, tuple[np.ndarray, float]]:
    """(result, least seconds) by name; the forms take turns."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (IMAGES, SIDE, SIDE, CHANNELS))
    g = jax.random.normal(keys[1], (IMAGES, OUT, OUT, CHANNELS))
    kernel = jax.random.normal(keys[1], (KERNEL, KERNEL, CHANNELS, CHANNELS))
    programs = {f.__name__: functools.partial(jax.jit(f), x, g) for f in forms}
    programs["forward"] = functools.partial(jax.jit(conv), x, kernel)
    results = {name: np.asarray(program()) for name, program in programs.items()}
    seconds = in_turn(programs)
    return {name: (results[name], min(seconds[name])) for name in programs}


def as_table(found: dict) -> tables.Table:
    forward = found["forward"][1]
    reference = found[FORMS[0].__name__][0]
    rows = [["the forward convolution, to compare", 1e3 * forward, PRODUCTS / forward / 1e9, 1.0]]
    for form in FORMS:
        result, seconds = found[form.__name__]
        error = np.abs(result - reference).max() / np.abs(reference).max()
        if not error < TOLERANCE:
            raise AssertionError(f"{form.__name__} is another gradient: {error:.1e}")
        rows.append([form.__doc__, 1e3 * seconds, PRODUCTS / seconds / 1e9, forward / seconds])
    device = provenance.device()
    return tables.Table(
        name="weight_gradients",
        title="Forms of the weight gradient on XLA:CPU",
        columns=(
            tables.Column("form"),
            tables.Column("time", "ms", 1),
            tables.Column("rate", "GFLOP/s", 0),
            tables.Column("of the forward convolution's", "", 2),
        ),
        rows=rows,
        protocol=f"least of {REPEATS} times, all forms in turn; float32; results equal to "
        f"{TOLERANCE:g} of the largest",
        data=f"random numbers: {IMAGES} images of {SIDE}x{SIDE}, {CHANNELS} channels to "
        f"{CHANNELS}, {KERNEL}x{KERNEL}",
        note=f"{device['cpu']}, {device['cores']} cores, jax {jax.__version__}.",
    )


def all_at_once(dilation, x, g):
    """The form of other devices: one convolution with channels as batch."""
    geometry = Geometry(x.shape[1:3], (KERNEL, KERNEL), dilation=dilation)
    return strided_weight_gradient(x, g, geometry)


# (words, weight gradient of (dilation, x, g)) of the package's convolution.
IN_A_STEP = {
    "all images at once": all_at_once,
    "all images one above the other": functools.partial(
        cpu_conv.weight_gradient_in_groups, max_groups=1
    ),
    "four images one above the other": functools.partial(
        cpu_conv.weight_gradient_in_groups, max_groups=4
    ),
    "in pairs: what the package does": cpu_conv.weight_gradient_in_groups,
}


@contextlib.contextmanager
def weight_gradient(form):
    kept, cpu_conv.weight_gradient_in_groups = cpu_conv.weight_gradient_in_groups, form
    jax.clear_caches()
    try:
        yield
    finally:
        cpu_conv.weight_gradient_in_groups = kept


def in_a_step() -> tables.Table:
    """Forward and backward pass of the full PCN, 16 patches of 55x55; the forms take turns."""
    net, loss = ClonesNet(), every_clone(mse)
    x = jax.random.uniform(jax.random.key(0), (IMAGES, 55, 55, 1))
    variables = jax.jit(net.init)(jax.random.key(1), x)

    def objective(variables, x):
        return jnp.mean(loss(net.apply(variables, x), 0.9 * x))

    programs, compiling = {}, {}
    for words, form in IN_A_STEP.items():
        with weight_gradient(form):
            began = time.perf_counter()
            # A function of its own: jax would find the form before in its caches.
            gradient = jax.jit(jax.grad(lambda *a: objective(*a)))
            compiled = gradient.lower(variables, x).compile()
            compiling[words] = time.perf_counter() - began
        programs[words] = functools.partial(compiled, variables, x)
        jax.block_until_ready(programs[words]())
    seconds = in_turn(programs)
    first = seconds[next(iter(programs))]
    device = provenance.device()
    return tables.Table(
        name="weight_gradients_step",
        title="Forms of the weight gradient in a step of the PCN",
        columns=(
            tables.Column("weight gradient"),
            tables.Column("step", "s", 3),
            tables.Column("of the first row's", "", 3),
            tables.Column("compiled in", "s", 1),
        ),
        rows=[
            [
                words,
                statistics.median(times),
                statistics.median(a / b for a, b in zip(times, first, strict=True)),
                compiling[words],
            ]
            for words, times in seconds.items()
        ],
        protocol=f"medians of {REPEATS} repeats, of the ratio repeat by repeat; all forms in turn, "
        "there and back, in one process; float32",
        data="random numbers: forward and backward pass of four clones, 16 patches of 55x55",
        note=f"{device['cpu']}, {device['cores']} cores, jax {jax.__version__}.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for made in (as_table(measured(FORMS)), in_a_step()):
        for name, text in made.files.items():
            (given.out / name).write_text(text, "utf-8")
        print(made.markdown())


if __name__ == "__main__":
    xla_flags.restart_with_large_pages()
    main()
