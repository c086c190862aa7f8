"""Layers: paddings, strides and their gradients, pooling, enlargement, normalisations."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ldct_jax.errors import UsageError
from ldct_jax.models import convolution, cpu_conv, layers, onednn
from ldct_jax.models.convolution import NHWC
from ldct_jax.models.layers import Conv, check_images, max_pool2, upsample_bilinear
from ldct_jax.models.norm import PReLU, batch_norm, instance_norm

pytestmark = pytest.mark.core
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _forms_of_xla():
    """Here XLA's own forms are tested; oneDNN's have their own file."""
    with onednn.disabled():
        yield


# (image, kernel, padding before and after, stride, dilation): every kind of layer of the networks
# (valid, same, full, a critic's, a dilated one), even kernels and odd borders.
KINDS = [
    ((9, 8), 3, (0, 0), 1, 1),
    ((9, 8), 3, (1, 1), 1, 1),
    ((7, 6), 3, (2, 2), 1, 1),
    ((6, 7), 5, (4, 4), 1, 1),
    ((6, 5), 1, (0, 0), 1, 1),
    ((7, 8), 4, (1, 2), 1, 1),
    ((10, 11), 3, (2, 2), 1, 2),
    ((12, 11), 3, (0, 0), 1, 3),
    ((10, 11), 3, (1, 1), 2, 1),
    ((9, 8), 3, (0, 0), 2, 1),
    ((4, 3), 3, (0, 0), 2, 1),
    ((10, 9), 4, (1, 2), 2, 1),
    ((11, 10), 3, (1, 1), 3, 1),
    ((11, 12), 3, (1, 1), 2, 2),
]


def reference(x, kernel, padding, stride, dilation):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=NHWC,
    )


def as_on(monkeypatch, platform: str) -> None:
    """Take the forms of one platform, whatever the tests run on."""

    def chosen(*args, default, **forms):
        return forms.get(platform, default)(*args)

    monkeypatch.setattr(lax, "platform_dependent", chosen)


@pytest.mark.parametrize(("size", "k", "padding", "stride", "dilation"), KINDS)
def test_values_and_gradients_to_third_order_are_those_of_autodiff(
    monkeypatch, size, k, padding, stride, dilation
):
    def ours(x, kernel):
        return convolution.conv(x, kernel, padding=padding, stride=stride, dilation=dilation)

    def theirs(x, kernel):
        return reference(x, kernel, padding, stride, dilation)

    def orders(convolve, x, kernel):
        def zeroth(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel)))

        def first(x, kernel):
            return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(zeroth, (0, 1))(x, kernel))

        def second(x, kernel):
            return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(first, (0, 1))(x, kernel))

        def everything(x, kernel):
            gradients = [jax.grad(f, (0, 1))(x, kernel) for f in (zeroth, first, second)]
            return [convolve(x, kernel), *jax.tree.leaves(gradients)]

        quick = {"xla_backend_optimization_level": 0}
        return jax.jit(everything, compiler_options=quick)(x, kernel)

    # Other accelerators than CUDA differ in dilated weight gradients alone.
    platforms = ("cpu", "cuda", "tpu") if dilation > 1 else ("cpu", "cuda")
    with jax.enable_x64(True):
        operands = RNG.normal(size=(3, *size, 2)), 0.3 * RNG.normal(size=(k, k, 2, 3))
        operands = [jnp.asarray(a, jnp.float64) for a in operands]
        expected = orders(theirs, *operands)
        for platform in platforms:
            as_on(monkeypatch, platform)
            for a, b in zip(orders(ours, *operands), expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("batch", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("fits", [False, True])
def test_the_weight_gradient_by_groups_of_images_is_that_of_all_at_once(
    monkeypatch, batch, dilation, fits
):
    """Whatever the batch divides into, and with few convolutions to compile."""
    if not fits:
        monkeypatch.setattr(cpu_conv, "CACHE_BYTES", 0)
    x = RNG.normal(size=(batch, 11, 9, 2)).astype(np.float32)
    g = RNG.normal(size=(batch, 11 - 2 * dilation, 9 - 2 * dilation, 3)).astype(np.float32)
    geometry = convolution.Geometry((11, 9), (3, 3), dilation=dilation)
    whole = convolution.strided_weight_gradient(x, g, geometry)
    # A function of its own: jit would take the program of the other limit.
    grouped = jax.jit(lambda x, g: cpu_conv.weight_gradient_in_groups(dilation, x, g))
    np.testing.assert_allclose(grouped(x, g), whole, rtol=1e-4, atol=1e-4)
    text = grouped.lower(x, g).as_text()
    assert text.count("stablehlo.convolution") == (
        1 if fits else {1: 1, 3: 2, 16: 8, 17: 6, 40: 8}[batch]
    )


def gradients(order: int, **kind):
    """A program with the gradients of that order of one layer with 4 channels."""
    layer = Conv(4, 4, use_bias=False, **kind)

    def first(x, kernel):
        y, back = jax.vjp(layer.convolve, x, kernel)
        return back(jnp.sin(y))

    def second(x, kernel):
        return jax.grad(lambda k: jnp.sum(first(x, k)[0] ** 2))(kernel)

    k = layer.kernel_size
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((6, 20, 20, 4), (k, k, 4, 4))]
    return jax.jit(first if order == 1 else second), shapes


def convolutions(order: int, platform: str, **kind) -> list[str]:
    program, shapes = gradients(order, **kind)
    text = jax.export.export(program, platforms=[platform])(*shapes).mlir_module()
    return [line for line in text.splitlines() if "stablehlo.convolution" in line]


LAYERS = {
    "valid": dict(padding="valid"),
    "same": dict(padding="same"),
    "full": dict(padding="full"),
    "5x5 full": dict(padding="full", kernel_size=5),
    "stride 2": dict(padding="same", stride=2),
    "dilation 2": dict(padding="same", dilation=2),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("order", [1, 2])
def test_on_accelerators_padding_is_built_in_and_no_image_slides_over_a_smaller_one(kind, order):
    """What XLA:GPU would make a window as large as the image of: see models/convolution.py.

    A weight gradient has the batch as its channels, here 6 or, by phases, 6·2·2: its window, the
    second operand, must not be larger than the padded image, and hardly any padding may be needed.
    """
    counts = {"cuda": set(), "tpu": set()}
    for platform, count in counts.items():
        lines = convolutions(order, platform, **LAYERS[kind])
        count.add(len(lines))
        assert not any("reverse = [true" in line for line in lines)
        for line in lines:
            operands = re.findall(r"tensor<(\d+)x(\d+)x(\d+)x(\d+)xf32>", line)
            is_weight_gradient = "[f, 0, 1, b]x[i, 0, 1, o]" in line
            if is_weight_gradient:
                (_, rows, _, _), (_, window, _, _) = (map(int, o) for o in operands[:2])
                assert window <= rows
    assert counts["cuda"] == counts["tpu"]
    program, shapes = gradients(order, **LAYERS[kind])
    for platform in counts:
        text = jax.export.export(program, platforms=[platform])(*shapes).mlir_module()
        by_phases = kind == "dilation 2" and platform == "cuda"
        assert ("stablehlo.pad" in text) == by_phases


def test_cudnn_gets_no_weight_gradient_with_gaps_between_its_taps():
    (line,) = (x for x in convolutions(1, "cuda", padding="same", dilation=2) if "[f, 0" in x)
    assert "stride = [2" not in line and "tensor<24x" in line  # 6 images of 2x2 phases
    (line,) = (x for x in convolutions(1, "tpu", padding="same", dilation=2) if "[f, 0" in x)
    assert "stride = [2" in line


def test_one_export_for_several_platforms_holds_the_form_of_each():
    program, shapes = gradients(1, padding="same")
    exported = jax.export.export(program, platforms=["cpu", "cuda", "tpu"])(*shapes)
    x, kernel = (RNG.normal(size=s.shape).astype(np.float32) for s in shapes)
    for a, b in zip(exported.call(x, kernel), program(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_no_gradient_on_the_cpu_has_gaps_or_a_padded_weight_gradient(stride, padding):
    """What XLA:CPU has no fast kernel for inside a loop."""

    def is_plain(line):
        gaps = "lhs_dilate = [2" in line or "rhs_dilate = [2" in line
        labels = line.split("dim_numbers = ")[1].split(",  window")[0].split(", window")[0]
        return not gaps and labels.startswith("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]")

    lines = convolutions(1, "cpu", padding=padding, stride=stride)
    assert len(lines) >= 3 and all(map(is_plain, lines))
    assert not all(map(is_plain, convolutions(1, "tpu", padding=padding, stride=stride)))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_images_enter_the_first_layer_at_full_precision(platform):
    """TPUs round float32 operands to bfloat16 where nothing else is said, GPUs to TF32."""

    def lines(channels, dtype):
        layer = Conv(channels, 8, padding="same", use_bias=False, dtype=dtype)
        x = jax.ShapeDtypeStruct((2, 9, 9, channels), jnp.float32)
        kernel = jax.ShapeDtypeStruct((3, 3, channels, 8), jnp.float32)

        def both(x, kernel):
            y, back = jax.vjp(layer.convolve, x, kernel)
            return back(jnp.sin(y))

        text = jax.export.export(jax.jit(both), platforms=[platform])(x, kernel).mlir_module()
        return [line for line in text.splitlines() if "stablehlo.convolution" in line]

    highest = "precision_config = [#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]"
    for channels in (1, 2, 3):
        assert len(lines(channels, jnp.float32)) == 3
        assert all(highest in line for line in lines(channels, jnp.float32))
    assert not any(highest in line for line in lines(8, jnp.float32))
    # In bfloat16 the image's high and low parts are three channels.
    assert all(f"x{3 * 2}x" in line for line in lines(2, jnp.bfloat16))


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_relu_and_its_gradient_are_jaxs_bit_for_bit(monkeypatch, platform):
    as_on(monkeypatch, platform)
    x = jnp.asarray([-np.inf, -1.0, -0.0, 0.0, 1e-40, 2.0, np.inf, np.nan], jnp.float32)

    def orders(relu):
        def once(x):
            return jnp.sum(jnp.sin(relu(x) ** 2))

        return [relu(x), jax.grad(once)(x), jax.grad(lambda x: jnp.sum(jax.grad(once)(x)))(x)]

    for a, b in zip(orders(layers.relu), orders(jax.nn.relu), strict=True):
        np.testing.assert_array_equal(a, b)


def test_relu_keeps_no_mask_of_the_convolutions_output_on_accelerators():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(layers.relu(jnp.cos(x))))))

    def text(platform):
        x = jax.ShapeDtypeStruct((8,), jnp.float32)
        return jax.export.export(gradient, platforms=[platform])(x).mlir_module()

    assert "optimization_barrier" in text("cuda") and "optimization_barrier" in text("tpu")
    assert "optimization_barrier" not in text("cpu")


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
            check_images(np.zeros(shape), "a network", min_side=5, multiple=4)
