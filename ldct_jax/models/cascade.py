"""Cascades: denoisers in series, trained one after the other (cascade_drl; Wu et al.)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import check_images


class Cascade(nn.Module):
    """Stage after stage on the result of the one before: (B, H, W, 1) → (B, H, W, 1), float32.

    Stages are denoisers (image → image). With ``concat`` every stage but the first receives two
    channels, [x_D, x_L]: the result so far and the noisy image (Wu's cascade). ``blend`` is the
    share of the prediction in the result, the rest is the noisy image (0.7 in cascade_drl,
    Fig. 6; 1: no blending).

    Training is stage by stage: ``head(i)`` is the frozen part that makes the inputs of stage i,
    :func:`join` puts the trained variables together. ``train`` therefore reaches the last stage
    only: those before it run on their own statistics.
    """

    stages: tuple[nn.Module, ...]
    concat: bool = False
    blend: float = 1.0

    @property
    def receptive_field(self) -> int | None:
        """Side of the input square that one output pixel sees; None: the whole image."""
        fields = [stage.receptive_field for stage in self.stages]
        return None if None in fields else sum(f - 1 for f in fields) + 1

    @nn.nowrap
    def head(self, n_stages: int) -> Cascade:
        """The first ``n_stages`` stages, without blending; takes ``join(variables[:n_stages])``."""
        return Cascade(self.stages[:n_stages], concat=self.concat)

    def __call__(self, x_bhw1, train: bool = False):
        if not self.stages:
            raise UsageError("a cascade needs at least one stage")
        if len({id(stage) for stage in self.stages}) < len(self.stages):
            raise UsageError(
                "one object stands twice in a cascade's stages and would share its weights: make "
                "each stage its own object, as in stage.copy()"
            )
        if not 0.0 <= self.blend <= 1.0:
            raise UsageError(f"blend={self.blend}: the prediction's share lies between 0 and 1")
        check_images(x_bhw1, "a cascade")
        noisy = denoised = x_bhw1.astype(jnp.float32)
        for i, stage in enumerate(self.stages):
            inputs = stage_inputs(denoised, noisy) if self.concat and i else denoised
            out = stage(inputs, train=train and i == len(self.stages) - 1)
            denoised = out[-1] if out.ndim == 5 else out
        return denoised if self.blend == 1.0 else self.blend * denoised + (1 - self.blend) * noisy


def stage_inputs(denoised_bhw1, noisy_bhw1):
    """What a stage of a concatenating cascade receives: [x_D, x_L], (B, H, W, 2)."""
    return jnp.concatenate([denoised_bhw1, noisy_bhw1], axis=-1)


def join(stage_variables: Sequence[Mapping]) -> dict:
    """The variables of a cascade from those of its stages, in order."""
    joined: dict = {}
    for i, variables in enumerate(stage_variables):
        for collection, tree in variables.items():
            joined.setdefault(collection, {})[f"stages_{i}"] = tree
    return joined


def split(variables: Mapping) -> list[dict]:
    """The variables of each stage, the inverse of :func:`join`."""
    names = sorted(
        {name for tree in variables.values() for name in tree},
        key=lambda name: int(name.rpartition("_")[2]),
    )
    return [
        {collection: tree[name] for collection, tree in variables.items() if name in tree}
        for name in names
    ]
