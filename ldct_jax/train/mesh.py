"""The one seam to devices: a per-device step, mapped over all of them, many steps in one call.

What ``jax.pmap`` was is ``jit(shard_map)`` today: the state is whole on every device, a batch is
split along the mesh axis ``data``, and the step itself sums over that axis. One device is the
same program with an axis of length 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldct_jax.data.feed.augment import augment
from ldct_jax.errors import LdctError, NumericsError, UsageError
from ldct_jax.hu import Window
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


class DataParallel:
    """All devices (or the given ones) as one axis, and how arrays are put on them."""

    def __init__(self, devices=None):
        devices = np.asarray(jax.devices() if devices is None else devices)
        self.mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
        self.n = devices.size
        self.processes = jax.process_count()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that logs and reports for all."""
        return jax.process_index() == 0

    def agree(self, *values: int) -> list[int]:
        """The largest of each value over all processes, which must all call this at one point.

        What a clock or a signal decides differs between processes, and a collective that only
        some of them enter never ends.
        """
        if self.processes == 1:
            return list(values)
        from jax.experimental import multihost_utils

        gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
        return [int(v) for v in np.max(gathered, axis=0)]

    def first(self, action: Callable[[], int | None]) -> int:
        """Let the first process alone do ``action``, as where files are written; all wait for it.

        Returns on every process what it returned, a number or 0. Where it fails all fail: with
        its error there, with a word of it elsewhere.
        """
        return self.agree(int(self._all_or_none(action, self.is_first) or 0))[0]

    def in_turn(self, action: Callable[[], Any]) -> Any:
        """``action`` on the first process, which may fill a cache, and then on the others."""
        firsts = self._all_or_none(action, self.is_first)
        others = self._all_or_none(action, not self.is_first)
        return firsts if self.is_first else others

    def _all_or_none(self, action: Callable[[], Any], here: bool) -> Any:
        value = error = None
        if here:
            try:
                value = action()
            except Exception as raised:
                # Kept until the others know: they would wait for ever in their next collective.
                error = raised
        # Failing numbers end one run and not the command, on every process alike.
        (failed,) = self.agree(0 if error is None else 1 + isinstance(error, NumericsError))
        if error is not None:
            raise error
        if failed:
            kind = NumericsError if failed == 2 else LdctError
            raise kind("another process failed: its own message says why")
        return value

    def check_equal(self, value: int, what: str) -> None:
        """Raise LdctError on every process unless ``value`` (31 bits) is the same on all."""
        largest, negated = self.agree(value, -value)
        if largest != -negated:
            raise LdctError(f"the processes have different {what}: give all of them the same")

    def own(self, tree):
        """A replicated pytree for computations of this process alone (numpy, where several are)."""
        return tree if self.processes == 1 else jax.tree.map(np.asarray, tree)

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
        self, step: Callable, feeder, window: Window, augmentation: str, most: int
    ) -> Callable:
        """One compiled function that runs any number of steps up to ``most``.

        It takes (state, inputs, epoch, first, count): ``feeder``'s inputs and the steps ``first``
        … ``first + count - 1`` of the epoch; the state is donated. It returns the state and the
        metrics of each step, arrays of length ``most`` of which ``count`` count. All call lengths
        are one rolled program, so where a training is cut into calls doesn't change a bit of it.
        """
        self.check_batch(feeder.batch_size)

        def steps(state: TrainState, inputs, epoch, first, count):
            key = jax.random.wrap_key_data(state.key)

            def one(state, i):
                raw = feeder.batch(inputs, first + i)
                low, full = window.to_unit(raw.low_hu), window.to_unit(raw.full_hu)
                low, full = augment(augmentation, key, epoch, raw.index, low, full)
                return step(state, low[..., None], full[..., None], raw.weight)

            def body(i, carry):
                state, log = carry
                state, metrics = one(state, i)
                return state, {k: log[k].at[i].set(v) for k, v in metrics.items()}

            names = jax.eval_shape(one, state, 0)[1]
            log = {k: jnp.zeros((most,), jnp.float32) for k in names}
            return lax.fori_loop(0, count, body, (state, log))

        specs = {k: P(None, AXIS) if split else P() for k, split in feeder.specs().items()}
        mapped = jax.shard_map(
            steps,
            mesh=self.mesh,
            in_specs=(P(), specs, P(), P(), P()),
            out_specs=P(),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=0)
