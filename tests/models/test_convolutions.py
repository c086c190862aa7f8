"""Layers: paddings, strides and their gradients, pooling, enlargement, normalisations."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ldct_jax.errors import UsageError
from ldct_jax.models import layers
from ldct_jax.models.layers import Conv, check_images, conv_valid, max_pool2, upsample_bilinear
from ldct_jax.models.norm import PReLU, batch_norm, instance_norm

pytestmark = pytest.mark.core
RNG = np.random.default_rng(0)


def reference_conv(x, kernel, stride, dilation):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "VALID",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=layers.NHWC,
    )


def loss(conv):
    return lambda x, kernel: jnp.sum(conv(x, kernel) ** 3)


@pytest.mark.parametrize(
    ("h", "w", "k", "stride", "dilation"),
    [(9, 8, 3, 1, 1), (12, 11, 3, 1, 3), (10, 11, 3, 2, 1), (9, 8, 3, 2, 1), (4, 3, 3, 2, 1),
     (12, 13, 5, 2, 1), (10, 9, 1, 2, 1), (9, 9, 2, 2, 1)],
)  # fmt: skip
def test_gradients_of_first_and_second_order_are_those_of_autodiff(h, w, k, stride, dilation):
    x = RNG.normal(size=(2, h, w, 3)).astype(np.float32)
    kernel = RNG.normal(size=(k, k, 3, 4)).astype(np.float32)

    def all_orders(conv):
        def penalty(x, kernel):
            return jnp.sum(jnp.sin(jax.grad(loss(conv))(x, kernel) * 1e-2))

        def orders(x, kernel):
            first = jax.grad(loss(conv), (0, 1))(x, kernel)
            return conv(x, kernel), first, jax.grad(penalty, (0, 1))(x, kernel)

        quick = {"xla_backend_optimization_level": 0}
        return jax.tree.leaves(jax.jit(orders, compiler_options=quick)(x, kernel))

    ours = all_orders(lambda x, kernel: conv_valid(x, kernel, stride=stride, dilation=dilation))
    theirs = all_orders(lambda x, kernel: reference_conv(x, kernel, stride, dilation))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("batch", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_weight_gradient_by_groups_of_images_is_that_of_all_at_once(batch, dilation):
    """Whatever the batch divides into, and with few convolutions to compile."""
    x = RNG.normal(size=(batch, 11, 9, 2)).astype(np.float32)
    g = RNG.normal(size=(batch, 11 - 2 * dilation, 9 - 2 * dilation, 3)).astype(np.float32)
    whole = layers._weight_gradient(dilation, x, g)
    grouped = jax.jit(layers._weight_gradient_in_groups, static_argnums=0)
    np.testing.assert_allclose(grouped(dilation, x, g), whole, rtol=1e-4, atol=1e-4)
    text = grouped.lower(dilation, x, g).as_text()
    assert text.count("stablehlo.convolution") == {1: 1, 3: 2, 16: 8, 17: 6, 40: 8}[batch]


def test_other_devices_take_the_weight_gradient_in_one():
    """Their libraries have a kernel for it."""
    x, kernel = jnp.ones((6, 9, 9, 3)), jnp.ones((3, 3, 3, 4))
    gradient = jax.jit(jax.grad(lambda k: jnp.sum(conv_valid(x, k) ** 2)))
    count = {
        platform: jax.export.export(gradient, platforms=[platform])(kernel)
        .mlir_module()
        .count("stablehlo.convolution")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert count == {"cpu": 1 + 3, "cuda": 1 + 1, "tpu": 1 + 1}


@pytest.mark.parametrize("stride", [1, 2])
def test_no_gradient_needs_a_dilated_or_padded_convolution_on_the_cpu(stride):
    """What XLA:CPU has no fast kernel for inside a loop."""
    x, kernel = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 4))

    def lines(conv):
        grad = jax.jit(jax.grad(loss(conv), (0, 1)))
        text = grad.lower(x, kernel).as_text()
        return [line for line in text.splitlines() if "stablehlo.convolution" in line]

    def is_plain(line):
        pad_free = "pad = [[0, 0], [0, 0]]" in line or "pad" not in line.split("window")[1]
        return pad_free and "lhs_dilate = [2" not in line and "rhs_dilate = [2" not in line

    assert not all(map(is_plain, lines(lambda x, k: reference_conv(x, k, stride, 1))))
    found = lines(lambda x, k: conv_valid(x, k, stride=stride))
    assert len(found) >= 3 and all(map(is_plain, found))


def test_paddings_are_those_of_the_papers():
    x = RNG.normal(size=(1, 9, 10, 2)).astype(np.float32)
    for padding, size in (("valid", (7, 8)), ("same", (9, 10)), ("full", (11, 12))):
        layer = Conv(2, 3, padding=padding)
        params = layer.init(jax.random.key(0), x)
        out = layer.apply(params, x)
        assert out.shape == (1, *size, 3)
        # One kernel, one place of the image: the paddings only differ in what they add around.
        inner = Conv(2, 3).apply(params, x)
        cut = (size[0] - 7) // 2
        np.testing.assert_allclose(out[:, cut : cut + 7, cut : cut + 8], inner, atol=1e-5)
    strided = Conv(2, 3, padding="same", stride=2)
    out = strided.apply(params, x)
    # Padding of one pixel on both sides, as torch has it: the first window is centred on (0, 0).
    full = Conv(2, 3, padding="same").apply(params, x)
    np.testing.assert_allclose(out, full[:, ::2, ::2], atol=1e-5)


@pytest.mark.parametrize("size", [(8, 10), (16, 20), (12, 5), (9, 11), (15, 7)])
def test_enlargement_is_bilinear_with_half_pixel_centres(size):
    x = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
    out = upsample_bilinear(x, *size)
    expected = x
    for axis, n in ((1, size[0]), (2, size[1])):
        m = expected.shape[axis]
        at = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        low = np.minimum(np.floor(at).astype(int), m - 1)
        high = np.minimum(low + 1, m - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        expected = expected.take(low, axis) * (1 - share) + expected.take(high, axis) * share
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_max_pool_leaves_an_odd_border_out():
    x = RNG.normal(size=(1, 5, 6, 2)).astype(np.float32)
    expected = np.stack([[x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1)) for j in range(3)]
                         for i in range(2)])[None]  # fmt: skip
    np.testing.assert_array_equal(max_pool2(x), expected)


def test_instance_norm_is_per_image_and_channel_in_float32():
    x = (100 + RNG.normal(size=(2, 6, 7, 3))).astype(np.float32)
    y = np.asarray(instance_norm(x))
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(y.var((1, 2)), 1, rtol=1e-3)
    low = instance_norm(jnp.asarray(x, jnp.bfloat16))
    assert low.dtype == jnp.bfloat16


def test_prelu_has_one_slope_a_channel():
    x = RNG.normal(size=(1, 3, 3, 2)).astype(np.float32)
    assert PReLU(2).init(jax.random.key(0), x)["params"]["slope"].shape == (2,)
    y = PReLU(2).apply({"params": {"slope": jnp.array([0.1, 0.5])}}, x)
    np.testing.assert_allclose(y, np.where(x > 0, x, np.array([0.1, 0.5]) * x), rtol=1e-6)


def test_batch_statistics_are_shared_over_devices_where_an_axis_is_named():
    from jax.sharding import Mesh, PartitionSpec

    x = RNG.normal(size=(4, 5, 5, 3)).astype(np.float32)
    x[2:] += 3.0  # the two devices see different images
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    assert mesh.size == 2

    def run(axis_name):
        norm = batch_norm(0.9, 1e-5, axis_name, jnp.float32)
        variables = batch_norm(0.9, 1e-5, None, jnp.float32).init(
            jax.random.key(0), x, use_running_average=True
        )

        def each(x):
            out, new = norm.apply(variables, x, use_running_average=False, mutable="batch_stats")
            return out, jax.tree.map(lambda a: a[None], new["batch_stats"])

        if axis_name is None:
            return each(x)
        spec = PartitionSpec("data")
        return jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(x)

    whole, stats = run(None)
    shared, shared_stats = run("data")
    np.testing.assert_allclose(shared, whole, atol=1e-5)
    for name in ("mean", "var"):
        for device in range(2):
            np.testing.assert_allclose(shared_stats[name][device], stats[name][0], atol=1e-5)
    # The running variance is the biased one: 0.9 · 1 + 0.1 · var.
    expected = 0.9 + 0.1 * x.var((0, 1, 2))
    np.testing.assert_allclose(stats["var"][0], expected, rtol=1e-5)


def test_images_that_do_not_fit_are_refused_in_words():
    for shape, words in (
        ((8, 8, 1), "takes images"),
        ((1, 8, 8, 3), r"\(B, H, W, 1\)"),
        ((1, 4, 8, 1), "at least 5x5"),
        ((1, 9, 8, 1), "divide by 4"),
    ):
        with pytest.raises(UsageError, match=words):
            check_images(np.zeros(shape), "a network", least=5, multiple=4)
