"""The one seam to devices: a per-device step, mapped over all of them, many steps in one call.

What ``jax.pmap`` was is ``jit(shard_map)`` today: the state is whole on every device, a batch is
split along the mesh axis ``data``, and the step itself sums over that axis. One device is the
same program with an axis of length 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldct_jax.data.feed.augment import augment
from ldct_jax.errors import UsageError
from ldct_jax.hu import Window
from ldct_jax.train.processes import Processes
from ldct_jax.train.state import TrainState
from ldct_jax.train.steps import AXIS


def synchronised(model):
    """``model`` with its BatchNorm statistics taken over all devices, nested models included."""
    changes = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name == "axis_name":
            changes[field.name] = AXIS
        elif field.name == "parent":
            continue
        elif isinstance(value, nn.Module):
            changes[field.name] = synchronised(value)
        elif isinstance(value, tuple) and any(isinstance(v, nn.Module) for v in value):
            changes[field.name] = tuple(synchronised(v) for v in value)
    return dataclasses.replace(model, **changes) if changes else model


class DataParallel(Processes):
    """All devices (or the given ones) as one axis, and how arrays are put on them."""

    def __init__(self, devices=None):
        super().__init__()
        devices = np.asarray(jax.devices() if devices is None else devices)
        self.mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
        self.n = devices.size

    def columns(self, batch: int) -> np.ndarray:
        """Which patches of each batch lie on this process's devices, in ascending order."""
        here = NamedSharding(self.mesh, P(AXIS)).addressable_devices_indices_map((batch,))
        return np.unique(np.concatenate([np.arange(batch)[i] for i in here.values()]))

    def place(self, array: np.ndarray, split: bool):
        """Put a host array on the devices: whole on each, or split along its second axis.

        The second axis, because the first counts the steps of an epoch and the second the batch.
        """
        sharding = NamedSharding(self.mesh, P(None, AXIS) if split else P())
        if not sharding.is_fully_addressable:
            return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])
        return jax.device_put(array, sharding)

    def replicate(self, tree):
        """A copy of a pytree, whole on every device (a copy, so that it may be donated)."""
        sharding = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda x: jax.device_put(jnp.array(x, copy=True), sharding), tree)

    def check_batch(self, batch: int) -> None:
        if batch % self.n:
            raise UsageError(
                f"a batch of {batch} patches can't be split evenly over {self.n} devices: "
                f"choose a multiple of {self.n}"
            )

    def compile_steps(
        self, step: Callable, feed, window: Window, augmentation: str, max_steps: int
    ) -> Callable:
        """One compiled function that runs any number of steps up to ``max_steps``.

        It takes (state, inputs, epoch, first, count): ``feed``'s inputs and the steps ``first``
        … ``first + count - 1`` of the epoch; the state is donated. It returns the state and the
        metrics of each step, arrays of length ``max_steps`` of which ``count`` count. All call
        lengths are one rolled program, so where a training is cut into calls doesn't change a bit
        of it.
        """
        self.check_batch(feed.batch_size)

        def steps(state: TrainState, inputs, epoch, first, count):
            key = jax.random.wrap_key_data(state.key)

            def one(state, i):
                raw = feed.batch(inputs, first + i)
                low, full = window.to_unit(raw.low_hu), window.to_unit(raw.full_hu)
                low, full = augment(augmentation, key, epoch, raw.index, low, full)
                return step(state, low[..., None], full[..., None], raw.weight)

            def body(i, carry):
                state, log = carry
                state, metrics = one(state, i)
                return state, {k: log[k].at[i].set(v) for k, v in metrics.items()}

            names = jax.eval_shape(one, state, 0)[1]
            log = {k: jnp.zeros((max_steps,), jnp.float32) for k in names}
            return lax.fori_loop(0, count, body, (state, log))

        specs = {k: P(None, AXIS) if split else P() for k, split in feed.specs().items()}
        mapped = jax.shard_map(
            steps,
            mesh=self.mesh,
            in_specs=(P(), specs, P(), P(), P()),
            out_specs=P(),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=0)
