"""``--set key=value``: one field of an experiment or a scale, at a dotted path, replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from typing import Any

from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.record import BARE_NAMES, dtype_of, fields, resolve
from ldct_jax.user_script import OWN


def override(value: Any, setting: str) -> Any:
    """``value`` with one ``a.b=text`` applied, the text read as the type of that field.

    Raises UsageError for an unknown key (listing the legal ones) and for text of another type.
    """
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise UsageError(f"{setting!r} is not a setting: write key=value, as in epochs=3")
    return _override(value, path.strip().split("."), text.strip(), path.strip())


def _override(value: Any, keys: list[str], text: str, path: str) -> Any:
    if not dataclasses.is_dataclass(value):
        raise UsageError(f"{path}: {'.'.join(keys)} doesn't exist, {value!r} has no parts")
    key, names = keys[0], sorted(f.name for f in fields(value))
    if key not in names:
        raise UsageError(f"unknown key {path!r}: here are {', '.join(names)}")
    old = getattr(value, key)
    if len(keys) > 1:
        new = _override(old, keys[1:], text, path)
    else:
        hints: dict = {}
        with contextlib.suppress(NameError, TypeError):  # a user's class may name what isn't there
            hints = typing.get_type_hints(type(value))
        new = _parse(text, old, hints.get(key, Any), path)
    return dataclasses.replace(value, **{key: new})


def _parse(text: str, old: Any, hint: Any, path: str) -> Any:
    def wrong(what: str):
        return UsageError(f"{path}={text!r}: {what} is needed here (it is {_show(old)} now)")

    if dataclasses.is_dataclass(old) and text.lower() != "none":
        raise wrong(f"one of its parts ({', '.join(f.name for f in fields(old))})")
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = list(typing.get_args(hint)) if union else [hint]
    if type(None) in kinds and text.lower() == "none":
        return None
    if hint is Any and type(old) in (bool, int, float, str):
        kinds = [type(old)]
    for kind in (k for k in kinds if k is not type(None)):
        if typing.get_origin(kind) is tuple or isinstance(old, tuple):
            return _tuple(text, old, kind, wrong)
        if kind in READERS:
            read, what = READERS[kind]
            try:
                return read(text)
            except (ValueError, KeyError):
                raise wrong(what) from None
    if dtype_of(old) is not None:
        return _dtype(text, wrong)
    if callable(old):
        return _function(text, old, wrong)
    raise wrong("something that can't be written on a command line")


READERS = {
    bool: (
        lambda text: {
            "true": True,
            "yes": True,
            "1": True,
            "false": False,
            "no": False,
            "0": False,
        }[text.lower()],
        "true or false",
    ),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}


def _tuple(text: str, old: Any, kind: Any, wrong) -> tuple:
    """Values separated by commas, of the type that the hint or the old value has."""
    inner = [k for k in typing.get_args(kind) if k is not Ellipsis] or [type(old[0])]
    if inner[0] not in READERS:
        raise wrong("something that can't be written on a command line")
    read, what = READERS[inner[0]]
    try:
        found = tuple(read(part) for part in text.split(",") if part.strip())
    except (ValueError, KeyError):
        raise wrong(f"{what} several times, separated by commas,") from None
    if Ellipsis not in typing.get_args(kind) and len(inner) > 1 and len(found) != len(inner):
        raise wrong(f"{len(inner)} values, separated by commas,")
    return found


def _dtype(text: str, wrong) -> Any:
    import jax.numpy as jnp

    try:
        return jnp.dtype(text)
    except TypeError:
        raise wrong("float32 or bfloat16") from None


def _function(text: str, old: Any, wrong) -> Any:
    """A function by its full name, or by a bare one that only one place has."""
    module = getattr(old, "__module__", None)
    names = [text] if ":" in text else [f"{OWN}:{text}", f"{module}:{text}"]
    if ":" not in text and text in BARE_NAMES:
        names.append(text)
    found = []
    for name in names:
        with contextlib.suppress(CheckpointError):
            if (one := resolve(name)) not in found and callable(one):
                found.append(one)
    if len(found) > 1:
        raise wrong(f"one of {names[0]} and {names[1]}")
    if not found or isinstance(found[0], type):
        raise wrong("a function's name")
    return found[0]


def _show(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
