"""Checkpoint → ONNX through jax2onnx, from the network's twin with Python loops.

Running it needs onnxruntime and numpy:

    session = onnxruntime.InferenceSession("model.onnx")
    (denoised_hu,) = session.run(["denoised_hu"], {"hu": hu})  # (batch, height, width) float32

A network that keeps a share of the noise has a second output, ``noise_hu`` (batch,), and takes the
noise of the series, the median of its slices', as an optional second input:

    session.run(["denoised_hu"], {"hu": hu, "series_noise_hu": numpy.array(23.5, "f4")})
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldct_jax.errors import LdctError, UsageError
from ldct_jax.export import verify
from ldct_jax.export.card import UNSEALED, Card, sealed
from ldct_jax.export.onnx_session import CARD, line, open_session
from ldct_jax.export.source import Source, twin_for_onnx
from ldct_jax.models import onednn
from ldct_jax.system.files import write_bytes

OPSET = 21
INPUTS = ("hu", "series_noise_hu")
OUTPUTS = ("denoised_hu", "noise_hu")
MAX_HU = 0.05
"""What float32 arithmetic in another order may amount to."""


def export(
    source: Source, path: Path, *, size: tuple[int, int] | None, check: Path | None = None
) -> Card:
    """Write ``path``, verified in onnxruntime: within MAX_HU of the network in float32.

    ``size``: (H, W), or None for any, which networks that pad every layer allow. The batch is
    free either way.

    Raises:
      UsageError: a package of the extra ``export`` is missing; a network that needs a size.
      LdctError: the converter can't convert it, or the result differs.
    """
    import jax

    twin, with_noise = twin_for_onnx(source.model), source.takes_noise
    function = source.with_noise(twin) if with_noise else source.function(twin)
    model = converted(function, size, with_noise=with_noise)
    stacks = verify.images(size, check)
    with verify.on_cpu():
        try:
            session = open_session(model.SerializeToString(), str(path))

            def run(hu, *noise):
                inputs = zip(INPUTS, map(np.asarray, (hu, *noise)), strict=False)
                out = session.run(None, dict(inputs))
                return out if noise else out[0]

            differences = verify.compare(
                jax.jit(function), run, stacks, max_hu=MAX_HU, with_noise=with_noise
            )
        except LdctError:
            raise
        except Exception as error:  # onnxruntime's own kinds of error
            raise LdctError(
                f"onnxruntime can't run the converted network ({line(error)}): nothing was "
                "written; try --format stablehlo"
            ) from None
    card = source.card("onnx", size, verified=differences, sha256=UNSEALED)
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD, card.text()
    data, sha256 = sealed(model.SerializeToString())
    write_bytes(path, data)
    return dataclasses.replace(card, sha256=sha256)


def converted(function, size: tuple[int, int] | None, *, with_noise: bool = False):
    """The onnx.ModelProto of a (B, H, W) → (B, H, W), or of such a one that takes noise too.

    It holds no path of this machine.
    """
    import jax

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from jax2onnx import to_onnx
    except ImportError:
        raise UsageError("exporting ONNX needs jax2onnx: pip install 'ldct-jax[export]'") from None
    shape = ("batch", *size) if size else ("batch", "height", "width")
    try:
        # Without jit, small functions such as jax.nn.relu are inlined: jax2onnx 0.17.1 stumbles
        # over nested ones on jax 0.12.
        with (
            warnings.catch_warnings(),
            _quiet("jax2onnx", "onnx_ir"),
            jax.disable_jit(),
            onednn.disabled(),
        ):
            warnings.simplefilter("ignore")
            model = to_onnx(
                function,
                [shape, ()] if with_noise else [shape],
                model_name="ldct_jax",
                opset=OPSET,
                input_names=list(INPUTS if with_noise else INPUTS[:1]),
                output_names=list(OUTPUTS if with_noise else OUTPUTS[:1]),
            )
    except Exception as error:  # anything a network it doesn't know leads the converter to
        if size is None:
            raise UsageError(
                "this network can't be converted for any slice size: give one, as --size 512x512"
            ) from error
        raise LdctError(
            f"jax2onnx can't convert this network ({line(error)}): try --format stablehlo"
        ) from error
    _share_constants(model)
    _drop_remarks(model)
    if with_noise:
        _make_optional(model.graph, INPUTS[1])
    return model


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Only errors of these loggers."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _share_constants(model) -> None:
    """Keep one copy of equal initialisers: the twin repeats the weights that its clones share."""
    kept, renamed = {}, {}
    graphs = list(_graphs(model.graph))
    for graph in graphs:
        for tensor in list(graph.initializer):
            key = (id(graph), tensor.data_type, tuple(tensor.dims), _content(tensor))
            if key in kept:
                renamed[tensor.name] = kept[key]
                graph.initializer.remove(tensor)
            else:
                kept[key] = tensor.name
    for graph in graphs:
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = renamed.get(name, name)
        del graph.value_info[:]  # inferred again by whoever needs it


def _graphs(graph) -> Iterator:
    """A graph and those of its conditional branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _drop_remarks(model) -> None:
    """Take out what the converter noted of the files and lines that nodes came from."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")


def _make_optional(graph, name: str) -> None:
    """Give a scalar input the value 0 where nobody feeds it: an initialiser of its name is that."""
    import onnx

    graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, (), [0.0]))


def _content(tensor) -> bytes:
    name, tensor.name = tensor.name, ""
    content = tensor.SerializeToString(deterministic=True)
    tensor.name = name
    return content
