"""Every network of the five papers under one name, with the parameter count that proves its wiring.

``ldct models`` prints this table; nothing else looks networks up by these names.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.cpce import CPCE, MAPNN
from ldct_jax.models.critic import Critic
from ldct_jax.models.dcscn import DCSCN
from ldct_jax.models.dncnn import CNN10, DnCNN
from ldct_jax.models.drl import DRL
from ldct_jax.models.hrnet import HRNet
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.models.unet import UNet
from ldct_jax.models.vgg import BLOCKS_1_TO_4, DEEPEST, VGG
from ldct_jax.models.wgan_vgg import CNNL1, WGANVGG


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network: how to build it, where it is described, and its expected counts.

    ``side`` and ``channels`` are an input it accepts; ``denoises`` is False for critics and
    feature extractors.
    """

    build: Callable[[], nn.Module]
    paper: str
    parameters: int
    batch_stats: int = 0
    side: int = 64
    channels: int = 1
    denoises: bool = True

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (1, self.side, self.side, self.channels)


def _pcn(parameters: int, **fields) -> Entry:
    return Entry(functools.partial(ClonesNet, **fields), "pcn", parameters)


def _scn(parameters: int, **fields) -> Entry:
    fields = {"transfer": "image", "coupled": False, "residual": "incremental"} | fields
    return _pcn(parameters, **fields)


def _critic(parameters: int, paper: str, side: int = 64, **fields) -> Entry:
    return Entry(functools.partial(Critic, **fields), paper, parameters, side=side, denoises=False)


def _vgg(parameters: int, depth: int, layers: tuple[str, ...], paper: str) -> Entry:
    build = functools.partial(VGG, depth, layers)
    return Entry(build, paper, parameters, channels=3, denoises=False)


CATALOGUE: dict[str, Entry] = {
    "pcn": _pcn(187_921),
    "pcn_64": _pcn(333_505, n_filters=64),
    "pcn_80": _pcn(520_561, n_filters=80),
    "pcn_96": _pcn(749_089, n_filters=96),
    "pcn_layers4": _pcn(63_217, n_layers=4),
    "pcn_layers6": _pcn(104_785, n_layers=6),
    "pcn_layers8": _pcn(146_353, n_layers=8),
    "pcn_layers10": _pcn(187_921, n_layers=10),
    "pcn_layers12": _pcn(229_489, n_layers=12),
    "pcn_layers14": _pcn(271_057, n_layers=14),
    "pcn_layers16": _pcn(312_625, n_layers=16),
    "pcn_image": _pcn(167_617, transfer="image"),
    "pcn_cpce": _pcn(206_545, backbone="cpce"),
    "scn": _scn(167_185),
    "scn_64": _scn(296_641, n_filters=64),
    "scn_80": _scn(462_961, n_filters=80),
    "scn_96": _scn(666_145, n_filters=96),
    "scn_coupled": _scn(167_617, coupled=True),
    "scn_feature": _scn(167_185, transfer="feature"),
    "redcnn": Entry(REDCNN, "pcn", 1_848_865),
    "cpce": Entry(CPCE, "pcn", 62_016),
    "mapnn": Entry(MAPNN, "pcn", 62_016),
    "dncnn17": Entry(functools.partial(DnCNN, 17), "pcn, dncnn_dose", 557_057, 1_920),
    "dncnn20": Entry(functools.partial(DnCNN, 20), "dncnn_dose", 668_225, 2_304),
    "wgan_vgg": Entry(WGANVGG, "dcswgan", 55_872),
    "wgan_vgg_bias": Entry(functools.partial(WGANVGG, use_bias=True), "dcswgan", 56_097),
    "cnn_l1": Entry(CNNL1, "dcswgan", 56_097),
    "dcscn": Entry(DCSCN, "dcswgan", 25_906),
    "dcscn_prelu": Entry(functools.partial(DCSCN, activation="prelu"), "dcswgan", 26_077),
    "drl": Entry(DRL, "cascade_drl", 224_961, 640),
    "cnn10": Entry(CNN10, "cascade_drl", 334_721, 1_152),
    "cnn10_2ch": Entry(
        functools.partial(CNN10, in_channels=2), "cascade_drl", 335_297, 1_152, channels=2
    ),
    "hrnet": Entry(HRNet, "hrnet", 2_674_113),
    "hrnet_all": Entry(functools.partial(HRNet, new_scale="all"), "hrnet", 3_523_009),
    "unet": Entry(UNet, "hrnet", 30_658_849, side=512),
    "critic64": _critic(17_923_521, "dcswgan", size=64),
    "critic80": _critic(27_360_705, "dcswgan", side=80, size=80),
    "critic_patch": _critic(1_408_449, "pcn", flatten=False),
    "vgg16": _vgg(7_635_264, 16, BLOCKS_1_TO_4, "cascade_drl"),
    "vgg19": _vgg(20_024_384, 19, DEEPEST[19], "dcswgan"),
}


def count(variables) -> tuple[int, int]:
    """(parameters, batch statistics) in a tree of variables or of their shapes."""

    def size(name):
        return sum(leaf.size for leaf in jax.tree.leaves(variables.get(name, {})))

    return size("params"), size("batch_stats")


def shapes(model: nn.Module, input_shape):
    """The shapes (variables, input) of ``model`` for one input shape; nothing is computed."""
    x = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x), x


def parameter_count(model: nn.Module, input_shape=(1, 64, 64, 1)) -> tuple[int, int]:
    """(parameters, batch statistics) of ``model``, found without computing anything."""
    return count(shapes(model, input_shape)[0])


def receptive_field(model: nn.Module) -> int | None:
    """Side, in pixels, of the input square that one output value sees; None: the whole image."""
    if isinstance(model, ClonesNet):
        # F^l and O take (k-1)/2 pixels on each side once, F^h its layers' with every clone; with
        # image transfer every clone runs all its layers.
        once, each = (0, model.n_layers) if model.transfer == "image" else (2, model.n_layers - 2)
        return (model.kernel_size - 1) * (once + each * model.n_clones) + 1
    return model.receptive_field
