"""Every network against its PyTorch twin: outputs, gradients, ten Adam steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldct_jax.losses import every_clone, mse
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.cpce import CPCE, MAPNN
from ldct_jax.models.dcscn import DCSCN
from ldct_jax.models.dncnn import CNN10, DnCNN
from ldct_jax.models.drl import DRL
from ldct_jax.models.hrnet import HRNet
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.models.unet import UNet
from ldct_jax.models.wgan_vgg import CNNL1, WGANVGG

RATE, STEPS = 1e-3, 10
# The last level of UNet on the image it is made for: one pixel, no normalisation.
BOTTLENECK = "down3"
clones = functools.partial(ClonesNet, n_filters=4, n_clones=3, n_layers=4)
scn = functools.partial(clones, transfer="image", coupled=False, residual="incremental")
SIZE = (2, 15, 17, 1)
NETWORKS = {
    # The eight rows of pcn's ablation differ in the loss too; here it is that over all clones.
    "pcn": (clones(n_layers=10), SIZE),
    "pcn_incremental": (clones(residual="incremental"), SIZE),
    "pcn_plain_zeros_5x5": (
        clones(shortcuts=False, first_transfer="zeros", kernel_size=5, n_clones=2),
        SIZE,
    ),
    "pcn_cpce": (clones(backbone="cpce", n_layers=6), SIZE),
    "pcn_image": (clones(transfer="image"), SIZE),
    "scn": (scn(), SIZE),
    "scn_coupled": (scn(coupled=True), SIZE),
    "scn_feature": (scn(transfer="feature"), SIZE),
    "redcnn": (REDCNN(n_filters=4), (2, 22, 25, 1)),
    "cpce": (CPCE(n_filters=6), SIZE),
    "mapnn": (MAPNN(n_filters=6, n_modules=2), SIZE),
    "dncnn": (DnCNN(depth=6, n_filters=6), (3, 15, 17, 1)),
    "cnn10_2ch": (CNN10(depth=5, n_filters=4, in_channels=2), (3, 15, 17, 2)),
    "drl": (DRL(n_filters=6), (3, 15, 17, 1)),
    "wgan_vgg": (WGANVGG(n_filters=6), (2, 21, 25, 1)),
    "cnn_l1": (CNNL1(n_filters=6), SIZE),
    "dcscn_prelu": (DCSCN(widths=(6, 5, 4), a1=4, b1=3, activation="prelu"), SIZE),
    "hrnet": (HRNet(widths=(4, 5, 6)), (2, 21, 19, 1)),
    "unet": (UNet(widths=(4, 6)), (2, 16, 32, 1)),
    "unet_1x1": (UNet(widths=(4, 5, 6)), (2, 8, 8, 1)),
    "cascade": (
        Cascade((DRL(n_filters=4), CNN10(n_filters=4, depth=4, in_channels=2)), True, 0.7),
        (3, 15, 17, 1),
    ),
}
# The full depths and the remaining options.
LONG = {
    "pcn_t4_n8": (ClonesNet(n_filters=8), SIZE),
    "cpce_bias": (CPCE(n_filters=6, use_bias=True), SIZE),
    "mapnn_5": (MAPNN(n_filters=6), SIZE),
    "cnn10": (CNN10(n_filters=4), (3, 15, 17, 1)),
    "drl_difference": (DRL(n_filters=6, input_residual=False, in_channels=2), (3, 15, 17, 2)),
    "dcscn_full": (DCSCN(), SIZE),
    "hrnet_all": (HRNet(widths=(4, 5, 6, 7), new_scale="all"), (2, 24, 32, 1)),
}
NETWORKS_AND_LONG = [*NETWORKS, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)]


def twin_of(twins, model):
    fields = {
        f.name: getattr(model, f.name)
        for f in dataclasses.fields(model)
        if f.name not in ("parent", "name")
    }
    if "stages" in fields:
        fields["stages"] = [twin_of(twins, stage) for stage in fields["stages"]]
    return twins.twin(type(model).__name__, **fields)


def shapes_of(model, variables, x):
    """The shape of the target that fits the network's output."""
    return jax.eval_shape(model.apply, variables, x).shape[-4:]


def some_variables(model, x):
    """Variables in which nothing is zero or one, so that every convention shows."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            bound = np.prod(leaf.shape[:-1]) ** -0.5
            return rng.uniform(-1.6 * bound, 1.6 * bound, leaf.shape).astype(np.float32)
        if name in ("scale", "var"):
            return rng.uniform(0.6, 1.4, leaf.shape).astype(np.float32)
        return rng.uniform(-0.2, 0.2, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(value, shapes)


def assert_close(ours, theirs, relative, what, scale=None):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    scale = float(np.abs(theirs).max()) if scale is None else scale
    error = float(np.abs(ours - theirs).max())
    assert error <= relative * scale, f"{what}: off by {error:.3g} of {scale:.3g}"


def dead_parameters(model, params):
    """Paths of the parameters that a normalisation takes out again; their gradients are rounding.

    Adam makes full steps of rounding, so these are held fixed in both arms.
    """
    dead = set()
    if isinstance(model, HRNet):
        dead = set(params) - {"predictor"}
    elif isinstance(model, UNet):
        dead = set(params) - {"up1", BOTTLENECK}
    elif isinstance(model, Cascade):
        # Its earlier stages run on constant statistics.
        last = f"stages_{len(model.stages) - 1}"
        return {(last, *path) for path in dead_parameters(model.stages[-1], params[last])}
    else:
        dead = {name for name in params if name.replace("conv", "bn") in set(params) - {name}}
    dead = {(name, "bias") for name in dead}
    if isinstance(model, UNet) and BOTTLENECK in params:
        # Of a constant image a kernel's centre is one more bias.
        dead.add((BOTTLENECK.replace("down", "up"), "kernel"))
    return dead


def flat(tree):
    return {tuple(p.key for p in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.promise("twins")
@pytest.mark.parametrize("name", NETWORKS_AND_LONG)
def test_outputs_gradients_and_ten_adam_steps_are_those_of_torch(name, twins):
    import torch

    model, shape = (NETWORKS | LONG)[name]
    rng = np.random.default_rng(1)
    x = rng.uniform(0.2, 0.9, shape).astype(np.float32)
    variables = some_variables(model, x)
    other = twins.load_flax(twin_of(twins, model), variables)
    has_stats = "batch_stats" in variables
    if has_stats:
        with torch.no_grad():
            theirs = twins.images_back(other.eval()(twins.images(x)))
        assert_close(jax.jit(model.apply)(variables, x), theirs, 1e-5, "evaluation output")
        other.train()

    dead = dead_parameters(model, variables["params"])
    optimizer = optax.adam(RATE)
    loss = every_clone(mse)

    def masked(grads):
        return jax.tree_util.tree_map_with_path(
            lambda path, g: jnp.zeros_like(g) if tuple(p.key for p in path) in dead else g, grads
        )

    # Half the time of this test is the compiler's; its speed is not what is tested.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(variables, opt_state, target):
        def objective(params):
            out, new = model.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(loss(out, target)), (out, new)

        grads, (out, new) = jax.grad(objective, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(masked(grads), opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params} | new, opt_state, grads, out

    tensors = {(*layer.split("."), ours): t for layer, _, ours, t, _ in twins._leaves(other)}
    target = rng.uniform(0.2, 0.9, shapes_of(model, variables, x)).astype(np.float32)
    adam = torch.optim.Adam(other.parameters(), RATE)
    opt_state = optimizer.init(variables["params"])
    for i in range(STEPS):
        adam.zero_grad()
        theirs = other(twins.images(x))
        torch.mean((theirs - twins.images(target)) ** 2).backward()
        variables, opt_state, grads, out = step(variables, opt_state, target)
        if i == 0:
            assert_close(out, twins.images_back(theirs), 1e-5, "output")
            stats = flat(twins.to_flax(other).get("batch_stats", {}))
            for key, value in stats.items():
                assert_close(flat(variables["batch_stats"])[key], value, 1e-5, key)
            reference = flat(twins.to_flax(other, gradients=True)["params"])
            largest = max(float(np.abs(g).max()) for g in reference.values())
            for key, grad in flat(grads).items():
                own = largest if key in dead else float(np.abs(reference[key]).max())
                assert_close(grad, reference[key], 1e-4, key, max(own, 1e-2 * largest))
        for key in dead:
            tensors[key].grad.zero_()
        adam.step()

    assert_close(out, twins.images_back(theirs), 1e-3, "output after ten steps")
    after = twins.to_flax(other)
    for group, tree in after.items():
        for key, value in flat(tree).items():
            # Adam makes a full step of a weight whose gradient is all rounding: single weights may
            # differ, a tensor as a whole may not.
            error = np.sqrt(np.mean(np.square(flat(variables[group])[key] - value)))
            assert error <= 1e-3 * np.abs(value).max(), f"{key} after ten steps: off by {error:.3g}"


def test_the_twins_share_no_shortcut_with_what_they_test(twins):
    """The plain and the shortened twin of a clone network are one function too."""
    import torch

    model, shape = NETWORKS["pcn"]
    x = np.random.default_rng(1).uniform(0.2, 0.9, shape).astype(np.float32)
    variables = some_variables(model, x)
    plain = twins.load_flax(twin_of(twins, model.clone(shortcuts=False)), variables)
    short = twins.load_flax(twin_of(twins, model), variables)
    assert plain.shortcuts is False and short.shortcuts is True
    with torch.no_grad():
        a, b, c = (
            twins.images_back(m)
            for m in (
                plain(twins.images(x)),
                short(twins.images(x)),
                short.denoise(twins.images(x)),
            )
        )
    assert_close(a, b, 1e-5, "plain against short")
    assert_close(c, a[-1], 1e-5, "the last clone alone")


def test_a_twin_with_other_tensors_is_refused(twins):
    variables = some_variables(CPCE(n_filters=4, use_bias=True), np.zeros((1, 12, 12, 1)))
    with pytest.raises(ValueError, match="tensors"):
        twins.load_flax(twins.twin("CPCE", n_filters=4), variables)
