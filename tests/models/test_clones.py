"""Clone networks: counts, and that all forms of one network are the same function."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.errors import UsageError
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.cpce import MAPNN
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.models.image_clones import ImageClones

IMAGE = jax.random.uniform(jax.random.key(1), (2, 20, 22, 1))
# Every legal combination of the flags that change the wiring.
WIRINGS = [
    dict(transfer=t, coupled=c, residual=r, first_transfer=f)
    for t, c, r, f in itertools.product(
        ("image", "feature"), (False, True), ("incremental", "brute_force"), ("f0", "zeros")
    )
    if c or f == "f0"
]


def small(**flags):
    return ClonesNet(**{"n_filters": 3, "n_clones": 3, "n_layers": 6, **flags})


def loops(model) -> int:
    """While loops of the compiled network."""
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    return jax.jit(model.apply).lower(variables, IMAGE).as_text().count("stablehlo.while")


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 55, 55, 1)))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.core
def test_ablation_rows_count_as_the_paper_says():
    image = dict(transfer="image", residual="incremental", coupled=False)
    assert count(ClonesNet()) == 187_921
    assert count(ClonesNet(**image)) == 167_185
    assert count(ClonesNet(transfer="image")) == 167_617
    assert count(ClonesNet(transfer="feature", coupled=False)) == 167_185
    assert count(ClonesNet(backbone="cpce")) == 206_545
    for layers in range(4, 18, 2):
        n, expected = 48, 9 * (layers - 1) * 48**2 + (layers + 17) * 48 + 1
        assert count(ClonesNet(n_filters=n, n_layers=layers)) == expected


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), IMAGE)


@functools.cache
def outputs_and_gradients(model):
    """(all clones, the last by ``denoise``, gradients of a sum of squares), at full precision, with
    random parameters: biases too, or a forgotten one would not show."""
    rng = np.random.default_rng(0)

    def value(p):
        scale = 0.05 if len(p.shape) == 1 else np.prod(p.shape[:-1]) ** -0.5
        return rng.normal(0, scale, p.shape).astype(np.float32)

    def loss(params):
        out = model.apply(params, IMAGE)
        return jnp.sum(out**2), (out, model.apply(params, IMAGE, method="denoise"))

    with jax.default_matmul_precision("highest"):
        params = jax.tree.map(value, shapes_of(model))
        grads, (out, last) = jax.jit(jax.grad(loss, has_aux=True))(params)
    return out, last, grads


def assert_same_function(model, other):
    assert model != other
    assert shapes_of(model) == shapes_of(other)
    out, last, grads = outputs_and_gradients(model)
    expected, _, expected_grads = outputs_and_gradients(other)
    assert out.shape == (3, *IMAGE.shape)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(last, expected[-1], atol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected_grads))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * scale)


# In these every two values of two flags meet; the others are long.
QUICK = [WIRINGS[i] for i in (0, 3, 4, 6, 7, 11)]


@pytest.mark.core
@pytest.mark.parametrize(
    "wiring",
    [w if w in QUICK else pytest.param(w, marks=pytest.mark.long) for w in WIRINGS],
    ids=lambda w: "-".join(map(str, w.values())),
)
def test_the_scan_with_shortcuts_is_the_plain_python_loop(wiring):
    assert_same_function(small(**wiring), small(**wiring, loop="python", shortcuts=False))


@pytest.mark.core
@pytest.mark.parametrize("loop", ["scan", "unrolled", "python"])
def test_unrolled_scan_and_python_loop_with_shortcuts_are_the_same(loop):
    assert_same_function(small(loop=loop), small(loop="python", shortcuts=False))


@pytest.mark.parametrize("transfer", ["image", "feature"])
def test_the_cpce_backbone_is_the_same_in_all_forms(transfer):
    flags = dict(transfer=transfer, backbone="cpce")
    assert_same_function(small(**flags), small(**flags, loop="python", shortcuts=False))


def test_every_flag_changes_the_function():
    """Some rows share a parameter count, so only their outputs can tell them apart."""
    outputs = {}
    for wiring in WIRINGS:
        # Layer by layer: all of them share the few operations that have to be compiled.
        model = small(**wiring, n_layers=4, loop="python", shortcuts=False)
        params = model.init(jax.random.key(0), IMAGE)
        outputs[tuple(wiring.values())] = np.asarray(model.apply(params, IMAGE)[-1])
    for (a, x), (b, y) in itertools.combinations(outputs.items(), 2):
        assert not np.allclose(x, y, atol=1e-6), (a, b)


@pytest.mark.core
def test_one_clone_with_feature_transfer_is_one_clone_without():
    flags = dict(n_clones=1, coupled=False, residual="incremental")
    image, feature = small(transfer="image", **flags), small(transfer="feature", **flags)
    assert image != feature
    params = image.init(jax.random.key(0), IMAGE)
    np.testing.assert_allclose(image.apply(params, IMAGE), feature.apply(params, IMAGE), atol=1e-6)


@pytest.mark.core
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_where_it_must():
    model = small(dtype=jnp.bfloat16)
    params = model.init(jax.random.key(0), IMAGE)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out = model.apply(params, IMAGE)
    assert out.dtype == jnp.float32
    text = jax.jit(model.apply).lower(params, IMAGE).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all("bf16" in line for line in convolutions)
    exact = small().apply(params, IMAGE)
    assert 0 < float(jnp.abs(out - exact).max()) < 0.05


@pytest.mark.core
def test_the_rolled_scan_is_one_while_loop_and_the_unrolled_none():
    assert [loops(small(loop=loop)) for loop in ("scan", "unrolled", "python")] == [1, 0, 0]


@pytest.mark.core
@pytest.mark.parametrize(
    ("model", "rolled"),
    [
        (small(), dict(loop="scan")),
        (MAPNN(n_filters=2), dict(unroll=1)),
        (ImageClones(DnCNN(3, n_filters=2), n_clones=3), dict(unroll=1)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_accelerators_run_clones_unrolled_unless_told_otherwise(monkeypatch, model, rolled):
    assert loops(model) == loops(model.clone(**rolled)) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loops(model) == 0
    assert loops(model.clone(**rolled)) == 1


@pytest.mark.core
def test_zero_last_starts_as_the_identity():
    model = small(initialization="zero_last")
    out = model.apply(model.init(jax.random.key(0), IMAGE), IMAGE)
    assert all(np.array_equal(clone, IMAGE) for clone in out)


@pytest.mark.core
def test_final_relu_can_be_left_off():
    dark = -jnp.ones((1, 20, 20, 1))
    on, off = (small(initialization="zero_last", final_relu=f) for f in (True, False))
    params = on.init(jax.random.key(0), dark)
    assert float(on.apply(params, dark).min()) == 0.0
    assert float(off.apply(params, dark).max()) == -1.0


@pytest.mark.core
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (dict(n_layers=5), "even"),
        (dict(n_layers=2), "even"),
        (dict(first_transfer="zeros", coupled=False), "never sees|ever sees"),
        (dict(transfer="features"), "image, feature"),
        (dict(initialization="he"), "lecun"),
    ],
)
def test_senseless_flags_are_refused(flags, words):
    with pytest.raises(UsageError, match=words):
        small(**flags).init(jax.random.key(0), IMAGE)


@pytest.mark.core
@pytest.mark.parametrize("shape", [(1, 6, 40, 1), (1, 40, 40), (1, 40, 40, 3)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(UsageError):
        small().init(jax.random.key(0), jnp.zeros(shape))
