"""oneDNN's convolutions against XLA's, where the library is installed."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.models import onednn
from ldct_jax.models.convolution import Geometry, convolve, input_gradient, weight_gradient

pytestmark = pytest.mark.skipif(
    onednn.library() is None, reason="oneDNN isn't installed: pip install 'ldct-jax[onednn]'"
)
GEOMETRIES = [
    (5, 7, Geometry((20, 22), (3, 3))),
    (5, 7, Geometry((20, 22), (3, 3), ((1, 1), (1, 1)))),
    (48, 1, Geometry((20, 22), (5, 5), ((4, 4), (4, 4)))),
    (1, 48, Geometry((20, 22), (5, 5))),
    (5, 7, Geometry((21, 22), (3, 3), ((1, 1), (1, 1)), stride=2)),
    (4, 4, Geometry((20, 23), (4, 4), ((1, 2), (0, 1)), stride=2)),
    (5, 7, Geometry((20, 22), (3, 3), ((2, 2), (2, 2)), dilation=2)),
]


def arrays(c, o, geometry):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, *geometry.size, c)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*geometry.kernel, c, o)), jnp.float32)
    return x, kernel


def text(function, *args):
    return jax.jit(function).lower(*args).as_text()


@pytest.mark.parametrize(("c", "o", "geometry"), GEOMETRIES)
def test_three_maps_equal_xla(c, o, geometry):
    x, kernel = arrays(c, o, geometry)

    def maps(x, kernel):
        y = convolve(x, kernel, geometry)
        g = jnp.cos(y)
        return y, input_gradient(g, kernel, geometry), weight_gradient(x, g, geometry)

    def second_order(x, kernel):
        def first(x):
            return jnp.sum(jnp.sin(convolve(x, kernel, geometry)))

        return jax.grad(lambda x, k: jnp.sum(jax.grad(first)(x) ** 2) + k.sum())(x, kernel)

    for function in (maps, second_order):
        assert "ldct_onednn" in text(function, x, kernel)
        found = jax.jit(function)(x, kernel)
        with onednn.disabled():
            plain = jax.jit(lambda *args, f=function: f(*args))
            assert "ldct_onednn" not in plain.lower(x, kernel).as_text()
            expected = plain(x, kernel)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("instructions", ["SSE41", "AVX2"])
def test_older_processors(instructions):
    """There oneDNN convolves by matrix products, with scratch memory of the creating thread's own.

    Called from another thread of XLA's they failed (status 2, with AVX2) or crashed (SSE 4.1).
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "three_maps"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_loops_and_under_vmap():
    geometry = Geometry((16, 16), (3, 3), ((1, 1), (1, 1)))
    x, kernel = arrays(4, 4, geometry)

    def chain(x, kernel):
        def layer(x, _):
            return jnp.tanh(convolve(x, kernel, geometry)), None

        return jax.lax.scan(layer, x, None, length=3)[0]

    many = jnp.stack([x, 2 * x])
    found = jax.jit(jax.vmap(jax.grad(lambda k, x: chain(x, k).sum()), (None, 0)))(kernel, many)
    with onednn.disabled():
        for one, x in zip(found, many, strict=True):
            expected = jax.grad(lambda k, x=x: chain(x, k).sum())(kernel)
            np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-4)


def test_same_bits_each_time():
    x, kernel = arrays(*GEOMETRIES[0])
    step = jax.jit(jax.grad(lambda k: jnp.sum(convolve(x, k, GEOMETRIES[0][2]) ** 2)))
    first = step(kernel)
    for _ in range(5):
        np.testing.assert_array_equal(step(kernel), first)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_precisions_stay_with_xla(dtype):
    geometry = GEOMETRIES[0][2]
    x, kernel = (a.astype(dtype) for a in arrays(*GEOMETRIES[0]))
    assert "ldct_onednn" not in text(lambda x, k: convolve(x, k, geometry), x, kernel)


@pytest.mark.parametrize("error", [RuntimeError("no such convolution"), KeyboardInterrupt()])
def test_what_goes_wrong_in_a_convolution_is_an_error(error, monkeypatch):
    """Ctrl-C, too: it may reach the thread that convolves."""
    x, kernel = arrays(*GEOMETRIES[0])
    geometry = GEOMETRIES[0][2]

    def refuse(*args):
        raise error

    monkeypatch.setattr(onednn, "_convolution", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"{type(error).__name__}: {error}"):
        jax.block_until_ready(jax.jit(lambda x, k: convolve(x, k, geometry))(x, kernel))


def test_the_environment_turns_it_off():
    code = "from ldct_jax.models import onednn; assert onednn.library() is None"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"LDCT_ONEDNN": "0"})
