"""What is not written, and what is not read."""

from __future__ import annotations

import hashlib
import json

import jax
import numpy as np
import pytest

from ldct_jax.denoise.models import load
from ldct_jax.errors import CheckpointError, LdctError
from ldct_jax.export import onnx_model, stablehlo, verify
from ldct_jax.export.card import UNSEALED, sealed


@pytest.mark.promise("export")
def test_an_export_that_differs_is_not_written(small, tmp_path, monkeypatch):
    """What is serialised is off by 0.1 HU."""
    size = (64, 64)
    for module, name, wrap, export in (
        (stablehlo, "serialized", jax.jit, lambda p: stablehlo.export(small, p, size=size)),
        (onnx_model, "converted", lambda f: f, lambda p: onnx_model.export(small, p, size=size)),
    ):
        original = getattr(module, name)

        def off(function, size, original=original, wrap=wrap, **options):
            return original(wrap(lambda hu: function(hu) + 0.1), size, **options)

        monkeypatch.setattr(module, name, off)
        with pytest.raises(LdctError, match=r"differs from the network by 0\.\d+ HU"):
            export(tmp_path / "model")
        assert not list(tmp_path.iterdir())


def test_nan_and_other_shapes_never_compare_as_equal():
    ones = np.ones((2, 2))
    assert verify.largest_difference(ones, ones) == 0
    assert verify.largest_difference(ones, ones * np.nan) == np.inf
    assert verify.largest_difference(ones * np.nan, ones * np.nan) == np.inf
    assert verify.largest_difference(ones, np.ones((2, 1))) == np.inf


def resealed(card: str, **changes) -> bytes:
    """A card with other words that holds together all the same."""
    record = json.loads(card) | {"card_sha256": UNSEALED} | changes
    return sealed(json.dumps(record).encode())[0]


@pytest.mark.core
def test_files_that_are_not_ours_or_were_changed_are_refused(exported, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    stable = tmp_path / "a.stablehlo"
    stable.write_bytes((exported / "model.stablehlo").read_bytes())
    with pytest.raises(CheckpointError, match=r"a\.stablehlo\.json is missing"):
        load(stable)
    card = (exported / "model.stablehlo.json").read_text()
    (tmp_path / "a.stablehlo.json").write_text(card)
    load(stable)
    (tmp_path / "a.stablehlo.json").write_text(card.replace("cd" * 32, "1"))
    with pytest.raises(CheckpointError, match="not the card that was written"):
        load(stable)
    (tmp_path / "a.stablehlo.json").write_bytes(resealed(card, sha256="1" * 64))
    with pytest.raises(CheckpointError, match="not the file that was verified"):
        load(stable)
    for text in ("{}", "no json", json.dumps(json.loads(card) | {"window_record": {}})):
        (tmp_path / "a.stablehlo.json").write_text(text)
        with pytest.raises(CheckpointError, match="export it again"):
            load(stable)
    (tmp_path / "a.stablehlo.json").write_text(card)
    stable.write_bytes(b"StableHLO" * 100)
    with pytest.raises(CheckpointError, match="not the file that was verified"):
        load(stable)
    named = hashlib.sha256(stable.read_bytes()).hexdigest()
    (tmp_path / "a.stablehlo.json").write_bytes(resealed(card, sha256=named))
    with pytest.raises(LdctError, match="no usable StableHLO file"):
        load(stable)

    path = tmp_path / "a.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(LdctError, match="no usable ONNX file"):
        load(path)
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [info], [out])
    opset = [helper.make_opsetid("", onnx_model.OPSET)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opset)
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="isn't one that ldct_jax wrote"):
        load(path)
