"""Floating-point operations of a JAX function, counted in its jaxpr.

XLA's ``cost_analysis`` counts the body of a loop once; here loop lengths are multiplied in. Only
multiplications and additions of convolutions and matrix products count, two for each product.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from ldct_jax.errors import UsageError
from ldct_jax.models import onednn
from ldct_jax.models.catalogue import CATALOGUE, parameter_count, receptive_field, shapes
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.critic import Critic
from ldct_jax.models.vgg import VGG
from ldct_jax.models.whole_slices import denoise

SLICE = 512

# Operations that leave an array's zero border where it is.
_KEEP = {"convert_element_type", "copy", "copy_p", "reduce_precision", "stop_gradient"}


def flops(function: Callable, *args, padding: bool = False) -> int:
    """The operations of ``function(*args)``; arguments may be ShapeDtypeStructs.

    By default products with zeros of a padded border don't count, so that a "deconvolution"
    written as padding and convolution costs what the transposed convolution does: the nominal
    work of a model. ``padding=True`` counts what is executed. Raises UsageError where a loop's
    length is not known before it runs.
    """
    return 2 * _macs(traced(function, *args), {}, padding)[0]


def flops_512(model: nn.Module, channels: int = 1) -> int | None:
    """Nominal operations for one 512x512 slice; None for a critic bound to another size.

    Two a product, of convolutions and matrix products; products with padding don't count; clone
    networks in the plain form of the paper, with the outputs of all clones.
    """
    if isinstance(model, Critic) and model.flatten:
        return None
    if isinstance(model, ClonesNet):
        model = model.clone(shortcuts=False)
    variables, x = shapes(model, (1, SLICE, SLICE, channels))
    if isinstance(model, Critic | VGG):
        return flops(model.apply, variables, x)
    return flops(lambda v, x: denoise(model, v, x), variables, x)


def model_rows() -> list[dict]:
    """The catalogue, measured: one record a network, as ``ldct models --json`` prints it."""
    rows = []
    for name, entry in CATALOGUE.items():
        model = entry.build()
        parameters, batch_stats = parameter_count(model, entry.input_shape)
        rows.append(
            {
                "name": name,
                "paper": entry.paper,
                "denoises": entry.denoises,
                "parameters": parameters,
                "batch_stats": batch_stats,
                "receptive_field": receptive_field(model),
                "flops_512": flops_512(model, entry.channels),
            }
        )
    return rows


def _macs(jaxpr, borders_in: dict, padding: bool) -> tuple[int, list]:
    """(products of ``jaxpr``, zero borders of its outputs).

    A border is a list of (before, after) for each axis; ``"zero"`` marks a scalar 0.
    """
    env: dict = {jaxpr.invars[i]: b for i, b in borders_in.items()}

    def border(v):
        if isinstance(v, core.Literal):
            return "zero" if np.ndim(v.val) == 0 and v.val == 0 else None
        return env.get(v)

    total = 0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "conv_general_dilated":
            total += _conv_macs(eqn, border(eqn.invars[0]), padding)
        elif name == "dot_general":
            total += _dot_macs(eqn)
        elif name == "pad":
            env[eqn.outvars[0]] = _pad_border(eqn, border)
        elif name in _KEEP:
            env[eqn.outvars[0]] = border(eqn.invars[0])
        elif name == "transpose":
            b = border(eqn.invars[0])
            env[eqn.outvars[0]] = [b[i] for i in params["permutation"]] if b else None
        elif name == "while":
            raise UsageError("operations can't be counted through a loop of unknown length")
        elif name == "cond":
            total += max(_macs(branch.jaxpr, {}, padding)[0] for branch in branches(params))
        else:
            # A scan's carry changes from round to round: its borders are not followed.
            length = params["length"] if name == "scan" else 1
            for inner in called(params):
                known = {} if name == "scan" else _pass_on(eqn, inner, border)
                macs, outs = _macs(inner, known, padding)
                total += length * macs
                if name != "scan" and len(outs) == len(eqn.outvars):
                    env.update(zip(eqn.outvars, outs, strict=True))
    return total, [border(v) for v in jaxpr.outvars]


def traced(function: Callable, *args):
    """The jaxpr of ``function(*args)`` without what its results don't need, as it is compiled."""
    with onednn.disabled():  # its calls have no operations to count
        jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]


def branches(params) -> list:
    """The branches of a ``cond`` that can be taken: where the platform chooses, its own."""
    of_platforms = params.get("branches_platforms")
    if of_platforms is None:
        return list(params["branches"])
    backend = jax.default_backend()
    here = {"cuda", "rocm"} if backend == "gpu" else {backend}
    pairs = zip(of_platforms, params["branches"], strict=True)
    # None stands for all platforms that have no branch of their own, and comes last.
    return [branch for names, branch in pairs if names is None or here & set(names)][:1]


def called(params) -> list:
    """The jaxpr that an operation calls (of a custom derivative only the function itself)."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in params:
            inner = params[key]
            return [getattr(inner, "jaxpr", inner)]
    return []


def _pass_on(eqn, inner, border) -> dict:
    if len(inner.invars) != len(eqn.invars):
        return {}
    return {i: b for i, v in enumerate(eqn.invars) if (b := border(v)) is not None}


def _pad_border(eqn, border):
    config = eqn.params["padding_config"]
    is_plain = all(low >= 0 and high >= 0 and interior == 0 for low, high, interior in config)
    if not is_plain or border(eqn.invars[1]) != "zero":
        return None
    old = border(eqn.invars[0]) or [(0, 0)] * len(config)
    return [(o[0] + c[0], o[1] + c[1]) for o, c in zip(old, config, strict=True)]


def _conv_macs(eqn, border, padding: bool) -> int:
    lhs, rhs = (v.aval.shape for v in eqn.invars[:2])
    out, params = eqn.outvars[0].aval.shape, eqn.params
    dims = params["dimension_numbers"]
    products = 1
    for axis, (i, k, o) in enumerate(
        zip(dims.lhs_spec[2:], dims.rhs_spec[2:], dims.out_spec[2:], strict=True)
    ):
        data = np.ones(lhs[i], bool)
        if border not in (None, "zero"):
            before, after = border[i]
            data[:before] = False
            data[lhs[i] - after :] = False
        spread = params["lhs_dilation"][axis]
        dilated = np.zeros((lhs[i] - 1) * spread + 1, bool)
        dilated[::spread] = data
        low, high = params["padding"][axis]
        dilated = np.pad(dilated, (max(low, 0), max(high, 0)))[max(-low, 0) :]
        if padding:
            dilated[:] = True
        starts = np.arange(out[o]) * params["window_strides"][axis]
        taps = np.arange(rhs[k]) * params["rhs_dilation"][axis]
        products *= int(dilated[starts[:, None] + taps[None, :]].sum())
    batch, features = out[dims.out_spec[0]], out[dims.out_spec[1]]
    return products * batch * features * rhs[dims.rhs_spec[1]] // params["batch_group_count"]


def _dot_macs(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contracted)
