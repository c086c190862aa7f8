"""Weights of public PyTorch RED-CNN and DnCNN models → variables of ours.

The input is a file of named tensors (:mod:`ldct_jax.models.tensor_files`), made of a .pth by
``experiments/speed/pth_to_npz.py``, which reads it with ``weights_only=True``.
"""

from __future__ import annotations

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.errors import UsageError
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.models.redcnn import DEPTH, REDCNN
from ldct_jax.models.tensor_files import read_tensors


def import_torch(model: nn.Module, path: str | Path) -> dict:
    """Variables of ``model`` (REDCNN, DnCNN or CNN10) from a public PyTorch model's tensors.

    RED-CNN: ``conv1 … conv5`` and ``tconv1 … tconv5`` (also ``deconv``); torch's transposed
    kernels are flipped. DnCNN: convolutions and BatchNorms in the order of their numbers,
    whatever the prefix; a convolution without bias gets zeros, and where the BatchNorms have been
    merged into the convolutions, identities take their place. Raises UsageError where a tensor
    is missing, left over or of another shape. The images' scale is the trained one's: RED-CNN's
    public code trains on [0, 1] of a [-1024, 3072] HU window, DnCNN's on [0, 1].
    """
    arrays = {
        re.sub(r"^(module|model_state_dict|state_dict)\.", "", name): value
        for name, value in read_tensors(path).arrays.items()
        if not name.endswith("num_batches_tracked")
    }
    if isinstance(model, REDCNN):
        variables = _redcnn(arrays, str(path))
    elif isinstance(model, DnCNN):
        variables = _dncnn(model, arrays, str(path))
    else:
        raise UsageError(
            f"{type(model).__name__}: public PyTorch weights are imported for REDCNN, DnCNN, CNN10"
        )
    _check(model, variables, str(path))
    return variables


def _redcnn(arrays: dict, path: str) -> dict:
    params, used = {}, set()
    for i in range(1, DEPTH + 1):
        for ours, theirs in (
            (f"conv{i}", (f"conv{i}",)),
            (f"deconv{i}", (f"tconv{i}", f"deconv{i}")),
        ):
            name = next((n for n in theirs if f"{n}.weight" in arrays), None)
            if name is None:
                raise UsageError(f"{path} has no {' or '.join(f'{n}.weight' for n in theirs)}")
            weight, bias = arrays[f"{name}.weight"], arrays.get(f"{name}.bias")
            used |= {f"{name}.weight", f"{name}.bias"}
            if ours.startswith("conv"):
                kernel = weight.transpose(2, 3, 1, 0)
            else:
                # torch stores (in, out, h, w), and its transposed convolution flips.
                kernel = weight.transpose(2, 3, 0, 1)[::-1, ::-1]
            bias = np.zeros(kernel.shape[-1]) if bias is None else bias
            params[ours] = {"kernel": kernel, "bias": bias}
    if left := set(arrays) - used:
        raise UsageError(f"{path} is no RED-CNN: it also has {', '.join(sorted(left)[:3])}")
    return {"params": _float32(params)}


def _dncnn(model: DnCNN, arrays: dict, path: str) -> dict:
    layers: dict[tuple, dict] = {}
    for name, value in arrays.items():
        prefix, _, part = name.rpartition(".")
        order = tuple(int(n) for n in re.findall(r"\d+", prefix))
        layers.setdefault((order, prefix), {})[part] = value
    ordered = [parts for _, parts in sorted(layers.items())]
    convs = [p for p in ordered if p.get("weight", np.empty(0)).ndim == 4]
    norms = [p for p in ordered if "running_mean" in p]
    if len(convs) != model.depth or len(norms) not in (0, model.depth - 2):
        raise UsageError(
            f"{path} has {len(convs)} convolutions and {len(norms)} BatchNorms: that is no DnCNN "
            f"of depth {model.depth}"
        )
    params, stats = {}, {}
    for i, conv in enumerate(convs, start=1):
        kernel = conv["weight"].transpose(2, 3, 1, 0)
        bias = conv.get("bias", np.zeros(kernel.shape[-1]))
        params[f"conv{i}"] = {"kernel": kernel, "bias": bias}
        if 1 < i < model.depth:
            n = kernel.shape[-1]
            # An identity: BatchNorm divides by sqrt(1 + ε), so its scale takes that back.
            identity = {
                "weight": np.full(n, np.sqrt(1.0 + model.epsilon)),
                "bias": np.zeros(n),
                "running_mean": np.zeros(n),
                "running_var": np.ones(n),
            }
            norm = norms[i - 2] if norms else identity
            params[f"bn{i}"] = {"scale": norm["weight"], "bias": norm["bias"]}
            stats[f"bn{i}"] = {"mean": norm["running_mean"], "var": norm["running_var"]}
    return {"params": _float32(params), "batch_stats": _float32(stats)}


def _float32(tree):
    return jax.tree.map(lambda a: np.ascontiguousarray(a, np.float32), tree)


def _check(model, variables, path: str) -> None:
    images = jax.ShapeDtypeStruct((1, 64, 64, getattr(model, "in_channels", 1)), jnp.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), images)
    wanted = {jax.tree_util.keystr(k): v.shape for k, v in jax.tree.leaves_with_path(expected)}
    got = {jax.tree_util.keystr(k): v.shape for k, v in jax.tree.leaves_with_path(variables)}
    for name in sorted(set(wanted) | set(got)):
        if wanted.get(name) != got.get(name):
            raise UsageError(
                f"{path}: {name} has shape {got.get(name)}, this {type(model).__name__} needs "
                f"{wanted.get(name)}"
            )
