"""Objects ↔ JSON: how a run folder records its model, loss, optimiser and data, and rebuilds them.

Everything that defines a run is a frozen dataclass (linen modules are) or one of a few named
functions. :data:`CONSTRUCTORS` is the one table from names to them; a record that names anything
else is refused, so that reading a foreign checkpoint can't import or call arbitrary code.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from typing import Any

import numpy as np

from ldct_jax.errors import CheckpointError, UsageError

CONSTRUCTORS = {
    "Window": "ldct_jax.hu",
    "Protocol": "ldct_jax.metrics.protocols",
    "SSIMWindow": "ldct_jax.metrics.image",
    "ClonesNet": "ldct_jax.models.clones",
    "REDCNN": "ldct_jax.models.redcnn",
    "CPCE": "ldct_jax.models.cpce",
    "MAPNN": "ldct_jax.models.cpce",
    "DnCNN": "ldct_jax.models.dncnn",
    "CNN10": "ldct_jax.models.dncnn",
    "DRL": "ldct_jax.models.drl",
    "DCSCN": "ldct_jax.models.dcscn",
    "WGANVGG": "ldct_jax.models.wgan_vgg",
    "CNNL1": "ldct_jax.models.wgan_vgg",
    "HRNet": "ldct_jax.models.hrnet",
    "UNet": "ldct_jax.models.unet",
    "Critic": "ldct_jax.models.critic",
    "Cascade": "ldct_jax.models.cascade",
    "ImageClones": "ldct_jax.models.image_clones",
    "NoiseScaled": "ldct_jax.models.noise_scaled",
    "VGGFeatures": "ldct_jax.models.vgg",
    "mse": "ldct_jax.losses",
    "LogMSE": "ldct_jax.losses",
    "MultiScale": "ldct_jax.losses",
    "l1": "ldct_jax.losses",
    "charbonnier": "ldct_jax.losses",
    "EveryClone": "ldct_jax.losses",
    "LastClone": "ldct_jax.losses",
    "edge_incoherence": "ldct_jax.losses",
    "Central": "ldct_jax.losses",
    "Weighted": "ldct_jax.losses",
    "SSIMTerm": "ldct_jax.losses",
    "Perceptual": "ldct_jax.losses",
    "WassersteinGAN": "ldct_jax.train.gan",
    "NaturalImages": "ldct_jax.data.natural",
    "Phantoms": "ldct_jax.data.embedded",
    "Constant": "ldct_jax.optim",
    "Exponential": "ldct_jax.optim",
    "Cosine": "ldct_jax.optim",
    "Piecewise": "ldct_jax.optim",
    "InverseSqrtEpoch": "ldct_jax.optim",
    "Adam": "ldct_jax.optim",
    "Patches": "ldct_jax.data.feed.patches",
    "LowDose": "ldct_jax.data.simulate",
    "MixedDose": "ldct_jax.data.mixed_dose",
    "NoiseFreeTarget": "ldct_jax.data.noise_free_target",
    "Experiment": "ldct_jax.study.experiment",
}


def constructor(name: str):
    """The class or function of that name in :data:`CONSTRUCTORS`."""
    if name not in CONSTRUCTORS:
        raise CheckpointError(
            f"the record names {name!r}, which this version of ldct_jax doesn't have; "
            "was it written by a newer one?"
        )
    return getattr(importlib.import_module(CONSTRUCTORS[name]), name)


def to_record(value: Any) -> Any:
    """A JSON-ready record of ``value``; :func:`from_record` is its inverse."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [to_record(v) for v in value]
    if isinstance(value, dict):
        return {k: to_record(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if name not in CONSTRUCTORS:
            raise UsageError(f"{name} can't be recorded: it is missing in ldct_jax.record")
        return {"type": name} | {f.name: to_record(getattr(value, f.name)) for f in _fields(value)}
    if callable(value) and getattr(value, "__name__", "") in CONSTRUCTORS:
        return {"function": value.__name__}
    try:
        return {"dtype": np.dtype(value).name}
    except TypeError:
        raise UsageError(f"{value!r} can't be recorded") from None


def from_record(record: Any) -> Any:
    """The object that :func:`to_record` described."""
    if isinstance(record, list):
        return tuple(from_record(v) for v in record)
    if not isinstance(record, dict):
        return record
    if "function" in record:
        return constructor(record["function"])
    if set(record) == {"dtype"}:
        import jax.numpy as jnp

        return jnp.dtype(record["dtype"])
    values = {k: from_record(v) for k, v in record.items() if k != "type"}
    if "type" not in record:
        return values
    kind = constructor(record["type"])
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := set(values) - known:
        raise CheckpointError(
            f"{record['type']} has no {', '.join(sorted(unknown))} in this version of ldct_jax"
        )
    return kind(**values)


def override(value: Any, path: str, text: str) -> Any:
    """``value`` with the field at the dotted ``path`` replaced by ``text`` read as that type.

    Raises UsageError for an unknown key (listing the legal ones) and for text of another type.
    """
    return _override(value, path.split("."), text, path)


def _override(value, keys, text, path):
    if not dataclasses.is_dataclass(value):
        raise UsageError(f"{path}: {'.'.join(keys)} doesn't exist, {value!r} has no parts")
    names = {f.name: f for f in _fields(value)}
    key = keys[0]
    if key not in names:
        raise UsageError(f"unknown key {path!r}: here are {', '.join(sorted(names))}")
    old = getattr(value, key)
    if len(keys) > 1:
        new = _override(old, keys[1:], text, path)
    else:
        hints = typing.get_type_hints(type(value))
        new = _parse(text, old, hints.get(key, Any), path)
    return dataclasses.replace(value, **{key: new})


def _fields(value):
    """The fields a user sets: linen adds ``parent`` and ``name`` to those of a network."""
    fields = [f for f in dataclasses.fields(value) if f.init]
    if any(f.name == "parent" for f in fields):
        fields = [f for f in fields if f.name not in ("parent", "name")]
    return fields


def _parse(text: str, old: Any, hint: Any, path: str) -> Any:
    def wrong(what: str):
        return UsageError(f"{path}={text!r}: {what} is needed here (it is {_show(old)} now)")

    if dataclasses.is_dataclass(old):
        raise wrong(f"one of its parts ({', '.join(f.name for f in _fields(old))})")
    options = typing.get_args(hint)
    if type(None) in options and text.lower() == "none":
        return None
    plain = [o for o in options if o is not type(None)] or [hint]
    if bool in plain or isinstance(old, bool):
        if text.lower() in ("true", "yes", "1", "false", "no", "0"):
            return text.lower() in ("true", "yes", "1")
        raise wrong("true or false")
    for kind, what in ((int, "a whole number"), (float, "a number")):
        if kind in plain or (hint is Any and type(old) is kind):
            try:
                return kind(text)
            except ValueError:
                raise wrong(what) from None
    if str in plain or isinstance(old, str):
        return text
    if callable(old) and getattr(old, "__name__", "") in CONSTRUCTORS:
        if text not in CONSTRUCTORS:
            raise wrong("a loss's name")
        return constructor(text)
    if isinstance(old, tuple):
        kind = type(old[0]) if old else str
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise wrong(f"a list of {kind.__name__}, separated by commas") from None
    try:
        import jax.numpy as jnp

        return jnp.dtype(text)
    except TypeError:
        raise wrong("float32 or bfloat16") from None


def _show(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)


def difference(found: Any, wanted: Any, path: str = "") -> str:
    """The first few places where two records differ, in words."""
    return ", ".join(list(_differences(found, wanted, path))[:3])


def _differences(found, wanted, path):
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**found, **wanted}:
            yield from _differences(found.get(key), wanted.get(key), f"{path}.{key}".strip("."))
    elif found != wanted:
        yield f"{path} is {found} there, {wanted} here"
