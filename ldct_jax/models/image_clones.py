"""Any denoiser as the clone of a sequential clone network (Li & Wang, section II-A)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import check_images, unrolling


class ImageClones(nn.Module):
    """``base``, T times in series with shared weights: (B, H, W, 1) → (T, B, H, W, 1).

    The last image is the result. For every network that maps an image to an image of the same
    size; RED-CNN and CPCE bodies with feature transfer are
    :class:`ldct_jax.models.clones.ClonesNet`. Clone t receives x_{t-1} (image transfer, eq. 11);
    with ``coupled`` the two channels [y, x_{t-1}] (eq. 16), where a base such as DnCNN or DRL
    with ``in_channels=2`` takes its residual from the first channel, y: the brute-force residual
    of eq. 23. BatchNorm's running statistics pass through all clones.
    ``unroll``: see :func:`ldct_jax.models.layers.unrolling`.
    """

    base: nn.Module
    n_clones: int = 4
    coupled: bool = False
    unroll: int | None = None

    @property
    def receptive_field(self) -> int | None:
        """Side of the input square that one output pixel sees; None: the whole image."""
        field = self.base.receptive_field
        return None if field is None else (field - 1) * self.n_clones + 1

    @nn.compact
    def __call__(self, x_bhw1, train: bool = False):
        if self.n_clones < 1:
            raise UsageError(f"n_clones={self.n_clones}: one clone is the least")
        check_images(x_bhw1, "a clone network")
        y = x_bhw1.astype(jnp.float32)

        def step(base, x, _):
            out = base(jnp.concatenate([y, x], axis=-1) if self.coupled else x, train=train)
            if out.shape != x.shape:
                raise UsageError(
                    f"{type(base).__name__} makes {tuple(out.shape)} of {tuple(x.shape)}: only a "
                    "network that keeps the image's size can be a clone"
                )
            return out, out

        if self.is_initializing():
            # A loop's carry must not grow: the running statistics have to exist before it.
            step(self.base, y, None)
        # Running statistics that are only read are the same in every round.
        updates = self.is_mutable_collection("batch_stats")
        scan = nn.scan(
            step,
            variable_broadcast="params" if updates else ("params", "batch_stats"),
            variable_carry="batch_stats" if updates else False,
            split_rngs={"params": False},
            length=self.n_clones,
            unroll=unrolling(self.n_clones, self.unroll),
        )
        return scan(self.base, y, None)[1]
