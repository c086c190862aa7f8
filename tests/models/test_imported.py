"""Weights of public PyTorch RED-CNN and DnCNN models, through the converter, against torch."""

import importlib

import jax
import numpy as np
import pytest

from ldct_jax.errors import UsageError
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.dncnn import CNN10, DnCNN
from ldct_jax.models.imported import import_torch
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.models.tensor_files import read_tensors, write_npz

RNG = np.random.default_rng(0)


def public_redcnn(n=4, k=5):
    """RED-CNN as its public PyTorch code names it."""
    import torch

    torch.manual_seed(0)
    layers = {}
    for i in range(1, 6):
        layers[f"conv{i}"] = torch.nn.Conv2d(1 if i == 1 else n, n, k)
        layers[f"tconv{i}"] = torch.nn.ConvTranspose2d(n, 1 if i == 5 else n, k)
    return torch.nn.ModuleDict(layers)


def run_redcnn(net, x):
    import torch

    relu = torch.relu
    a = relu(net["conv2"](relu(net["conv1"](x))))
    b = relu(net["conv4"](relu(net["conv3"](a))))
    h = relu(net["tconv1"](relu(net["conv5"](b))) + b)
    h = relu(net["tconv3"](relu(net["tconv2"](h))) + a)
    return relu(net["tconv5"](relu(net["tconv4"](h))) + x)


def public_dncnn(depth, n, *, bias, norms):
    """DnCNN as public PyTorch codes build it: one Sequential."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(1, n, 3, padding=1, bias=bias), nn.ReLU()]
    for _ in range(depth - 2):
        layers.append(nn.Conv2d(n, n, 3, padding=1, bias=bias))
        if norms:
            norm = nn.BatchNorm2d(n)
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.3, 1.2)
            layers.append(norm)
        layers.append(nn.ReLU())
    layers.append(nn.Conv2d(n, 1, 3, padding=1, bias=bias))
    return nn.ModuleDict({"dncnn": nn.Sequential(*layers)}).eval()


def converted(net, folder, twins, wrap):
    """The weights of ``net`` through a .pth and the converter."""
    import torch

    converter = importlib.import_module("pth_to_npz")
    state = net.state_dict()
    torch.save({"state_dict": state} if wrap else state, folder / "net.pth")
    assert converter.main([str(folder / "net.pth"), str(folder / "net.npz")]) == 0
    return folder / "net.npz"


def test_public_redcnn_weights_are_imported(tmp_path, twins):
    import torch

    net = public_redcnn()
    path = converted(net, tmp_path, twins, wrap=False)
    x = RNG.uniform(0, 1, (1, 24, 25, 1)).astype(np.float32)
    variables = import_torch(REDCNN(n_filters=4), path)
    with torch.no_grad():
        theirs = twins.images_back(run_redcnn(net, twins.images(x)))
    np.testing.assert_allclose(REDCNN(n_filters=4).apply(variables, x), theirs, atol=1e-5)
    with pytest.raises(UsageError, match="needs"):
        import_torch(REDCNN(n_filters=5), path)
    with pytest.raises(UsageError, match="REDCNN, DnCNN"):
        import_torch(ClonesNet(), path)
    arrays = read_tensors(path).arrays
    write_npz(tmp_path / "more.npz", arrays | {"extra.weight": np.zeros(3)})
    with pytest.raises(UsageError, match="extra"):
        import_torch(REDCNN(n_filters=4), tmp_path / "more.npz")
    arrays.pop("tconv3.weight")
    write_npz(tmp_path / "less.npz", arrays)
    with pytest.raises(UsageError, match="no tconv3"):
        import_torch(REDCNN(n_filters=4), tmp_path / "less.npz")


@pytest.mark.parametrize(("bias", "norms"), [(False, True), (True, False), (True, True)])
def test_public_dncnn_weights_are_imported(tmp_path, twins, bias, norms):
    import torch

    net = public_dncnn(12, 4, bias=bias, norms=norms)
    path = converted(net, tmp_path, twins, wrap=True)
    x = RNG.uniform(0, 1, (1, 12, 13, 1)).astype(np.float32)
    model = DnCNN(12, 4)
    variables = import_torch(model, path)
    with torch.no_grad():
        theirs = twins.images_back(twins.images(x) - net["dncnn"](twins.images(x)))
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), theirs, atol=1e-5)
    with pytest.raises(UsageError, match="no DnCNN of depth 11"):
        import_torch(CNN10(n_filters=4), path)


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
