"""The prototype of a chain of layers in one kernel, interpreted, against XLA's convolutions."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed.pallas_chain import pallas_chain, xla_chain


def _chain(dtype, layers, channels=12):
    random = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * random.standard_normal(shape), dtype)

    x = draw(2, 11, 9, channels)
    scale = (2 / 9 / channels) ** 0.5
    kernels = [draw(3, 3, channels, channels, scale=scale) for _ in range(layers)]
    return x, kernels, [draw(channels, scale=0.1) for _ in range(layers)]


# A bfloat16 has 8 bits; XLA adds the bias to a rounded sum, the kernel to the float32 one.
@pytest.mark.long
@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2**-7)])
def test_a_chain_by_rows_equals_the_convolutions(dtype, rtol):
    chain = _chain(dtype, layers=2)
    expected = xla_chain(*chain)
    found = pallas_chain(*chain, interpret=True)
    assert found.dtype == dtype
    assert found.shape == expected.shape == (2, 7, 5, 12)
    found, expected = (np.asarray(a, np.float32) for a in (found, expected))
    assert 0.2 < (expected == 0).mean() < 0.8
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * expected.max())


def test_an_image_without_an_output_pixel_is_refused():
    with pytest.raises(ValueError, match="11x9 pixels are too few for 5 layers"):
        pallas_chain(*_chain(jnp.float32, layers=5))
