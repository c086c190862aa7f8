"""Artefacts that are the network: verified, self-contained, and refused where they aren't."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from ldct_jax import spec
from ldct_jax.cli import run as cli
from ldct_jax.denoise.denoisers import find
from ldct_jax.denoise.run import denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored
from ldct_jax.errors import CheckpointError, LdctError, UsageError
from ldct_jax.export import artefacts, onnx_model, stablehlo, tensors, verify
from ldct_jax.export.card import UNSEALED, sealed
from ldct_jax.export.source import Source
from ldct_jax.hu import DCSWGAN, FULL
from ldct_jax.loading import load
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.models.unet import UNet
from ldct_jax.models.wgan_vgg import WGANVGG
from tests.derived_fixtures import slice_of
from tests.dicom_fixtures import anatomy, noisy, write_series

RNG = np.random.default_rng(0)


def source_of(model, window=FULL, **record) -> Source:
    """A network with random parameters, as if read from a checkpoint."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 1), np.float32))
    rng = np.random.default_rng(1)

    def value(path, leaf):
        if path[-1].key == "kernel":
            scale = np.prod(leaf.shape[:-1]) ** -0.5
            return rng.normal(0, scale, leaf.shape).astype(np.float32)
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.1, 0.1)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(value, shapes)
    record = {"model": spec.to_record(model), "window": spec.to_record(window), **record}
    return Source(model, variables, window, record, "cd" * 32)


TRAINED = {"kernels": ["B30f"], "thickness_mm": [1, 3], "dose": [0.25, 0.25]}
SMALL = ClonesNet(n_filters=4, n_clones=3, n_layers=4, final_relu=False)


@pytest.fixture(scope="module")
def small() -> Source:
    return source_of(SMALL, trained_on=TRAINED)


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory) -> Path:
    """A folder with the network in all formats: StableHLO for any size, ONNX for 64 x 64."""
    folder = tmp_path_factory.mktemp("exported")
    stablehlo.export(small, folder / "model.stablehlo")
    onnx_model.export(small, folder / "model.onnx", size=(64, 64))
    tensors.export(small, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from ldct_jax.train import loop
    from ldct_jax.train.parallel import DataParallel
    from tests import tiny

    folder = tmp_path_factory.mktemp("run")
    loop.train(tiny.job(epochs=1), tiny.feeder(), folder, parallel=DataParallel(jax.devices()[:1]))
    return folder


def hu_images(*shape) -> np.ndarray:
    return RNG.normal(-300, 500, shape).astype(np.float32)


# ---- the formats ---------------------------------------------------------------------------------


@pytest.mark.core
def test_stablehlo_is_the_network_for_any_batch_and_size(small, exported):
    function = jax.jit(small.function())
    load_ = artefacts.load(exported / "model.stablehlo")
    for shape in ((1, 48, 48), (3, 70, 61), (2, 64, 128)):
        hu = hu_images(*shape)
        expected = np.asarray(function(hu))
        assert np.abs(expected - hu).max() > 1, "the network must do something"
        np.testing.assert_array_equal(load_.compute(hu), expected)
    data = (exported / "model.stablehlo").read_bytes()
    assert stablehlo.deserialized(data, "x").platforms == ("cpu", "cuda", "tpu")


@pytest.mark.core
def test_onnx_is_the_network_for_any_batch(small, exported):
    function = jax.jit(small.function())
    load_ = artefacts.load(exported / "model.onnx")
    for batch in (1, 3):
        hu = hu_images(batch, 64, 64)
        difference = np.abs(load_.compute(hu) - np.asarray(function(hu))).max()
        assert difference <= onnx_model.MOST_HU
    with pytest.raises(UsageError, match="takes slices of 64x64 pixels, not 64x80"):
        load_.compute(hu_images(1, 64, 80))


def test_onnx_keeps_shared_weights_once(small, exported):
    """Three clones, one set of weights: the file is hardly larger than the parameters."""
    parameters = sum(a.nbytes for a in jax.tree.leaves(small.variables))
    import onnx

    model = onnx.load(exported / "model.onnx")
    weights = [t for t in model.graph.initializer if list(t.dims[:2]) == [3, 3]]
    assert len(weights) == 5  # conv1, two halves of conv2, deconv1, deconv2
    assert sum(4 * np.prod(t.dims) for t in weights) < parameters
    onnx.checker.check_model(model)


def test_safetensors_hold_the_parameters_by_name(small, exported):
    from safetensors.numpy import load_file

    arrays = load_file(exported / "model.safetensors")
    np.testing.assert_array_equal(
        arrays["params/clone/conv1/kernel"], small.variables["params"]["clone"]["conv1"]["kernel"]
    )
    card = json.loads((exported / "model.safetensors.json").read_text())
    assert card["window_record"] == spec.to_record(FULL)
    assert spec.from_record(card["model"]) == SMALL


@pytest.mark.core
def test_the_card_tells_window_training_range_and_checkpoint(exported):
    for name in ("model.stablehlo", "model.onnx"):
        card = artefacts.load(exported / name).card
        assert card.window == FULL and card.checkpoint == "cd" * 32
        assert card.trained_on.kernels == ("B30f",)
        assert "real CT" in card.verified and len(card.verified) == 3
        assert str(exported) not in card.text()


NETWORKS = {
    "scn": (ClonesNet(2, 2, 4, transfer="image", coupled=False, residual="incremental"), True),
    "redcnn": (REDCNN(n_filters=3), True),
    "wgan_vgg, padded by its rule": (WGANVGG(n_filters=3), False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_export_or_are_refused(name, tmp_path):
    model, onnx_can = NETWORKS[name]
    source = source_of(model, DCSWGAN)
    stablehlo.export(source, tmp_path / "a.stablehlo")
    hu = hu_images(2, 56, 50)
    np.testing.assert_array_equal(
        artefacts.load(tmp_path / "a.stablehlo").compute(hu), jax.jit(source.function())(hu)
    )
    if onnx_can:
        card = onnx_model.export(source, tmp_path / "a.onnx", size=(64, 64))
        assert max(card.verified.values()) <= onnx_model.MOST_HU
    else:
        try:
            onnx_model.export(source, tmp_path / "a.onnx", size=(64, 64))
        except LdctError:
            assert not (tmp_path / "a.onnx").exists()


def test_sizes_that_a_network_or_format_cannot_leave_open(tmp_path, small):
    with pytest.raises(UsageError, match="for any slice size: give one, as --size"):
        stablehlo.export(source_of(UNet(widths=(2, 3))), tmp_path / "a.stablehlo")
    stablehlo.export(source_of(UNet(widths=(2, 3))), tmp_path / "a.stablehlo", size=(50, 60))
    with pytest.raises(UsageError, match="for any slice size: give one, as --size"):
        onnx_model.export(small, tmp_path / "a.onnx", size=None)
    same = source_of(DnCNN(depth=3, n_filters=2))
    onnx_model.export(same, tmp_path / "a.onnx", size=None)
    load_ = artefacts.load(tmp_path / "a.onnx")
    for shape in ((1, 30, 41), (2, 64, 50)):
        hu = hu_images(*shape)
        np.testing.assert_allclose(load_.compute(hu), same.function()(hu), atol=0.05)


def test_bfloat16_is_exported_as_it_computes_and_to_onnx_in_float32(tmp_path, small):
    import jax.numpy as jnp

    half = dataclasses.replace(small, model=SMALL.clone(dtype=jnp.bfloat16))
    stablehlo.export(half, tmp_path / "a.stablehlo")
    onnx_model.export(half, tmp_path / "a.onnx", size=(64, 64))
    hu = hu_images(1, 64, 64)
    np.testing.assert_array_equal(
        artefacts.load(tmp_path / "a.stablehlo").compute(hu), jax.jit(half.function())(hu)
    )
    full = np.asarray(small.function()(hu))
    assert np.abs(artefacts.load(tmp_path / "a.onnx").compute(hu) - full).max() < 0.05
    assert np.abs(np.asarray(half.function()(hu)) - full).max() > 0.05


def test_exports_are_verified_on_real_slices(small, real_ct, tmp_path):
    folder = sorted(p for p in real_ct.iterdir() if p.is_dir())[0]
    stacks = verify.images((128, 160), folder)
    assert stacks["real CT"].shape == (4, 128, 160)
    assert verify.images(None, sorted(folder.iterdir())[0])["real CT"].shape == (1, 512, 512)
    size = (128, 160)
    card = stablehlo.export(small, tmp_path / "a.stablehlo", size=size, check=folder)
    assert card.verified["real CT"] == 0
    card = onnx_model.export(small, tmp_path / "a.onnx", size=size, check=folder)
    assert card.verified["real CT"] <= onnx_model.MOST_HU


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.core
def test_an_export_that_differs_is_not_written(small, tmp_path, monkeypatch):
    """What is serialised is off by 0.1 HU."""
    size = (64, 64)
    for module, name, wrap, export in (
        (stablehlo, "serialized", jax.jit, lambda p: stablehlo.export(small, p, size=size)),
        (onnx_model, "converted", lambda f: f, lambda p: onnx_model.export(small, p, size=size)),
    ):
        original = getattr(module, name)

        def off(function, size, original=original, wrap=wrap):
            return original(wrap(lambda hu: function(hu) + 0.1), size)

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


# ---- alone in the world --------------------------------------------------------------------------


def alone(packages: str, program: str, artefact: Path, folder: Path, hu) -> np.ndarray:
    """Run ``artefact`` in a process in which only ``packages`` are installed."""
    site = Path(np.__file__).parents[1]
    (folder / "site").mkdir()
    for name in packages.split():
        for part in (name, f"{name}.py", f"{name}.libs"):
            if (site / part).exists():
                (folder / "site" / part).symlink_to(site / part)
    np.save(folder / "hu.npy", hu)
    head = """
        import importlib.util, sys
        sys.path.append(sys.argv[1])
        for name in ("ldct_jax", "flax", "pydicom", "onnx"):
            assert importlib.util.find_spec(name) is None, name
        import numpy as np
        hu = np.load(sys.argv[3])
    """
    program = textwrap.dedent(head) + textwrap.dedent(program)
    arguments = [folder / "site", artefact, folder / "hu.npy", folder / "out.npy"]
    # -I and -S: neither PYTHONPATH nor the environment's own packages.
    command = [sys.executable, "-I", "-S", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "out.npy")


@pytest.mark.core
def test_stablehlo_runs_with_jax_and_numpy_alone(small, exported, tmp_path):
    """jax's own dependencies are there, and flatbuffers, which its reader of exports imports."""
    hu = hu_images(2, 70, 64)
    out = alone(
        "jax jaxlib numpy scipy ml_dtypes opt_einsum flatbuffers",
        """
        import jax.export
        exported = jax.export.deserialize(bytearray(open(sys.argv[2], "rb").read()))
        np.save(sys.argv[4], np.asarray(exported.call(hu)))
        """,
        exported / "model.stablehlo",
        tmp_path,
        hu,
    )
    np.testing.assert_array_equal(out, jax.jit(small.function())(hu))


@pytest.mark.core
def test_onnx_runs_with_onnxruntime_and_numpy_alone(small, exported, tmp_path):
    hu = hu_images(3, 64, 64)
    out = alone(
        "onnxruntime numpy flatbuffers google packaging",
        """
        import onnxruntime
        session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
        assert importlib.util.find_spec("jax") is None
        np.save(sys.argv[4], session.run(None, {"hu": hu})[0])
        """,
        exported / "model.onnx",
        tmp_path,
        hu,
    )
    assert np.abs(out - small.function()(hu)).max() <= onnx_model.MOST_HU


# ---- as models of `ldct denoise`, and the command ------------------------------------------------


def test_artefacts_denoise_a_series_like_the_checkpoint(small, exported, tmp_path):
    paths = write_series(tmp_path / "in", noisy(anatomy(0, n=3), 20, 0))
    pixels, uids = {}, set()
    for name in ("model.stablehlo", "model.onnx"):
        out = tmp_path / name
        denoise_path(tmp_path / "in", out, find(exported / name))
        headers = [read_header(out / p.name) for p in paths]
        pixels[name] = np.stack([read_stored(h) for h in headers])
        uids |= {h.instance_uid for h in headers}
    hu = np.stack([read_stored(read_header(p)) for p in paths]) - 1024
    expected = np.asarray(small.function()(hu.astype(np.float32))) + 1024
    for found in pixels.values():
        assert np.abs(found - expected.clip(0, 4095)).max() <= 0.56
    assert len(uids) == 6, "another file, another object"


def test_denoising_with_onnx_needs_no_jax(exported, tmp_path):
    slice_of(tmp_path / "in" / "a.dcm")
    program = (
        "import sys; from ldct_jax.cli import run; code = run(sys.argv[1:]);"
        "assert 'jax' not in sys.modules; sys.exit(code)"
    )
    arguments = ["denoise", tmp_path / "in", tmp_path / "out", "--model", exported / "model.onnx"]
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (tmp_path / "out" / "a.dcm").exists()


@pytest.mark.core
def test_the_command_exports_times_and_does_not_overwrite(checkpoint, tmp_path, capsys):
    run, out = str(checkpoint), tmp_path / "out"
    export = ["export", run, str(out), "--size", "64x64"]
    assert cli([*export, "--latency", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert set(done) == {"stablehlo", "onnx", "safetensors", "latency"}
    assert done["stablehlo"]["largest_hu"] == 0
    assert [r["form"] for r in done["latency"]["rows"]] == ["JAX", "StableHLO", "onnxruntime"]
    assert all(r["median_ms"] > 0 for r in done["latency"]["rows"])
    hu = noisy(anatomy(0, n=2), 20, 0)
    expected = load(checkpoint)(hu)
    np.testing.assert_allclose(load(out / "model.stablehlo")(hu), expected, atol=1e-3)
    np.testing.assert_allclose(load(out / "model.onnx")(hu), expected, atol=0.05)
    assert cli(export) == 2
    assert "exists: choose another OUT folder, or say --overwrite" in capsys.readouterr().err
    assert cli([*export, "--overwrite", "--format", "safetensors"]) == 0
    said = capsys.readouterr().out
    assert "largest difference 0 HU" in said
    assert f"checkpoint sha256 {load(checkpoint).digest[:16]}" in said
    assert cli(["export", str(tmp_path / "no"), str(tmp_path / "o")]) == 2
    assert cli(["export", run, str(out), "--size", "64"]) == 2


def test_the_latency_table_names_what_was_measured(small):
    from ldct_jax.export.latency import measure, table

    text = table(measure(small, size=(64, 64), repeats=3))
    assert "64x64" in text and "onnxruntime" in text and "median of 3" in text
