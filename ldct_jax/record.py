"""Objects ↔ JSON: how a run folder records its model, loss, optimiser and data, and rebuilds them.

Everything that defines a run is a frozen dataclass (linen modules are), a named function or a
dtype. A record names it ``module:QualName``, and the name is looked up when it is written: it must
lead to the very same object. Three kinds of names are read back: those of this package, those of
:data:`PUBLIC` libraries, and those of the user's own script (:mod:`ldct_jax.user_script`), which is
imported only when the user names it. So a foreign checkpoint can't make this process import or call
code that came with it, and a class ``UNet`` of the user's own is never taken for the package's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.user_script import OWN, script

PUBLIC = ("jax.nn", "jax.numpy", "flax.linen")
"""Libraries whose public functions and layers a record may name."""

# Records from before modules were written down. For reading only: nothing is added here.
BARE_NAMES = {
    name: module
    for module, names in {
        "ldct_jax.hu": "Window",
        "ldct_jax.metrics.protocols": "Protocol",
        "ldct_jax.metrics.image": "SSIMWindow",
        "ldct_jax.models.clones": "ClonesNet",
        "ldct_jax.models.redcnn": "REDCNN",
        "ldct_jax.models.cpce": "CPCE MAPNN",
        "ldct_jax.models.dncnn": "DnCNN CNN10",
        "ldct_jax.models.drl": "DRL",
        "ldct_jax.models.dcscn": "DCSCN",
        "ldct_jax.models.wgan_vgg": "WGANVGG CNNL1",
        "ldct_jax.models.hrnet": "HRNet",
        "ldct_jax.models.unet": "UNet",
        "ldct_jax.models.critic": "Critic",
        "ldct_jax.models.cascade": "Cascade",
        "ldct_jax.models.image_clones": "ImageClones",
        "ldct_jax.models.noise_scaled": "NoiseScaled",
        "ldct_jax.models.vgg": "VGGFeatures",
        "ldct_jax.losses": (
            "mse l1 LogMSE MultiScale EveryClone LastClone edge_incoherence Central Weighted "
            "Perceptual"
        ),
        "ldct_jax.train.gan": "WassersteinGAN",
        "ldct_jax.data.natural": "NaturalImages",
        "ldct_jax.data.embedded": "Phantoms",
        "ldct_jax.optim": "Constant Exponential Cosine Piecewise InverseSqrtEpoch Adam",
        "ldct_jax.data.feed.patches": "Patches",
        "ldct_jax.data.simulate": "LowDose",
        "ldct_jax.data.mixed_dose": "MixedDose",
        "ldct_jax.data.noise_free_target": "NoiseFreeTarget",
        "ldct_jax.study.experiment": "Experiment",
    }.items()
    for name in names.split()
}

# Fields that older records hold and no class has any more, with what they always were.
RETIRED = {"frozen_statistics": False, "stop_if_worse": False}

# Fields that say how a network is computed, not what: bit for bit the same whatever they are.
HOW = ("loop",)


# ---- names -------------------------------------------------------------------------------------


def resolve(name: str) -> Any:
    """The class or function that a record calls ``module:QualName`` (or by an old bare name).

    Raises CheckpointError for what this version doesn't have, for foreign modules, and for names
    of the user's own script while none was named.
    """
    module, colon, path = name.rpartition(":")
    if not colon and name in BARE_NAMES:
        module = BARE_NAMES[name]
    ours = module.split(".")[0] == "ldct_jax" and "._" not in module
    if module == OWN:
        holder = script()
        if holder is None:
            raise CheckpointError(
                f"the record names {path} of the user's own script: give the script with "
                "--code own.py (in Python: code='own.py'); the run folder has a copy"
            )
    elif ours or module in PUBLIC:
        try:
            holder = importlib.import_module(module)
        except ImportError:
            if path in BARE_NAMES and BARE_NAMES[path] != module:
                return resolve(path)  # the module was moved since
            holder = None
    else:
        holder = None
    found = holder
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None or (ours and not getattr(found, "__module__", "").startswith("ldct_jax.")):
        where = (
            f"{Path(holder.__file__).name} doesn't have"
            if module == OWN
            else ("this version of ldct_jax doesn't have; was it written by a newer one")
        )
        raise CheckpointError(f"the record names {name!r}, which {where}")
    return found


def name_of(thing: Any) -> str:
    """``module:QualName`` of a class or function, which :func:`resolve` leads back to ``thing``.

    Raises UsageError for what no record can name: a lambda, something defined inside a function,
    or something that was redefined since.
    """
    module, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    modules = [module] if str(module).split(".")[0] == "ldct_jax" else [*PUBLIC, OWN]
    for candidate in modules if path else ():
        with contextlib.suppress(CheckpointError):
            if resolve(f"{candidate}:{path}") is thing:
                return f"{candidate}:{path}"
    raise UsageError(
        f"{path or repr(thing)} can't be recorded, so no run could be loaded again: define it with "
        "def or class at the top level of your script (not in a notebook, not as a lambda or "
        "inside a function), or import it there by its name"
    )


def short_name(name: str) -> str:
    """The bare name of a class for tables and file headers: ``ClonesNet``."""
    return name.rpartition(":")[2]


# ---- objects ↔ JSON ----------------------------------------------------------------------------


def to_record(value: Any) -> Any:
    """A JSON-ready record of ``value``; :func:`from_record` is its inverse."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [to_record(v) for v in value]
    if isinstance(value, dict):
        return {k: to_record(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = ((f, getattr(value, f.name)) for f in fields(value))
        return {"type": name_of(type(value))} | dict(_recorded(values))
    if (dtype := dtype_of(value)) is not None:
        return {"dtype": dtype.name}
    if callable(value):
        return {"function": name_of(value)}
    raise UsageError(f"{value!r} can't be recorded")


def _recorded(values) -> Iterator[tuple[str, Any]]:
    for field, value in values:
        try:
            yield field.name, to_record(value)
        except UsageError:
            # A default that has no name (an initialiser made by a call) stands in the class itself.
            if value is not field.default:
                raise


def dtype_of(value: Any) -> np.dtype | None:
    """The dtype that ``value`` is (``jnp.float32``, one of numpy); None for anything else."""
    if isinstance(value, np.dtype):
        return value
    own = getattr(value, "dtype", None)  # as jnp.bfloat16 has
    if isinstance(value, type) and (issubclass(value, np.generic) or isinstance(own, np.dtype)):
        return np.dtype(value)
    return None


def from_record(record: Any) -> Any:
    """The object that :func:`to_record` described."""
    if isinstance(record, list):
        return tuple(from_record(v) for v in record)
    if not isinstance(record, dict):
        return record
    if "function" in record:
        return resolve(record["function"])
    if set(record) == {"dtype"}:
        import jax.numpy as jnp

        return jnp.dtype(record["dtype"])
    values = {k: from_record(v) for k, v in record.items() if k != "type"}
    if "type" not in record:
        return values
    kind = _dataclass(record["type"])
    unknown = set(values) - {f.name for f in fields(kind)}
    for name in sorted(unknown & RETIRED.keys()):
        # Gone, but with the value that is now built in.
        if values[name] == RETIRED[name]:
            unknown.remove(name)
            del values[name]
    if unknown:
        raise CheckpointError(
            f"{short_name(record['type'])} has no {', '.join(sorted(unknown))} in this version"
        )
    return kind(**values)


def _dataclass(name: str) -> type:
    kind = resolve(name)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise CheckpointError(f"the record names {name!r}, which is not something that it can hold")
    return kind


def canonical(record: Any) -> Any:
    """The record as this version writes it: full names, and missing fields at their defaults.

    So that a run from before a field or a module's name existed can be compared with one of today.
    """
    if isinstance(record, list | tuple):
        return [canonical(v) for v in record]
    if not isinstance(record, dict):
        return record
    if "function" in record:
        return {"function": name_of(resolve(record["function"]))}
    # Older runs wrote the experiment's model and window a second time beside it.
    within = record.get("experiment") or {}
    doubled = [k for k in ("model", "window") if k in within and record.get(k) == within[k]]
    found = {k: canonical(v) for k, v in record.items() if k not in ("type", *doubled)}
    if "type" not in record:
        return found
    kind = _dataclass(record["type"])
    defaults = ((f, f.default) for f in fields(kind) if f.default is not dataclasses.MISSING)
    order = dict.fromkeys(f.name for f in fields(kind))
    merged = order | dict(_recorded(defaults)) | found
    gone = {k for k, v in RETIRED.items() if k not in order and merged.get(k, v) == v}
    return {"type": name_of(kind)} | {k: v for k, v in merged.items() if k not in (*gone, *HOW)}


def fields(value: Any) -> list[dataclasses.Field]:
    """The fields a user sets: linen adds ``parent`` and ``name`` to those of a network."""
    found = [f for f in dataclasses.fields(value) if f.init]
    if any(f.name == "parent" for f in found):
        found = [f for f in found if f.name not in ("parent", "name")]
    return found


def difference(found: Any, wanted: Any) -> str:
    """The first few places where two records differ, as text; empty where they say the same."""
    places = _differences(canonical(found), canonical(wanted), "")
    return ", ".join(list(places)[:3])


def _differences(found, wanted, path):
    if isinstance(found, dict) and isinstance(wanted, dict):
        # What an older version didn't write down yet (of objects, canonical adds the defaults).
        newer = set() if "type" in found else set(wanted) - set(found)
        for key in dict.fromkeys([*found, *wanted]):
            if key in newer:
                continue
            yield from _differences(found.get(key), wanted.get(key), f"{path}.{key}".strip("."))
    elif found != wanted:
        yield f"{path} is {found} there, {wanted} here"
