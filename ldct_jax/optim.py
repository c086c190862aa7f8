"""Learning-rate schedules and optimisers as small specs that a run folder can record.

A schedule is counted in steps but written in the units of the papers (epochs, fractions of the
whole training); :meth:`Adam.build` turns a spec into optax once both lengths are known.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ldct_jax.errors import UsageError

TRAINABLE = ("all", "last_conv", "last_stage")


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same learning rate throughout."""

    rate: float = 1e-3

    def schedule(self, steps: int, steps_per_epoch: int) -> optax.Schedule:
        return optax.constant_schedule(self.rate)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """``rate`` falling geometrically to ``to`` at the last step (pcn: 1e-4 "slowly" to 1e-5)."""

    rate: float = 1e-4
    to: float = 1e-5

    def schedule(self, steps: int, steps_per_epoch: int) -> optax.Schedule:
        ratio = self.to / self.rate
        return lambda count: self.rate * ratio ** (jnp.minimum(count / max(steps - 1, 1), 1.0))


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Linear warm-up over a share ``warmup`` of the steps, then half a cosine down to ``to``."""

    rate: float = 1e-3
    to: float = 0.0
    warmup: float = 0.0

    def schedule(self, steps: int, steps_per_epoch: int) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(
            0.0 if self.warmup else self.rate,
            self.rate,
            warmup_steps=round(self.warmup * steps),
            decay_steps=max(steps, 1),
            end_value=self.to,
        )


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """``rates[i]`` from the fraction ``at[i-1]`` of all steps on (hrnet: 1e-4, 1e-5, 1e-6)."""

    rates: tuple[float, ...] = (1e-4, 1e-5, 1e-6)
    at: tuple[float, ...] = (0.5, 0.75)

    def __post_init__(self):
        if len(self.rates) != len(self.at) + 1:
            raise UsageError(
                f"{len(self.rates)} rates need {len(self.rates) - 1} boundaries, not {len(self.at)}"
            )

    def schedule(self, steps: int, steps_per_epoch: int) -> optax.Schedule:
        return optax.join_schedules(
            [optax.constant_schedule(r) for r in self.rates], [round(a * steps) for a in self.at]
        )


@dataclasses.dataclass(frozen=True)
class InverseSqrtEpoch:
    """``rate`` / sqrt(epoch + 1), epochs counted from zero (MAP-NN's code)."""

    rate: float = 1e-4

    def schedule(self, steps: int, steps_per_epoch: int) -> optax.Schedule:
        return lambda count: self.rate / jnp.sqrt(count // steps_per_epoch + 1.0)


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba), with decoupled weight decay where it is not zero.

    ``trainable``: ``all``; ``last_conv``, which leaves every other parameter as it is
    (dncnn_dose: only the last layer is updated); or ``last_stage`` of a cascade.
    """

    schedule: Constant | Exponential | Cosine | Piecewise | InverseSqrtEpoch = Exponential()
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    trainable: str = "all"

    def __post_init__(self):
        if self.trainable not in TRAINABLE:
            raise UsageError(f"trainable={self.trainable!r}: use one of {', '.join(TRAINABLE)}")

    def build(self, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
        """The optax transformation for a training of ``steps`` steps in all."""
        rate = self.schedule.schedule(steps, steps_per_epoch)
        adam = optax.adamw(rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)
        if not self.weight_decay:
            adam = optax.adam(rate, self.b1, self.b2, self.eps)
        if self.trainable == "all":
            return adam
        prefix = "conv" if self.trainable == "last_conv" else "stages_"
        return optax.multi_transform(
            {"trained": adam, "frozen": optax.set_to_zero()},
            lambda params: _label_last(params, prefix),
        )


def _label_last(params, prefix: str):
    """Mark the part with the highest number, ``conv17`` or ``stages_1``, as the trained one."""

    def number(name: str) -> int:
        digits = "".join(c for c in name if c.isdigit())
        return int(digits) if digits else -1

    parts = [name for name in params if name.startswith(prefix)]
    if not parts:
        raise UsageError(
            f"this model has no parts called {prefix}1, …: train all of it (trainable=all)"
        )
    last = max(parts, key=number)
    return {
        name: jax.tree.map(lambda _, n=name: "trained" if n == last else "frozen", sub)
        for name, sub in params.items()
    }
