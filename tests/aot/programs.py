"""The project's programs at the size of the papers, lowered for devices that are not here."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh, Mesh, NamedSharding, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from experiments.speed.pallas_chain import pallas_chain, xla_chain
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.projector import forward_project
from ldct_jax.data.feed.resident import Resident
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.export import stablehlo
from ldct_jax.hu import FULL
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.study.scripts import load_study
from ldct_jax.train import state as train_state
from ldct_jax.train import steps
from ldct_jax.train.gan import adversarial
from ldct_jax.train.mesh import AXIS, DataParallel, synchronised

SLICES, SIDE = 90, 512
# (script, variant) of each network's training.
TRAININGS = {
    "PCN": ("pcn_ablation", "full PCN"),
    "RED-CNN": ("pcn_comparison", "RED-CNN"),
    "MAP-NN": ("pcn_comparison", "MAP-NN"),
    "DnCNN": ("pcn_comparison", "DnCNN"),
    "DCSWGAN": ("dcswgan", "DCSWGAN"),
    "DRL": ("cascade", "DRL, MSE (A)"),
    "HRNet": ("hrnet", "HRNet"),
    "UNet": ("hrnet", "UNet"),
}


def experiment(name: str):
    """The paper's training of a network of :data:`TRAININGS`, loops as accelerators run them."""
    script, variant = TRAININGS[name]
    found = load_study(script).variants("paper")[variant]
    return found.but(model=unrolled(found.model))


def unrolled(model: nn.Module) -> nn.Module:
    """``model`` as it is traced where jax's default backend is an accelerator."""
    if hasattr(model, "loop") and model.loop == "auto":
        return model.clone(loop="unrolled")
    if hasattr(model, "unroll") and model.unroll is None:
        return model.clone(unroll=model.n_modules)
    return model


def training(experiment, devices, *, batch: int | None = None):
    """The compiled steps of ``experiment``, lowered; ``batch`` is that of each device."""
    parallel = DataParallel(devices)
    place = _placing(parallel.mesh)
    gan = experiment.gan
    batch = (batch or experiment.patches.batch) * parallel.n * (gan.n_critic if gan else 1)
    size = experiment.patches.size or SIDE  # None: whole slices
    patches = dataclasses.replace(experiment.patches, size=size, batch=batch)
    feed = Resident(_no_slices(), patches, 0)
    optimizer = experiment.optimizer.build(1000, 100)
    critic = (gan.critic, gan.optimizer.build(4000, 400)) if gan else None
    shapes = jax.eval_shape(
        lambda: train_state.create(experiment.model, optimizer, patches.size, 0, critic=critic)
    )
    model = synchronised(experiment.model)
    if gan is None:
        step = steps.supervised(model, experiment.loss, optimizer)
    else:
        step = adversarial(model, experiment.loss, optimizer, gan, critic[1])
    program = parallel.compile_steps(step, feed, experiment.window, patches.augment, 256)
    state = jax.tree.map(lambda leaf: place(leaf, False), shapes)
    number = place(np.int32(0), False)
    return program.lower(state, feed.inputs(0, 0, 1, place), number, number, number)


def whole_slices(model, device, *, batch: int = 8):
    """A network's inference on whole slices, lowered."""
    place = _placing(Mesh([device], (AXIS,)))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))
    variables = jax.tree.map(lambda leaf: place(leaf, False), variables)
    images = place(jax.ShapeDtypeStruct((batch, SIDE, SIDE), jnp.float32), False)
    return WholeSlices(model, FULL, batch=batch)._result.lower(variables, images)


def projector(device):
    """Line integrals of one slice in the geometry of a clinical scanner, lowered."""
    place = _placing(Mesh([device], (AXIS,)))
    image = place(jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32), False)
    return jax.jit(lambda mu: forward_project(mu, FanBeam(), 0.7)).lower(image)


def artefact(model, device):
    """The exported StableHLO file of a network, called on eight slices, lowered."""
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    slices = WholeSlices(model, FULL)
    data, _ = stablehlo.serialized(jax.jit(lambda hu: slices._run(variables, hu)), None)
    place = _placing(Mesh([device], (AXIS,)))
    images = place(jax.ShapeDtypeStruct((8, SIDE, SIDE), jnp.float32), False)
    return jax.jit(stablehlo.deserialized(data, "the artefact").call).lower(images)


def chain(layers: int, device, *, pallas: bool):
    """``layers`` bfloat16 3x3 layers of 48 channels on 128 patches of the PCN's size, lowered.

    Of convolutions, or as the one kernel of experiments/speed/pallas_chain.py.
    """
    place = _placing(Mesh([device], (AXIS,)))

    def shape(*sides):
        return place(jax.ShapeDtypeStruct(sides, jnp.bfloat16), False)

    x, kernels = shape(128, 55, 55, 48), [shape(3, 3, 48, 48)] * layers
    # Pallas asks which GPU it lowers for.
    named = AbstractDevice(device_kind=device.device_kind, num_cores=None, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=named)):
        run = jax.jit(pallas_chain if pallas else xla_chain)
        return run.trace(x, kernels, [shape(48)] * layers).lower(lowering_platforms=("cuda",))


def _no_slices() -> PairedSlices:
    """As many pairs as the papers train on, without the memory."""
    store = np.broadcast_to(np.int16(0), (SLICES, SIDE, SIDE))
    return PairedSlices(
        low_hu=store,
        full_hu=store,
        patients=("none",) * SLICES,
        pixel_mm=np.ones(SLICES),
        slice_mm=np.ones(SLICES),
        source="none",
    )


def _placing(mesh):
    def place(array, split: bool):
        sharding = NamedSharding(mesh, P(None, AXIS) if split else P())
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return place
