"""Artefacts that are the network, to the bit or verified."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.errors import LdctError, UsageError
from ldct_jax.export import artefacts, onnx_model, stablehlo, verify
from ldct_jax.export.source import twin_for_onnx
from ldct_jax.hu import DCSWGAN, FULL, Window
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.models.image_clones import ImageClones
from ldct_jax.models.noise_scaled import NoiseScaled
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.models.unet import UNet
from ldct_jax.models.wgan_vgg import WGANVGG
from ldct_jax.record import from_record, to_record
from tests.export.networks import SMALL, hu_images, source_of


@pytest.mark.promise("export")
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


@pytest.mark.promise("export")
@pytest.mark.core
def test_onnx_is_the_network_for_any_batch(small, exported):
    function = jax.jit(small.function())
    load_ = artefacts.load(exported / "model.onnx")
    for batch in (1, 3):
        hu = hu_images(batch, 64, 64)
        difference = np.abs(load_.compute(hu) - np.asarray(function(hu))).max()
        assert difference <= onnx_model.MAX_HU
    with pytest.raises(UsageError, match="takes slices of 64x64 pixels, not 64x80"):
        load_.compute(hu_images(1, 64, 80))


def test_onnx_keeps_shared_weights_once(small, exported):
    """Two clones, one set of weights: the file is hardly larger than the parameters."""
    parameters = sum(a.nbytes for a in jax.tree.leaves(small.variables))
    import onnx

    model = onnx.load(exported / "model.onnx")
    weights = [t for t in model.graph.initializer if list(t.dims[:2]) == [3, 3]]
    assert len(weights) == 5  # conv1, two halves of conv2, deconv1, deconv2
    assert sum(4 * np.prod(t.dims) for t in weights) < parameters
    onnx.checker.check_model(model)


@pytest.mark.promise("export")
def test_safetensors_hold_the_parameters_by_name(small, exported):
    from safetensors.numpy import load_file

    arrays = load_file(exported / "model.safetensors")
    np.testing.assert_array_equal(
        arrays["params/clone/conv1/kernel"], small.variables["params"]["clone"]["conv1"]["kernel"]
    )
    card = json.loads((exported / "model.safetensors.json").read_text())
    assert card["window_record"] == to_record(FULL)
    assert from_record(card["model"]) == SMALL


@pytest.mark.core
def test_the_card_tells_window_training_range_and_checkpoint(exported):
    for name in ("model.stablehlo", "model.onnx"):
        card = artefacts.load(exported / name).card
        assert card.window == FULL and card.checkpoint == "cd" * 32
        assert card.trained_on.kernels == ("B30f",)
        assert "real CT" in card.verified and len(card.verified) == 3
        assert str(exported) not in card.text()


HU = Window(0.0, 1.0)
NETWORKS = {
    "scn": (ClonesNet(2, 2, 4, transfer="image", coupled=False, residual="incremental"), True),
    "redcnn": (REDCNN(n_filters=3), True),
    "wgan_vgg, padded by its rule": (WGANVGG(n_filters=3), False),
    # What ships; with nothing kept, since the noise is measured as well.
    "pcn in units of noise": (NoiseScaled(SMALL, routine_hu=0.0, least=0.0, mean_px=4.0), True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_export_or_are_refused(name, tmp_path):
    model, onnx_can = NETWORKS[name]
    source = source_of(model, HU if isinstance(model, NoiseScaled) else DCSWGAN)
    stablehlo.export(source, tmp_path / "a.stablehlo")
    hu = hu_images(2, 56, 50)
    np.testing.assert_array_equal(
        artefacts.load(tmp_path / "a.stablehlo").compute(hu), jax.jit(source.function())(hu)
    )
    if onnx_can:
        card = onnx_model.export(source, tmp_path / "a.onnx", size=(64, 64))
        assert max(card.verified.values()) <= onnx_model.MAX_HU
    else:
        try:
            onnx_model.export(source, tmp_path / "a.onnx", size=(64, 64))
        except LdctError:
            assert not (tmp_path / "a.onnx").exists()


def test_the_twin_of_a_network_in_another_computes_in_float32_too():
    half = ImageClones(DnCNN(depth=3, n_filters=2, dtype=jnp.bfloat16), n_clones=2)
    assert twin_for_onnx(half).base.dtype == jnp.float32


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
    assert card.verified["real CT"] <= onnx_model.MAX_HU
