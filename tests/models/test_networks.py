"""What all networks have in common: sizes, types, whole slices, and their own options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.errors import UsageError
from ldct_jax.models.cascade import Cascade, join, split, stage_inputs
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.cpce import CPCE, MAPNN
from ldct_jax.models.critic import Critic
from ldct_jax.models.dcscn import DCSCN
from ldct_jax.models.dncnn import CNN10, DnCNN
from ldct_jax.models.drl import DRL
from ldct_jax.models.hrnet import HRNet
from ldct_jax.models.image_clones import ImageClones
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.models.unet import UNet
from ldct_jax.models.wgan_vgg import CNNL1, WGANVGG
from ldct_jax.models.whole_slices import denoise

SMALL = {
    "redcnn": REDCNN(n_filters=4),
    "cpce": CPCE(n_filters=4),
    "mapnn": MAPNN(n_filters=4, n_modules=2),
    "dncnn": DnCNN(depth=4, n_filters=4),
    "cnn10": CNN10(depth=4, n_filters=4),
    "drl": DRL(n_filters=4),
    "wgan_vgg": WGANVGG(n_filters=4),
    "cnn_l1": CNNL1(n_filters=4),
    "dcscn": DCSCN(widths=(4, 3), a1=3, b1=2),
    "hrnet": HRNet(widths=(3, 4, 5)),
    "unet": UNet(widths=(3, 4, 5)),
    "pcn": ClonesNet(n_filters=3, n_clones=2, n_layers=4),
    "cascade": Cascade((DRL(n_filters=3), DRL(n_filters=3, input_residual=False)), blend=0.7),
    "clones_of_dncnn": ImageClones(DnCNN(depth=3, n_filters=3, in_channels=2), 2, coupled=True),
}


# Compiling is most of the work here, and running it none.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def init(model, seed, x):
    """Variables drawn with numpy: nothing to compile."""
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        scale = max(np.prod(leaf.shape[:-1]), 1) ** -0.5
        limits = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "bias": (0.0, 0.2)}
        low, high = limits.get(path[-1].key, (-scale, scale))
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(value, shapes)


def apply(model, variables, x, **kwargs):
    return jit(functools.partial(model.apply, **kwargs))(variables, x)


def whole(model, variables, x):
    return jit(functools.partial(denoise, model))(variables, x)


def images(h, w, batch=2):
    return jax.random.uniform(jax.random.key(h * w), (batch, h, w, 1), minval=0.1)


@pytest.mark.parametrize("name", SMALL)
def test_whole_slices_of_any_size_keep_their_size_in_float32_and_bfloat16(name):
    model = SMALL[name]
    x = images(27, 31)  # odd sides that no power of two divides
    variables = init(model, 0, images(32, 32))
    exact = whole(model, variables, x)
    assert exact.shape == x.shape and exact.dtype == jnp.float32
    assert bool(jnp.isfinite(exact).all())

    low = {"dtype": jnp.bfloat16}
    if name == "cascade":
        half = model.clone(stages=tuple(s.clone(**low) for s in model.stages))
    elif name == "clones_of_dncnn":
        half = model.clone(base=model.base.clone(**low))
    else:
        half = model.clone(**low)
    shapes = jax.eval_shape(half.init, jax.random.key(0), images(32, 32))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    lowered = jit(functools.partial(denoise, half)).lower(variables, x)
    convolutions = [s for s in lowered.as_text().splitlines() if "stablehlo.convolution" in s]
    assert convolutions and all("bf16" in s for s in convolutions)
    if name not in ("pcn", "drl", "dcscn"):
        return  # compiling is most of the work, and the program is what was looked at
    out = lowered.compile()(variables, x)
    assert out.dtype == jnp.float32
    scale = float(jnp.abs(exact).max())
    assert 0 < float(jnp.abs(out - exact).max()) < 0.1 * max(scale, 1.0)


@pytest.mark.core
@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (REDCNN(n_filters=2), (1, 20, 40, 1), "at least 21x21"),
        (CPCE(n_filters=2), (1, 8, 40, 1), "at least 9x9"),
        (MAPNN(n_filters=2), (1, 8, 40, 1), "at least 9x9"),
        (WGANVGG(n_filters=2), (1, 16, 40, 1), "at least 17x17"),
        (WGANVGG(padding="reflect"), (1, 40, 40, 1), "valid or same"),
        (UNet(widths=(2, 3, 4)), (1, 20, 16, 1), "divide by 8"),
        (HRNet(widths=(2, 3, 4)), (1, 7, 16, 1), "at least 8x8"),
        (HRNet(new_scale="none"), (1, 16, 16, 1), "previous or all"),
        (DnCNN(in_channels=2), (1, 16, 16, 1), r"\(B, H, W, 2\)"),
        (DnCNN(depth=1), (1, 16, 16, 1), "two convolutions"),
        (DRL(), (16, 16, 1), "DRL takes images"),
        (DCSCN(activation="gelu"), (1, 16, 16, 1), "relu or prelu"),
        (Critic(), (1, 80, 80, 1), "built for 64x64"),
        (Critic(), (1, 64, 64, 3), "takes images"),
        (MAPNN(n_modules=0), (1, 16, 16, 1), "at least one"),
        (Cascade(()), (1, 16, 16, 1), "at least one stage"),
        (Cascade((DRL(),), blend=1.5), (1, 16, 16, 1), "between 0 and 1"),
        (ImageClones(DRL(), 0), (1, 16, 16, 1), "one clone"),
        (ImageClones(WGANVGG(n_filters=2), 2), (1, 40, 40, 1), "keeps the image's size"),
    ],
)
def test_what_a_network_cannot_take_is_refused_in_words(model, shape, words):
    with pytest.raises(UsageError, match=words):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.core
def test_redcnn_is_the_clone_network_with_one_clone():
    x = images(21, 23)
    flags = {"transfer": "image", "coupled": False, "residual": "incremental"}
    scn, red = ClonesNet(5, 1, **flags), REDCNN(n_filters=5, kernel_size=3)
    variables = init(scn, 0, x)
    out = apply(red, {"params": variables["params"]["clone"]}, x)
    np.testing.assert_allclose(out, apply(scn, variables, x)[0], atol=1e-6)
    # And any denoiser in series is SCN with that denoiser as clone.
    three, series = ClonesNet(5, 3, **flags), ImageClones(red, 3)
    out = apply(series, {"params": {"base": variables["params"]["clone"]}}, x)
    np.testing.assert_allclose(out, apply(three, variables, x), atol=1e-6)


@pytest.mark.core
def test_mapnn_repeats_cpce_with_a_residual_and_clips():
    x = images(12, 13)
    model = MAPNN(n_filters=4, n_modules=3)
    variables = init(model, 0, x)
    cpce = CPCE(n_filters=4)
    expected, images_ = x, []
    for _ in range(3):
        delta = apply(
            cpce, {"params": variables["params"]["module"]}, expected, method="last_layer"
        )
        expected = jnp.clip(nn_relu(expected + 4 * delta), 0, 1)
        images_.append(expected)
    # Four times the last layer, so that both ends of the clip are reached.
    kernel = variables["params"]["module"]["deconv8"]["kernel"] * 4
    louder = {
        "params": {"module": {**variables["params"]["module"], "deconv8": {"kernel": kernel}}}
    }
    out = apply(model, louder, x)
    np.testing.assert_allclose(out, jnp.stack(images_), atol=1e-5)
    free = apply(model.clone(clip=False), louder, x)
    assert float(out.max()) <= 1.0 and not np.allclose(out, free)


def nn_relu(x):
    return jnp.maximum(x, 0)


@pytest.mark.core
def test_the_difference_form_of_drl_is_the_other_sign_of_the_same_network():
    x = images(12, 13)
    adds, subtracts = DRL(n_filters=3), DRL(n_filters=3, input_residual=False)
    variables = init(adds, 0, x)
    a, s = apply(adds, variables, x), apply(subtracts, variables, x)
    np.testing.assert_allclose(a - x, x - s, atol=1e-6)
    assert float(jnp.abs(a - s).max()) > 1e-3


@pytest.mark.core
def test_zero_last_starts_residual_networks_as_the_identity():
    x = images(24, 24)
    for model in (
        REDCNN(n_filters=3, initialization="zero_last"),
        MAPNN(n_filters=3, initialization="zero_last"),
        DnCNN(depth=3, n_filters=3, initialization="zero_last"),
        DRL(n_filters=3, initialization="zero_last"),
        DCSCN(widths=(3,), a1=2, b1=2, initialization="zero_last"),
    ):
        variables = jit(model.init)(jax.random.key(0), x)
        np.testing.assert_array_equal(whole(model, variables, x), x)


@pytest.mark.core
def test_normalisations_have_the_constants_of_the_papers():
    assert (DnCNN().momentum, DnCNN().epsilon) == (CNN10().momentum, CNN10().epsilon) == (0.9, 1e-5)
    assert (DRL().momentum, DRL().epsilon) == (0.99, 1e-3)
    x = images(8, 8)
    out = apply(DnCNN(3, 2), init(DnCNN(3, 2), 0, x), x, train=True, mutable=["batch_stats"])[1]
    # A running mean moves by a tenth of the way.
    variables = init(DnCNN(3, 2), 0, x)
    again = {"params": variables["params"], "batch_stats": out["batch_stats"]}
    twice = apply(DnCNN(3, 2), again, x, train=True, mutable=["batch_stats"])[1]
    first, second, third = (v["batch_stats"]["bn2"]["mean"] for v in (variables, out, twice))
    np.testing.assert_allclose(third - second, 0.9 * (second - first), rtol=1e-4, atol=1e-6)


@pytest.mark.core
def test_whole_slices_are_padded_by_the_networks_own_rule():
    x = images(20, 24)
    wgan = WGANVGG(n_filters=3)
    variables = init(wgan, 0, x)
    padded = jnp.pad(x, ((0, 0), (8, 8), (8, 8), (0, 0)), mode="edge")
    expected = apply(wgan, variables, padded)
    np.testing.assert_allclose(whole(wgan, variables, x), expected, atol=1e-6)
    # Without padding the result belongs to the central pixels.
    np.testing.assert_allclose(
        whole(wgan, variables, x)[:, 8:-8, 8:-8], apply(wgan, variables, x), atol=1e-6
    )
    unet = UNet(widths=(2, 3, 4))
    variables = init(unet, 0, jnp.zeros((1, 16, 16, 1)))
    odd = images(13, 22)
    padded = jnp.pad(odd, ((0, 0), (1, 2), (1, 1), (0, 0)), mode="edge")
    expected = apply(unet, variables, padded)[:, 1:14, 1:23]
    np.testing.assert_allclose(whole(unet, variables, odd), expected, atol=1e-5)
    fitting = images(16, 24)
    expected = apply(unet, variables, fitting)
    np.testing.assert_allclose(whole(unet, variables, fitting), expected, atol=1e-5)


@pytest.mark.core
@pytest.mark.parametrize(
    ("side", "widths"),
    [(512, (8, 16, 32, *6 * (32,))), (96, (8, 16, 32, 32, 32)), (4, (8, 16)), (7, (8, 16))],
)
def test_a_unet_has_as_many_levels_as_halve_the_side(side, widths):
    assert UNet((8, 16, 32)).for_side(side).widths == widths
    assert UNet().for_side(512) == UNet()


@pytest.mark.core
def test_a_cascade_is_its_stages_one_after_the_other():
    x = images(12, 13)
    stages = (DRL(n_filters=3), CNN10(depth=3, n_filters=3, in_channels=2))
    parts = [init(stage, i, jnp.zeros((1, 12, 12, i + 1))) for i, stage in enumerate(stages)]
    cascade = Cascade(stages, concat=True)
    variables = join(parts)
    assert jax.tree.structure(variables) == jax.tree.structure(init(cascade, 0, x))
    for a, b in zip(jax.tree.leaves(split(variables)), jax.tree.leaves(parts), strict=True):
        assert np.array_equal(a, b)
    first = apply(stages[0], parts[0], x)
    second = apply(stages[1], parts[1], stage_inputs(first, x))
    np.testing.assert_allclose(apply(cascade, variables, x), second, atol=1e-6)
    head = cascade.head(1)
    np.testing.assert_allclose(apply(head, join(parts[:1]), x), first, atol=1e-6)
    blended = apply(cascade.clone(blend=0.7), variables, x)
    np.testing.assert_allclose(blended, 0.7 * second + 0.3 * x, atol=1e-6)
    # Training reaches the last stage alone.
    _, new = apply(cascade, variables, x, train=True, mutable=["batch_stats"])
    moved = [
        not all(
            np.array_equal(p, q)
            for p, q in zip(jax.tree.leaves(old), jax.tree.leaves(now), strict=True)
        )
        for old, now in zip(
            (p["batch_stats"] for p in parts),
            (p["batch_stats"] for p in split(new)),
            strict=True,
        )
    ]
    assert moved == [False, True]


@pytest.mark.core
def test_a_coupled_series_takes_its_residual_from_the_noisy_image():
    x = images(12, 13)
    model = ImageClones(DnCNN(3, 3, in_channels=2, initialization="zero_last"), 3, coupled=True)
    variables = jit(model.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(apply(model, variables, x), jnp.stack([x] * 3))
    trained = model.clone(base=DnCNN(3, 3, in_channels=2))
    variables = init(trained, 0, x)
    base = DnCNN(3, 3, in_channels=2)
    own = {k: v["base"] for k, v in variables.items()}
    expected = x
    for _ in range(3):
        expected = apply(base, own, jnp.concatenate([x, expected], -1))
    np.testing.assert_allclose(apply(trained, variables, x)[-1], expected, atol=1e-6)
    _, new = apply(trained, variables, x, train=True, mutable=["batch_stats"])
    assert jax.tree.structure(new["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.core
def test_the_patch_critic_takes_any_size_and_scores_each_image_alone():
    critic = Critic(flatten=False)
    x = images(16, 24)
    variables = init(critic, 0, x)
    scores = apply(critic, variables, x)
    assert scores.shape == (2,) and scores.dtype == jnp.float32
    np.testing.assert_allclose(apply(critic, variables, x[1:]), scores[1:], atol=1e-6)
