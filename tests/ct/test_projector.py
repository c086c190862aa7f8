"""Forward projection against analytic integrals and scikit-image; adjoint; gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.transform import radon

from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.projector import forward_project
from ldct_jax.errors import UsageError
from tests.ct.bodies import Parallel
from tests.ct.ellipses import Ellipse, image, integrals

BODY = (
    Ellipse(5, -8, 150, 105, 0.2, 0.019),
    Ellipse(-40, 20, 35, 22, -0.5, 0.003),
    Ellipse(60, -30, 18, 30, 0.9, -0.006),
)


def back_project(sinogram, geometry, size, pixel_mm):
    """The adjoint, by the transposed program."""
    image = jax.ShapeDtypeStruct(size, jnp.float32)
    return jax.linear_transpose(lambda x: forward_project(x, geometry, pixel_mm), image)(sinogram)[
        0
    ]


FAN = FanBeam(n_detectors=368, detector_mm=2.5716, n_views=90)
SMALL = FanBeam(n_detectors=90, detector_mm=9.0, n_views=36)


@pytest.mark.core
@pytest.mark.parametrize(
    "geometry",
    [
        FAN,
        Parallel(n_detectors=368, detector_mm=1.4, n_views=90),
    ],
    ids=["arc", "parallel"],
)
def test_integrals_of_ellipses_are_within_half_a_percent(geometry):
    exact = integrals(BODY, geometry)
    found = np.asarray(forward_project(image(BODY, 512, 0.75, finer=4), geometry, 0.75))
    # A ray within a pixel of a border meets the pixels' own staircase, whatever the projector.
    inside = exact > 0.25 * exact.max()
    error = np.abs(found - exact)[inside] / exact[inside]
    assert error.mean() < 0.001
    assert np.quantile(error, 0.999) < 0.005
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.005


def test_a_ray_has_its_true_length_in_millimetres():
    parallel = Parallel(n_detectors=64, detector_mm=2.0, n_views=8)
    ones = np.ones((64, 64), np.float32)
    for pixel in (2.0, 4.0):
        middle = np.asarray(forward_project(ones, parallel, pixel))[0, 31:33]
        np.testing.assert_allclose(middle, 64 * pixel, rtol=1e-5)


def test_agrees_with_scikit_image():
    size, views = 129, 60
    parallel = Parallel(n_detectors=size, detector_mm=1.0, n_views=views)
    disc = [Ellipse(10, 14, 32, 18, 0.4, 1.0), Ellipse(-12, -20, 10, 16, 0, 0.5)]
    picture = image(disc, size, 1.0)
    ours = np.asarray(forward_project(picture, parallel, 1.0))
    theirs = radon(picture, np.degrees(parallel.views), circle=True).T
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.01
    exact = integrals(disc, parallel)
    # Ours is the closer one to the truth.
    assert np.linalg.norm(ours - exact) < np.linalg.norm(theirs - exact)


@pytest.mark.core
@pytest.mark.parametrize(
    "geometry", [SMALL, Parallel(n_detectors=90, detector_mm=5.0, n_views=36)], ids=["fan", "par"]
)
def test_back_projection_is_the_adjoint(geometry):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(48, 56)).astype(np.float32)
    y = rng.normal(size=(geometry.n_views, geometry.n_detectors)).astype(np.float32)
    forward = np.asarray(forward_project(x, geometry, 6.0), np.float64)
    back = np.asarray(back_project(y, geometry, (48, 56), 6.0), np.float64)
    left, right = np.sum(forward * y), np.sum(x * back)
    scale = np.linalg.norm(forward) * np.linalg.norm(y)
    assert abs(left - right) / scale < 1e-6
    assert abs(left - right) / abs(left) < 1e-4


def test_gradient_of_a_fit_is_the_back_projected_residual():
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.random((32, 32)), jnp.float32)
    y = jnp.asarray(rng.random((36, 90)), jnp.float32)

    def misfit(x):
        return 0.5 * jnp.sum((forward_project(x, SMALL, 8.0) - y) ** 2)

    gradient = np.asarray(jax.grad(misfit)(x))
    expected = np.asarray(back_project(forward_project(x, SMALL, 8.0) - y, SMALL, (32, 32), 8.0))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())
    # A finite difference of the quadratic along a direction is exact but for rounding.
    direction = jnp.asarray(rng.normal(size=(32, 32)), jnp.float32)
    step = 0.5
    slope = (misfit(x + step * direction) - misfit(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(float(slope), float(jnp.sum(gradient * direction)), rtol=1e-3)


def test_stacks_vmap_and_jit_give_the_slices():
    rng = np.random.default_rng(5)
    stack = rng.random((3, 40, 40)).astype(np.float32)
    one_by_one = np.stack([forward_project(s, SMALL, 7.0) for s in stack])
    together = np.asarray(forward_project(stack, SMALL, 7.0))
    mapped = np.asarray(jax.jit(jax.vmap(lambda s: forward_project(s, SMALL, 7.0)))(stack))
    np.testing.assert_allclose(together, one_by_one, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(mapped, one_by_one, rtol=1e-5, atol=1e-2)
    assert not np.allclose(one_by_one[0], one_by_one[1])


def test_memory_is_rays_plus_pixels_and_no_matrix():
    geometry = FanBeam()
    project = jax.jit(lambda image: forward_project(image, geometry, 0.74))
    image = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    needed = project.lower(image).compile().memory_analysis().temp_size_in_bytes
    rays, pixels = geometry.n_views * geometry.n_detectors, 512 * 512
    # A view x pixel matrix would take 1152 times the image, a ray x row table 512 times the rays.
    assert needed < 4 * 40 * (rays + pixels)


def test_misuse_is_one_line():
    with pytest.raises(UsageError, match="an image"):
        forward_project(np.zeros((2, 2, 2, 2), np.float32), SMALL, 1.0)
    with pytest.raises(UsageError, match="180"):
        FanBeam(n_detectors=2000, detector_mm=2.0)
    with pytest.raises(UsageError, match="between source and detector"):
        FanBeam(source_centre_mm=1100.0)
    with pytest.raises(UsageError, match="at least one view"):
        FanBeam(n_views=0)
