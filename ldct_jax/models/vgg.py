"""VGG-16 and VGG-19 up to their last convolution, as feature extractors for perceptual losses.

Weights are never part of this package and never random: they come from a file that says for which
preprocessing they were trained (``ldct data vgg`` fetches one). Simonyan & Zisserman 2015.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import Conv, check_images, max_pool2, relu
from ldct_jax.models.tensor_files import FileTensors, read_tensors
from ldct_jax.system.accelerator import cache_folder

# Convolutions of each block, and the channels of a block.
BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
# The four of cascade_drl, III-C; and what stands for VGG-19's 16th convolution in VGG-16.
BLOCKS_1_TO_4 = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3")
DEEPEST = {16: ("block5_conv3",), 19: ("block5_conv4",)}

# A weights name that begins so is the sha256 of the tensors in the user's cache folder.
BY_DIGEST = "sha256:"

# Channel means and deviations of images in [0, 1]; caffe's channels come in the order B, G, R.
PREPROCESSING = {
    "caffe": (255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "imagenet": (1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def layer_names(depth: int) -> list[str]:
    """``block1_conv1`` … ``block5_conv3`` (16) or ``block5_conv4`` (19), in order."""
    if depth not in BLOCKS:
        raise UsageError(f"VGG-{depth}: there are VGG-16 and VGG-19")
    return [
        f"block{b}_conv{k}" for b, n in enumerate(BLOCKS[depth], start=1) for k in range(1, n + 1)
    ]


class VGG(nn.Module):
    """Preprocessed (B, H, W, 3) → the outputs of ``layers`` after their ReLU, a tuple.

    3x3 convolutions with biases, zero padding, 2x2 maxima between the blocks. The convolutions up
    to the last of ``layers`` exist: 7,635,264 parameters for VGG-16 to block4_conv3, 20,024,384
    for all 16 convolutions of VGG-19.
    """

    depth: int = 16
    layers: tuple[str, ...] = BLOCKS_1_TO_4
    dtype: Any = jnp.float32

    @nn.nowrap
    def needed(self) -> list[str]:
        """The convolutions up to the last of ``layers``, in order."""
        names = layer_names(self.depth)
        if unknown := [name for name in self.layers if name not in names]:
            raise UsageError(
                f"VGG-{self.depth} has no layer {', '.join(unknown)}: there are {', '.join(names)}"
            )
        if not self.layers:
            raise UsageError("name at least one layer of VGG")
        return names[: max(names.index(name) for name in self.layers) + 1]

    @property
    def receptive_field(self) -> int:
        """Side of the input square that one feature of the deepest layer sees, in pixels."""
        field, jump, block = 1, 1, 1
        for name in self.needed():
            if int(name[5]) != block:
                field, jump, block = field + jump, 2 * jump, int(name[5])
            field += 2 * jump
        return field

    @nn.compact
    def __call__(self, x_bhw3, train: bool = False):
        names = self.needed()
        check_images(x_bhw3, "VGG", channels=3, min_side=2 ** (int(names[-1][5]) - 1))
        h, outputs, block = x_bhw3, {}, "1"
        for name in names:
            if name[5] != block:
                h, block = max_pool2(h), name[5]
            features = CHANNELS[int(block) - 1]
            conv = Conv(h.shape[-1], features, padding="same", dtype=self.dtype, name=name)
            h = outputs[name] = relu(conv(h))
        return tuple(outputs[name] for name in self.layers)


def preprocess(x_bhw1, kind: str):
    """Grey images in [0, 1], (B, H, W, 1), → what VGG's weights expect, (B, H, W, 3), float32."""
    if kind not in PREPROCESSING:
        raise UsageError(
            f"preprocessing {kind!r}: the weights file must say one of {', '.join(PREPROCESSING)}"
        )
    scale, mean, deviation = (np.asarray(v, np.float32) for v in PREPROCESSING[kind])
    rgb = jnp.repeat(x_bhw1.astype(jnp.float32), 3, axis=-1)
    return (rgb * scale - mean) / deviation


@dataclasses.dataclass(frozen=True)
class VGGFeatures:
    """Grey images in network units (B, H, W, 1) → VGG's feature maps, from a weights file.

    For :class:`ldct_jax.losses.Perceptual`. The grey channel is repeated three times.

    Args:
      weights: ``sha256:…`` of the tensors that ``ldct data vgg`` keeps in the user's cache folder
        (so that a run's record names no folder of one machine), or a file of one of the kinds
        that :func:`load_vgg` reads.
      layers: which outputs, after their ReLU.
      depth: 16 or 19.
      preprocessing: ``caffe``, ``imagenet`` or ``none``, needed where the file doesn't say.
      dtype: computing type of the convolutions.
    """

    weights: str
    layers: tuple[str, ...] = BLOCKS_1_TO_4
    depth: int = 16
    preprocessing: str | None = None
    dtype: Any = jnp.float32

    def network(self) -> VGG:
        return VGG(self.depth, tuple(self.layers), self.dtype)

    def __call__(self, x_bhw1):
        network = self.network()
        params, kind = load_vgg(self.weights, network, self.preprocessing)
        return network.apply({"params": params}, preprocess(x_bhw1, kind))


def needs_fetched(loss: Any) -> bool:
    """Whether a loss, or any loss inside it, needs the weights that ``ldct data vgg`` keeps."""
    if isinstance(loss, VGGFeatures):
        return loss.weights.startswith(BY_DIGEST)
    if isinstance(loss, tuple):
        return any(needs_fetched(part) for part in loss)
    if not dataclasses.is_dataclass(loss):
        return False
    return any(needs_fetched(getattr(loss, field.name)) for field in dataclasses.fields(loss))


def kept_file() -> Path:
    """Where fetched weights are kept: ``vgg16.npz`` in the user's cache folder of this package."""
    return cache_folder() / "vgg16.npz"


def tensors_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of VGG-16's kernels and biases (``block1_conv1/kernel``, …) in their order."""
    sha = hashlib.sha256()
    for name in layer_names(16):
        for part in ("kernel", "bias"):
            sha.update(np.ascontiguousarray(arrays[f"{name}/{part}"], "<f4").tobytes())
    return sha.hexdigest()


def load_vgg(path: str | Path, network: VGG, preprocessing: str | None = None) -> tuple[dict, str]:
    """(params of ``network``, preprocessing) from a weights file.

    Layouts that are recognised by their names: ours and Keras' ``block1_conv1`` (.npz, .h5,
    .safetensors, kernels HWIO), ONNX (kernels OIHW, block names in the tensors' names), and
    torchvision's ``features.0.weight`` (OIHW; .npz or .safetensors made of its .pth). A file may
    state its preprocessing (see :mod:`ldct_jax.models.tensor_files`); one that doesn't needs the
    argument, and one that says something else is refused.
    """
    params, stated = _load(str(path), network.depth, tuple(network.needed()))
    if stated is None and preprocessing is None:
        raise UsageError(
            f"{path} doesn't say for which preprocessing its weights were trained: pass "
            f"preprocessing= one of {', '.join(PREPROCESSING)}"
        )
    if stated is not None and preprocessing not in (None, stated):
        raise UsageError(f"{path} says preprocessing {stated!r}, not {preprocessing!r}")
    return params, stated or preprocessing


@functools.lru_cache(maxsize=2)
def _load(path: str, depth: int, needed: tuple[str, ...]) -> tuple[dict, str | None]:
    wanted = path.removeprefix(BY_DIGEST) if path.startswith(BY_DIGEST) else None
    if wanted is not None:
        path = str(kept_file())
    if not Path(path).is_file():
        raise UsageError(
            f"no VGG weights at {path}: `ldct data vgg` fetches VGG-16's, or name a file of yours"
        )
    tensors = read_tensors(path)
    if wanted is not None and tensors_digest(tensors.arrays) != wanted:
        raise UsageError(f"{path} holds other weights than the {wanted[:12]}… of this run")
    shapes = dict(zip(layer_names(depth), _shapes(depth), strict=True))
    params = {}
    for index, name in enumerate(layer_names(depth)):
        if name not in needed:
            continue
        kernel, bias = _pick(tensors, name, _torchvision_index(depth, index), path)
        if kernel.shape != shapes[name] or bias.shape != shapes[name][-1:]:
            raise UsageError(
                f"{path}: {name} has a kernel {kernel.shape} and bias {bias.shape}, VGG-{depth} "
                f"needs {shapes[name]} and {shapes[name][-1:]}"
            )
        params[name] = {
            "kernel": np.ascontiguousarray(kernel, np.float32),
            "bias": np.ascontiguousarray(bias, np.float32),
        }
    return params, tensors.preprocessing


def _shapes(depth: int) -> list[tuple[int, int, int, int]]:
    channels = [c for c, n in zip(CHANNELS, BLOCKS[depth], strict=True) for _ in range(n)]
    return [(3, 3, i, o) for i, o in zip([3, *channels], channels, strict=False)]


def _torchvision_index(depth: int, index: int) -> int:
    """The number of convolution ``index`` in torchvision's ``features``: ReLUs and pools count."""
    position, left = 0, index
    for n in BLOCKS[depth]:
        if left < n:
            return position + 2 * left
        position, left = position + 2 * n + 1, left - n
    raise IndexError(index)


def _pick(tensors: FileTensors, name: str, torchvision: int, path):
    """(kernel HWIO, bias) of layer ``name``, whatever the file calls them."""
    weight = f"features.{torchvision}.weight"
    if weight in tensors.arrays:
        kernel, bias = tensors.arrays[weight], tensors.arrays[f"features.{torchvision}.bias"]
        return kernel.transpose(2, 3, 1, 0), bias
    # Keras writes block1_conv1/block1_conv1/kernel:0, block1_conv1_W_1:0, …; its ONNX exports
    # functional_1/block1_conv1_1/….
    own = [a for key, a in tensors.arrays.items() if name in key]
    kernels, biases = [a for a in own if a.ndim == 4], [a for a in own if a.ndim == 1]
    if len(kernels) != 1 or len(biases) != 1:
        raise UsageError(
            f"{path} has {len(kernels)} kernels and {len(biases)} biases for {name} (or {weight}): "
            "it doesn't hold VGG's weights in a layout that ldct_jax knows"
        )
    kernel = kernels[0].transpose(2, 3, 1, 0) if tensors.kernels == "OIHW" else kernels[0]
    return kernel, biases[0]
