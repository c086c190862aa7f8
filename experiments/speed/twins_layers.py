"""Layers of the PyTorch twins, and the transport of weights between the two frameworks.

A twin's submodules have the names of the Flax tree, so that one pair of functions moves all
weights. Needs torch and numpy only.

Where the frameworks differ, by layer:
  convolution              torch (out, in, h, w)  <-  flax (h, w, in, out)
  transposed convolution   torch (in, out, h, w), flipped in h and w; ours is stored unflipped
  stride 2, "same"         ours pads (1, 1) as torch does; flax's own SAME pads (0, 1)
  BatchNorm                torch momentum 0.1 = flax 0.9; torch's running variance is unbiased
  Linear                   transposed; a flattened map counts (h, w, c) in ours
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import batch_norm


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm with flax's conventions: its momentum, and biased running variances."""

    def __init__(self, features: int, momentum: float, epsilon: float):
        super().__init__(features, eps=epsilon, momentum=1.0 - momentum)

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            variance, mean = torch.var_mean(x, (0, 2, 3), unbiased=False)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


def conv(inputs, outputs, k=3, padding="valid", stride=1, dilation=1, bias=True):
    reach = dilation * (k - 1) // 2 if padding == "same" else 0
    return nn.Conv2d(inputs, outputs, k, stride, reach, dilation, bias=bias)


def deconv(inputs, outputs, k=3, bias=True):
    return nn.ConvTranspose2d(inputs, outputs, k, bias=bias)


def load_flax(module: nn.Module, variables: dict) -> nn.Module:
    """Copy Flax variables ({"params": …, "batch_stats": …}, arrays or numpy) into a twin."""
    filled = 0
    with torch.no_grad():
        for layer, group, ours, tensor, transform in _leaves(module):
            value = _at(variables[group], layer)[ours]
            tensor.copy_(torch.from_numpy(transform(np.array(value, np.float32)).copy()))
            filled += 1
    total = sum(_count(tree) for tree in variables.values())
    if filled != total:
        raise ValueError(f"the twin has {filled} tensors, the Flax variables {total}")
    return module


def to_flax(module: nn.Module, gradients: bool = False) -> dict:
    """The Flax variables of a twin as numpy arrays, or its gradients in the same tree."""
    tree: dict = {}
    for layer, group, ours, tensor, transform in _leaves(module, inverse=True):
        if gradients and group != "params":
            continue
        value = tensor.grad if gradients else tensor
        node = tree.setdefault(group, {})
        for part in layer.split("."):
            node = node.setdefault(part, {})
        node[ours] = np.ascontiguousarray(transform(value.detach().cpu().float().numpy()))
    return tree


def _leaves(module, inverse: bool = False):
    """(layer name, group, Flax name, tensor, transform to or from torch's layout)."""

    def same(a):
        return a

    for name, layer in module.named_modules():
        if isinstance(layer, nn.ConvTranspose2d):
            weight = ("kernel", _deconv_from if inverse else _deconv_to)
        elif isinstance(layer, nn.Conv2d):
            weight = ("kernel", _conv_from if inverse else _conv_to)
        elif isinstance(layer, nn.Linear):
            weight = ("kernel", np.transpose)
        elif isinstance(layer, nn.BatchNorm2d):
            weight = ("scale", same)
            yield name, "batch_stats", "mean", layer.running_mean, same
            yield name, "batch_stats", "var", layer.running_var, same
        elif isinstance(layer, nn.PReLU):
            weight = ("slope", same)
        else:
            continue
        yield name, "params", weight[0], layer.weight, weight[1]
        if getattr(layer, "bias", None) is not None:
            yield name, "params", "bias", layer.bias, same


def _conv_to(kernel):
    return kernel.transpose(3, 2, 0, 1)


def _conv_from(weight):
    return weight.transpose(2, 3, 1, 0)


def _deconv_to(kernel):
    return kernel[::-1, ::-1].transpose(2, 3, 0, 1)


def _deconv_from(weight):
    return weight.transpose(2, 3, 0, 1)[::-1, ::-1]


def _at(tree, path: str):
    for part in path.split("."):
        tree = tree[part]
    return tree


def _count(tree) -> int:
    return sum(_count(v) for v in tree.values()) if hasattr(tree, "values") else 1


def images(x_bhw1) -> torch.Tensor:
    """(B, H, W, C) numpy → (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x_bhw1), -1, 1)))


def images_back(x: torch.Tensor) -> np.ndarray:
    """(…, C, H, W) → (…, H, W, C) numpy."""
    return np.moveaxis(x.detach().cpu().float().numpy(), -3, -1)
