"""Augmentations inside the compiled step, each patch from its own key.

A patch's key is a function of (seed, epoch, index): the same patch turns the same way whatever
the batch, the number of devices, or the feeder.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ldct_jax.errors import UsageError


def _dihedral(key, images_khw):
    """One of the eight symmetries of the square, the same for all images (K, S, S)."""
    flip, turns = jax.random.bits(key, (2,), jnp.uint8) % jnp.array([2, 4], jnp.uint8)
    images = jnp.where(flip, images_khw[:, :, ::-1], images_khw)
    return jax.lax.switch(turns, [lambda x, k=k: jnp.rot90(x, k, (1, 2)) for k in range(4)], images)


AUGMENTATIONS = {"none": None, "dihedral": _dihedral}


def augment(name: str, seed_key, epoch, indices, low_bhw, full_bhw):
    """Low- and normal-dose patches (B, S, S), each pair changed by the same random transform."""
    if name not in AUGMENTATIONS:
        raise UsageError(f"augment={name!r}: use one of {', '.join(AUGMENTATIONS)}")
    transform = AUGMENTATIONS[name]
    if transform is None:
        return low_bhw, full_bhw
    epoch_key = jax.random.fold_in(seed_key, epoch)

    def one(index, low, full):
        pair = transform(jax.random.fold_in(epoch_key, index), jnp.stack([low, full]))
        return pair[0], pair[1]

    return jax.vmap(one)(indices, low_bhw, full_bhw)
