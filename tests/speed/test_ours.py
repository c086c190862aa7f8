"""Our side of the benchmark: what it shares, refuses and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed import ours, pallas_chain, shared
from experiments.speed.device_time import convolutions
from experiments.speed.rows import MODELS
from ldct_jax.errors import UsageError
from ldct_jax.models import clones, layers, onednn
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.convolution import conv
from ldct_jax.models.flops import flops
from tests import tiny

KIND, FIELDS = MODELS["pcn_tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shared files of the tiny PCN on two random slices."""
    folder = tmp_path_factory.mktemp("shared")
    hu = np.random.default_rng(0).integers(-200, 200, (2, 2, 64, 64)).astype(np.int16)
    works = [("train", 4, 16), ("gradient", 2, 16), ("infer", 1, 64)]
    named = [("pcn_tiny", KIND, FIELDS, *work) for work in works]
    counts = shared.write(folder, *hu, named)
    assert counts.keys() == {"pcn_tiny train 16", "pcn_tiny infer 64"}
    return folder


def request(folder, task, batch=4, size=16, **how) -> dict:
    row = {"task": task, "model": "pcn_tiny", "kind": KIND, "fields": FIELDS, "batch": batch}
    settings = {"repeat_s": 0.01, "loss_steps": 3, "epoch_steps": 4, "dtype": "float32"}
    return {**row, **settings, "size": size, "how": how, "folder": str(folder)}


@pytest.mark.core
def test_nominal_work_is_that_of_the_paper():
    """The design counts 0.438 GMAC a clone forward: 10.5 GFLOP a training patch of the full PCN."""
    model = shared.build(*MODELS["pcn"])
    x = jax.ShapeDtypeStruct((1, 55, 55, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert shared.nominal_flops(model, variables, "train", 55) == pytest.approx(10.5e9, rel=0.01)


@pytest.mark.long
def test_training_rows_differ_in_their_work_and_not_in_their_loss(folder):
    facts, _, units, calls = ours.train(request(folder, "train", steps_per_call=2))
    assert (units, calls) == (4, 2) and facts["output_error"] <= 1e-5 and facts["compile_s"] > 0
    other, *_ = ours.train(request(folder, "train", remat=True, shortcuts=False))
    assert other["executed_flops"] > facts["executed_flops"]
    np.testing.assert_allclose(other["loss"], facts["loss"], rtol=1e-4)
    fixed, *_ = ours.train(request(folder, "train", one_batch=True))
    assert fixed["loss"] != facts["loss"]


@pytest.mark.long
def test_the_convolutions_alone_are_the_steps_work(folder):
    alone, run, *_ = ours.train(request(folder, "train", convolutions=True))
    run(1)
    batch = 4
    there = shared.Shared(request(folder, "train"))
    assert alone["executed_flops"] == flops(*there.gradient(batch), padding=True) // batch > 0


def test_weights_that_are_not_the_shared_ones_are_not_timed(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "model-pcn_tiny.npz"
    arrays = dict(np.load(path))
    arrays["params/clone/conv1/kernel"] = 1.01 * arrays["params/clone/conv1/kernel"]
    np.savez(path, **arrays)
    with pytest.raises(SystemExit, match=r"the output differs by .* not timed"):
        ours.infer(request(tmp_path, "infer", 1, 64))


@pytest.mark.long
def test_a_gradient_that_is_wrong_stops_its_row(folder, monkeypatch):
    facts, run, *_ = ours.gradient(request(folder, "gradient", 2))
    assert facts["gradient_error"] <= 1e-4 and run is None
    monkeypatch.setattr(ours, "flat_gradient", lambda *a: 1.001 * shared.flat_gradient(*a))
    with pytest.raises(SystemExit, match=r"the gradient differs by .* not timed"):
        ours.gradient(request(folder, "gradient", 2))


@pytest.mark.long
def test_levers_put_other_forms_in_place(folder, monkeypatch):
    """Autodiff's gradients and jax's ReLU are other programs with the same numbers."""
    for module, name in ((layers, "conv"), (layers, "relu"), (clones, "relu")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back in the end

    def program(**how):
        there = shared.Shared(request(folder, "train", **how))
        grad, *arguments = there.gradient(1)
        return str(jax.make_jaxpr(grad)(*arguments))

    plain = program()
    assert program(relu=False) != plain
    assert "custom_vjp" in plain and "custom_vjp" not in program(maps=False)
    facts, *_ = ours.gradient(request(folder, "gradient", 2, maps=False, relu=False))
    assert facts["gradient_error"] <= 1e-4


@pytest.mark.long
def test_a_chain_that_is_wrong_is_not_timed(monkeypatch):
    work = {"batch": 1, "size": 11, "dtype": "float32"}
    work["how"] = {"layers": 2, "pallas": True, "interpret": True}
    facts, run, units, _ = ours.chain(work)
    run(2)
    assert facts["output_error"] < 1e-5 and units == 1
    kernel = pallas_chain.pallas_chain
    monkeypatch.setattr(pallas_chain, "pallas_chain", lambda *a, **k: 1.02 * kernel(*a, **k))
    with pytest.raises(SystemExit, match=r"the output differs by 2\.0e-02"):
        ours.chain(work)


def test_what_takes_the_convolutions_is_recorded(monkeypatch):
    used = shared.about()["device"]["onednn"]
    assert (used == "not used") == (onednn.library() is None)
    monkeypatch.setattr(onednn, "library", lambda: None)
    assert shared.about()["device"]["onednn"] == "not used"


@pytest.mark.long
@pytest.mark.parametrize("part", ["calls", "loop", "everything"])
def test_whole_epochs_are_counted_and_the_loops_idle_time_with_them(part, folder):
    facts, once, _, step = ours.epoch(request(folder, "epoch", part=part))
    found = once()
    assert step == 0 and found["steps"] == 8 and found["units"] == 32 and found["seconds"] > 0
    assert facts["compile_s"] > 0
    assert ("idle_s" in found) == (part != "calls")
    assert 0 <= found.get("idle_s", 0) < found["seconds"]


def test_a_steps_convolutions_are_all_of_them():
    """Rolled and unrolled clones have the same ones, and their products are the step's."""
    x = jnp.zeros((2, 16, 16, 1))

    def gradient(loop):
        # With the shortcuts a rolled loop's outputs are one batch.
        net = ClonesNet(n_filters=4, n_clones=3, n_layers=4, loop=loop, shortcuts=False)
        variables = net.init(jax.random.key(0), x)
        return jax.grad(lambda v: jnp.mean(jnp.square(net.apply(v, x)))), variables

    rolled, unrolled = (convolutions(*gradient(loop)) for loop in ("scan", "unrolled"))
    assert rolled == unrolled and rolled.total() > len(rolled)
    products = 0
    for one, times in rolled.items():
        program, a, b = one.compiled()
        out = program(a, b)
        # Each output value is a sum over the kernel's window and input channels.
        products += times * out.size * b.size // out.shape[-1]
    assert 2 * products == flops(*gradient("scan"), padding=True)


@pytest.mark.core
def test_of_branches_for_platforms_the_one_of_this_device_counts():
    x = jnp.zeros((4, 16, 16, 1))
    kernel = jnp.zeros((3, 3, 1, 2))
    grad = jax.grad(lambda k: jnp.sum(conv(x, k) ** 2))
    text = jax.jit(grad).lower(kernel).as_text()
    assert convolutions(grad, kernel).total() == text.count("stablehlo.convolution")

    def either(k):
        return jax.lax.cond(k[0, 0, 0, 0] > 0, lambda: conv(x, k), lambda: x[:, 2:, 2:])

    with pytest.raises(UsageError, match="through a cond"):
        convolutions(lambda k: jnp.sum(either(k)), jnp.zeros((3, 3, 1, 1)))


def test_clones_computed_again_are_the_same_function():
    fields = dict(n_filters=4, n_clones=3, n_layers=4)
    plain, again = ClonesNet(**fields), shared.AgainClones(**fields)
    x = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    variables = plain.init(jax.random.key(0), x)

    def gradients(net):
        return jax.grad(lambda v: jnp.mean(jnp.square(net.apply(v, x))))

    assert "remat" in str(jax.make_jaxpr(gradients(again))(variables))
    assert "remat" not in str(jax.make_jaxpr(gradients(plain))(variables))
    a, b = (jax.jit(gradients(net))(variables) for net in (plain, again))
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-7), a, b)


@pytest.mark.core
def test_one_batch_is_the_first_one_for_every_step():
    feed = tiny.feeder()
    one = shared.OneBatch(feed)

    def place(array, split):
        return jax.device_put(array)

    inputs = one.inputs(0, 0, 1, place)
    first = feed.batch(feed.inputs(0, 0, 1), 0)
    for step in (0, 5):
        jax.tree.map(np.testing.assert_array_equal, tuple(one.batch(inputs, step)), tuple(first))
    assert one.inputs(1, 3, 2, place) is inputs
    later = feed.batch(feed.inputs(0, 0, 1), 5)
    assert not np.array_equal(later.low_hu, first.low_hu)
