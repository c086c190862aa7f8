"""The convolutions of a program, to be timed without what stands between them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ldct_jax.errors import UsageError
from ldct_jax.models.flops import branches, called, flops, traced

_SHAPING = (
    "window_strides",
    "padding",
    "lhs_dilation",
    "rhs_dilation",
    "dimension_numbers",
    "feature_group_count",
    "batch_group_count",
)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution by the shapes and type of its operands and how it is taken."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    dtype: str
    how: tuple

    def _taken(self, a, b):
        how = dict(zip(_SHAPING, self.how, strict=True))
        return lax.conv_general_dilated(a, b, **how)

    @property
    def flops(self) -> int:
        """Its operations, those with padding's zeros too."""
        a, b = (jax.ShapeDtypeStruct(s, jnp.dtype(self.dtype)) for s in (self.lhs, self.rhs))
        return flops(self._taken, a, b, padding=True)

    def compiled(self) -> tuple[Callable, jax.Array, jax.Array]:
        """It as a program of its own, with operands of random numbers."""
        keys = jax.random.split(jax.random.key(0))
        a = jax.random.normal(keys[0], self.lhs, jnp.dtype(self.dtype))
        b = jax.random.normal(keys[1], self.rhs, jnp.dtype(self.dtype))
        return jax.jit(self._taken).lower(a, b).compile(), a, b


def convolutions(function: Callable, *args) -> Counter[Convolution]:
    """How often ``function(*args)`` takes each of its convolutions, loops unrolled.

    Raises UsageError where that depends on values.
    """
    found: Counter[Convolution] = Counter()
    _collect(traced(function, *args), 1, found)
    return found


def _collect(jaxpr, times: int, found: Counter) -> None:
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "conv_general_dilated":
            lhs, rhs = (v.aval for v in eqn.invars)
            how = tuple(params[k] for k in _SHAPING)
            found[Convolution(lhs.shape, rhs.shape, str(lhs.dtype), how)] += times
        elif name == "cond" and len(taken := branches(params)) == 1:
            _collect(taken[0].jaxpr, times, found)
        elif name in ("while", "cond"):
            raise UsageError(f"convolutions can't be counted through a {name}")
        else:
            length = params["length"] if name == "scan" else 1
            for inner in called(params):
                _collect(inner, times * length, found)
