"""Facts of the compiled training step that its speed rests on, instead of timed tests.

(That a bfloat16 step convolves in bfloat16 only, and that no host is asked, is also tested in
``test_parallel.py`` on the lowered program.)
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.hu import FULL
from ldct_jax.losses import every_clone, mse
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.flops import flops
from ldct_jax.optim import Adam, Constant
from ldct_jax.train import state as train_state
from ldct_jax.train import steps
from ldct_jax.train.mesh import DataParallel
from tests import tiny

CLONES = 3


def model(**fields) -> ClonesNet:
    return ClonesNet(**{"n_filters": 4, "n_clones": CLONES, "n_layers": 4} | fields)


def program(model, n_devices: int = 1):
    """(lowered program, arguments' feeder) of the training with ``model``."""
    feeder, optimizer = tiny.feeder(), Adam(Constant(1e-3)).build(10, 8)
    parallel = DataParallel(jax.devices()[:n_devices])
    step = steps.supervised(model, every_clone(mse), optimizer)
    run = parallel.compile_steps(step, feeder, FULL, "none", 8)
    state = parallel.replicate(train_state.create(model, optimizer, 16, 0))
    inputs = feeder.inputs(0, 0, 1, parallel.place)
    return run.lower(state, inputs, np.int32(0), np.int32(0), np.int32(1))


def count(text: str, operation: str) -> int:
    return len(re.findall(rf"stablehlo\.{operation}\b", text))


@pytest.mark.core
def test_the_rolled_clones_are_one_loop_forward_and_one_back_within_that_of_the_steps():
    # Below six clones the weight gradient of the common output layer, 4 images a clone, has fewer
    # groups of them.
    texts = {
        (loop, clones): program(model(loop=loop, n_clones=clones)).as_text()
        for loop in ("scan", "unrolled")
        for clones in (6, 8)
    }
    assert count(texts["unrolled", 6], "while") == 1
    assert count(texts["scan", 6], "while") == 1 + 2
    # And the rolled graph doesn't grow with the number of clones.
    lines = {which: len(text.splitlines()) for which, text in texts.items()}
    assert lines["scan", 6] == lines["scan", 8]
    assert lines["unrolled", 6] < lines["unrolled", 8]


@pytest.mark.core
@pytest.mark.parametrize("loop", ["scan", "unrolled"])
def test_a_bfloat16_step_has_no_float32_convolution_and_asks_no_host(loop):
    text = program(model(loop=loop, dtype=jnp.bfloat16)).as_text()
    convolutions = [x for x in text.splitlines() if "stablehlo.convolution" in x]
    assert convolutions and not [x for x in convolutions if "f32>" in x.replace("bf16>", "")]
    for word in ("infeed", "outfeed", "callback", "stablehlo.send", "stablehlo.recv"):
        assert word not in text


@pytest.mark.core
def test_the_compiled_step_has_one_all_reduce():
    text = program(model(), n_devices=2).compile().as_text()
    assert len(re.findall(r"= \S+ all-reduce(?:-start)?\(", text)) == 1
    assert not re.findall(r"= \S+ (?:all-gather|all-to-all|reduce-scatter)\(", text)


@pytest.mark.core
def test_nothing_is_compiled_after_the_first_epoch(tmp_path):
    """XLA's own count of compilations: epochs two and three add none, whatever a call's length."""
    seen, at_epoch = [], []

    def listen(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        tiny.train(
            tiny.experiment(epochs=3),
            tiny.feeder(),
            tmp_path,
            monitor=lambda variables: at_epoch.append(len(seen)) or dict,
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(at_epoch) == 3 and at_epoch[0] > 0
    assert at_epoch[2] == at_epoch[0]


def gradients(net):
    """(function of (params, x) → gradients, its arguments' shapes)."""
    x = jax.ShapeDtypeStruct((2, 24, 24, 1), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)

    def loss(variables, x):
        return jnp.mean(jnp.square(net.apply(variables, x)))

    return jax.grad(loss), (variables, x)


def test_analytic_flops_are_those_of_the_unrolled_program():
    """XLA counts a loop's body once, so the unrolled program is the witness."""
    rolled, arguments = gradients(model(loop="scan"))
    unrolled, _ = gradients(model(loop="unrolled"))
    counted = flops(rolled, *arguments)
    # Rolled clones' output gradients are one group of images, with rows of zeros between them.
    assert counted == pytest.approx(flops(unrolled, *arguments), rel=2e-3)
    found = jax.jit(unrolled).lower(*arguments).cost_analysis()["flops"]
    # XLA adds biases, ReLUs and the loss, a few operations a pixel.
    assert counted < found < 1.1 * counted
    assert jax.jit(rolled).lower(*arguments).cost_analysis()["flops"] < counted
