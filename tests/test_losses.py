"""Losses: closed forms, one number per image, and what may not pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax import losses
from ldct_jax.errors import UsageError
from ldct_jax.record import from_record, to_record

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(0, 1, (3, 20, 22, 1)).astype(np.float32)
TARGET = RNG.uniform(0, 1, (3, 20, 22, 1)).astype(np.float32)
STACK = RNG.uniform(0, 1, (4, 3, 20, 22, 1)).astype(np.float32)
PLAIN = {
    "mse": losses.mse,
    "l1": losses.l1,
    "log mse": losses.LogMSE(),
    "scales": losses.MultiScale(losses.mse, (1, 3)),
    "edges": losses.edge_incoherence,
    "perceptual": losses.Perceptual(lambda x: (x[:, ::2], x**2)),
    "sum": losses.Weighted((losses.mse, losses.l1), (2.0, 0.5)),
}


def test_pixel_losses_are_means_over_each_image():
    d = (IMAGE - TARGET).astype(np.float64)
    axes = (1, 2, 3)
    np.testing.assert_allclose(losses.mse(IMAGE, TARGET), (d**2).mean(axes), rtol=1e-5)
    np.testing.assert_allclose(losses.l1(IMAGE, TARGET), np.abs(d).mean(axes), rtol=1e-5)
    expected = np.log((d**2).mean(axes) + 4e-4**2)
    np.testing.assert_allclose(losses.LogMSE()(IMAGE, TARGET), expected, rtol=1e-5)
    expected = 2.0 * (d**2).mean(axes) + 0.5 * np.abs(d).mean(axes)
    np.testing.assert_allclose(PLAIN["sum"](IMAGE, TARGET), expected, rtol=1e-5)


def test_scales_are_means_over_blocks():
    d = (IMAGE - TARGET).astype(np.float64)[..., 0]
    blocks = d[:, :18, :21].reshape(3, 6, 3, 7, 3).mean((2, 4))
    expected = (np.mean(d**2, (1, 2)) + np.mean(blocks**2, (1, 2))) / 2
    np.testing.assert_allclose(PLAIN["scales"](IMAGE, TARGET), expected, rtol=1e-5)
    # On a stack the losses of clones come first.
    loss = losses.every_clone(PLAIN["scales"])
    each = [PLAIN["scales"](x, TARGET) for x in STACK]
    np.testing.assert_allclose(loss(STACK, TARGET), np.mean(each, 0), rtol=1e-5)
    assert from_record(to_record(loss)) == loss
    with pytest.raises(UsageError, match="don't hold a block of 24x24"):
        losses.MultiScale(losses.mse, (24,))(IMAGE, TARGET)
    with pytest.raises(UsageError, match="at least one pixel"):
        losses.MultiScale(losses.mse, (0,))


@pytest.mark.parametrize("name", PLAIN)
def test_one_float32_number_per_image_also_from_bfloat16(name):
    loss = PLAIN[name]
    for kind in (jnp.float32, jnp.bfloat16):
        value = loss(jnp.asarray(IMAGE, kind), TARGET)
        assert value.shape == (3,) and value.dtype == jnp.float32
    # Each number depends on its own image alone.
    changed = IMAGE.copy()
    changed[1] *= 0.5
    a, b = loss(IMAGE, TARGET), loss(changed, TARGET)
    assert a[0] == b[0] and a[2] == b[2] and a[1] != b[1]
    none = np.log(loss.least**2) if isinstance(loss, losses.LogMSE) else 0.0
    np.testing.assert_allclose(loss(TARGET, TARGET), none, atol=1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_finite_where_images_are_equal_and_constant(name):
    flat = jnp.full(TARGET.shape, 0.3)
    for x in (jnp.asarray(TARGET), flat):
        grad = jax.jit(jax.grad(lambda x, y: PLAIN[name](x, y).sum()))(x, x)
        assert bool(jnp.isfinite(grad).all())


def test_every_clone_is_the_mean_over_clones_and_last_clone_the_last():
    each = np.stack([losses.mse(x, TARGET) for x in STACK])
    every, last = losses.every_clone(losses.mse), losses.last_clone(losses.mse)
    assert not np.allclose(each[0], each[-1])
    np.testing.assert_allclose(every(STACK, TARGET), each.mean(0), rtol=1e-6)
    np.testing.assert_allclose(last(STACK, TARGET), each[-1], rtol=1e-6)
    for loss in (every, last):
        np.testing.assert_allclose(loss(IMAGE, TARGET), losses.mse(IMAGE, TARGET), rtol=1e-6)
        assert from_record(to_record(loss)) == loss


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(UsageError, match="every_clone"):
        losses.mse(STACK, TARGET)
    with pytest.raises(UsageError, match="Central"):
        losses.mse(IMAGE[:, 2:-2, 2:-2], TARGET)
    with pytest.raises(UsageError, match="weights"):
        losses.Weighted((losses.mse,), (1.0, 2.0))
    with pytest.raises(UsageError, match="centre"):
        losses.Central(losses.mse)(IMAGE[:, 1:, 1:], TARGET)


def test_central_compares_with_the_middle_of_the_target():
    small = TARGET[:, 2:-2, 2:-2]
    np.testing.assert_array_equal(losses.Central(losses.mse)(small, TARGET), 0.0)
    assert float(losses.Central(losses.mse)(TARGET[:, :-4, :-4], TARGET).min()) > 0.01


def test_sobel_is_that_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    ours = np.asarray(losses.sobel(IMAGE))
    for b, axis in ((0, 0), (1, 1)):
        # scipy's "mirror" leaves the border pixel out, as ours does.
        theirs = ndimage.sobel(IMAGE[b, ..., 0].astype(np.float64), axis, mode="mirror")
        np.testing.assert_allclose(ours[b, ..., axis], theirs, atol=1e-5)
    d = losses.sobel(IMAGE) - losses.sobel(TARGET)
    expected = np.mean(np.asarray(d) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(losses.edge_incoherence(IMAGE, TARGET), expected, rtol=1e-5)


def test_perceptual_is_the_sum_of_mean_squared_feature_differences():
    loss = losses.Perceptual(lambda x: (x, 3 * x[:, ::2, ::2]))
    d = IMAGE - TARGET
    expected = (d**2).mean((1, 2, 3)) + 9 * (d[:, ::2, ::2] ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(loss(IMAGE, TARGET), expected, rtol=1e-5)


def test_wasserstein_terms():
    real, fake = jnp.array([3.0, 1.0]), jnp.array([0.5, 0.0])
    np.testing.assert_allclose(losses.critic_loss(real, fake), [-2.5, -1.0])
    np.testing.assert_allclose(losses.generator_loss(fake), [-0.5, 0.0])
    # A patch critic's map of scores counts as its mean.
    patches = jnp.stack([real, real + 2]).T.reshape(2, 2, 1, 1)
    np.testing.assert_allclose(losses.generator_loss(patches), [-4.0, -2.0])


def test_gradient_penalty_takes_the_norm_over_all_pixels_of_an_image():
    weights = RNG.normal(0, 1, IMAGE.shape[1:]).astype(np.float32)

    def critic(x):  # its gradient is 2·w·x, everywhere known
        return jnp.sum(weights * x**2, axis=(1, 2, 3))

    mix = np.array([0.0, 0.3, 1.0], np.float32)
    m = mix[:, None, None, None]
    between = m * IMAGE + (1 - m) * TARGET
    norm = np.sqrt(((2 * weights * between) ** 2).sum((1, 2, 3)))
    along_one_axis = np.sqrt(((2 * weights * between) ** 2).sum(1)).mean((1, 2))
    assert not np.allclose(norm, along_one_axis, rtol=0.1)
    penalty = losses.gradient_penalty(critic, IMAGE, TARGET, mix)
    np.testing.assert_allclose(penalty, (norm - 1) ** 2, rtol=1e-4)


def test_gradient_penalty_of_a_dead_critic_has_a_finite_gradient():
    def penalty(scale):
        def dead(x):
            return jnp.sum(jax.nn.relu(scale * x - 10.0), axis=(1, 2, 3))

        return losses.gradient_penalty(dead, IMAGE, TARGET, jnp.full(3, 0.5)).sum()

    value, grad = jax.value_and_grad(penalty)(1.0)
    assert float(value) == pytest.approx(3.0, abs=1e-5) and bool(jnp.isfinite(grad))
