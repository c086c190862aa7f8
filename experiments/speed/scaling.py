"""Many devices on paper: bytes of a step's all-reduce against the step's time.

``python -m experiments.speed.scaling`` prints the table of docs/many_devices.md. Nothing here is
measured; every assumption is a field of :class:`Machine` or :class:`Training`.

The step has one all-reduce, after the whole backward pass, and nothing to hide it behind:

    t(N) = F b / r + 2 (N - 1)/N S / B + 2 ceil(log2 N) L
    efficiency(N) = t(1) / t(N)

F: operations of a patch's step, b: patches a device, r: operations a second of a device in this
step, S: bytes that are reduced, B: bandwidth of the slowest link, L: latency of a hop. The second
term is the traffic of a ring, which no algorithm undercuts; the third is a tree's, which is what
small messages between many devices take.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from experiments.speed.rows import MODELS
from experiments.speed.shared import build, nominal_flops

# What travels with the gradients: the sums of the loss and of the squared error, and the count.
FURTHER_NUMBERS = 3
DEVICES = (8, 64, 512)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Assumed figures of a GPU cluster; none was measured for this project.

    Args:
      flops: operations a second of one device in a large bfloat16 matrix product.
      mfu: the share of them that a step reaches.
      node: devices of a node. inside, between: bytes a second and device within a node and
        between nodes. latency_s: of one hop, launch included.
    """

    flops: float = 770e12
    mfu: float = 0.5
    node: int = 8
    inside: float = 300e9
    between: float = 40e9
    latency_s: float = 10e-6

    def bandwidth(self, devices: int) -> float:
        """That of the slowest link, bytes a second."""
        return self.inside if devices <= self.node else self.between


def reduced_bytes(model) -> int:
    """Bytes of the one all-reduce of a training step with ``model``: float32 gradients and sums."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    parameters = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    return 4 * (parameters + FURTHER_NUMBERS)


def compute_s(operations: float, patches: float, machine: Machine) -> float:
    """Seconds of a step's arithmetic on one device."""
    return operations * patches / (machine.flops * machine.mfu)


def reduce_s(size: float, devices: int, machine: Machine) -> float:
    """Seconds of the all-reduce of ``size`` bytes over ``devices``."""
    if devices == 1:
        return 0.0
    traffic = 2 * (devices - 1) / devices * size / machine.bandwidth(devices)
    return traffic + 2 * math.ceil(math.log2(devices)) * machine.latency_s


def efficiency(
    operations: float, patches: float, size: float, devices: int, machine: Machine
) -> float:
    """The share of the time in which a device computes; ``patches`` are those of one device."""
    work = compute_s(operations, patches, machine)
    return work / (work + reduce_s(size, devices, machine))


def table(machine: Machine | None = None, batch: int = 128, size: int = 55) -> str:
    """The 48-filter PCN: ``batch`` patches a device, and ``batch`` patches over all devices."""
    machine = machine or Machine()
    kind, fields = MODELS["pcn"]
    model = build(kind, fields)
    x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    operations = nominal_flops(model, variables, "train", size)
    moved = reduced_bytes(model)
    lines = [
        f"{operations / 1e9:.1f} GFLOP a patch, {moved:,} bytes a step, "
        f"{1e3 * compute_s(operations, batch, machine):.2f} ms of arithmetic for {batch} patches",
        "",
        f"| devices | all-reduce | {batch} patches a device | {batch} patches over all devices |",
        "|---:|---:|---:|---:|",
    ]
    for n in DEVICES:
        weak, strong = (
            efficiency(operations, patches, moved, n, machine) for patches in (batch, batch / n)
        )
        shared = f"{100 * strong:.0f} %" if n <= batch else "fewer patches than devices"
        lines.append(
            f"| {n} | {1e6 * reduce_s(moved, n, machine):.0f} µs | {100 * weak:.1f} % | {shared} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
