"""Augmentations inside the compiled step, each patch from its own key.

A patch's key is a function of (seed, epoch, index): batch, number of devices and feed don't change
its transform. Both images of a pair get the same one; ``noise_25`` alone changes one of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from ldct_jax.errors import UsageError

MAX_SHIFT = 0.25  # of the side: 128 of 512 pixels
MAX_TILT = 10.0  # degrees
MAX_OFFSET = 0.25  # of the window


def _dihedral(key, images_khw):
    """One of the eight symmetries of the square."""
    flip, turns = jax.random.bits(key, (2,), jnp.uint8) % jnp.array([2, 4], jnp.uint8)
    images = jnp.where(flip, images_khw[:, :, ::-1], images_khw)
    return jax.lax.switch(turns, [lambda x, k=k: jnp.rot90(x, k, (1, 2)) for k in range(4)], images)


def _dihedral_offset(key, images_khw):
    """One of the eight symmetries, and up to a quarter of the window more or less on all images.

    So that tissues keep their HU whatever a network thinks that they should have.
    """
    symmetry_key, offset_key = jax.random.split(key)
    offset = jax.random.uniform(offset_key, minval=-MAX_OFFSET, maxval=MAX_OFFSET)
    return _dihedral(symmetry_key, images_khw) + offset


def _rotate_flip(key, images_khw):
    """dncnn_dose: rotation by 0 to 90 degrees, then a horizontal flip or none.

    Linear interpolation; the corners are filled from the mirrored patch.
    """
    angle_key, flip_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, maxval=jnp.pi / 2)
    images = _moved(images_khw, angle, jnp.zeros(2), mode="mirror")
    return jnp.where(jax.random.bernoulli(flip_key), images[:, :, ::-1], images)


def _shift_rotate(key, images_khw):
    """hrnet: shift by up to 128 of 512 pixels along each axis and rotation by up to ±10 degrees.

    What leaves the frame is cropped, what enters is zero (the window's lower end, air).
    """
    shift_key, angle_key = jax.random.split(key)
    limit = MAX_SHIFT * images_khw.shape[-1]
    shift = jnp.round(jax.random.uniform(shift_key, (2,), minval=-limit, maxval=limit))
    tilt = jnp.deg2rad(MAX_TILT)
    angle = jax.random.uniform(angle_key, minval=-tilt, maxval=tilt)
    return _moved(images_khw, angle, shift, mode="constant")


def _noise_25(key, images_khw):
    """Fresh Gaussian noise of σ = 25 of 255 grey levels on the second, clean image.

    dncnn_dose's training on photographs: no patch is seen twice with the same noise.
    """
    full = images_khw[1]
    return jnp.stack([full + 25 / 255 * jax.random.normal(key, full.shape, full.dtype), full])


def _moved(images_khw, angle, shift, *, mode: str):
    """Rotate by ``angle`` (radians) about the centre, then shift by (rows, columns)."""
    height, width = images_khw.shape[1:]
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    away = grid - centre - shift
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source = away @ jnp.array([[cos, -sin], [sin, cos]]) + centre

    def one(image):
        return map_coordinates(image, [source[..., 0], source[..., 1]], order=1, mode=mode)

    return jax.vmap(one)(images_khw)


AUGMENTATIONS = {
    "none": None,
    "dihedral": _dihedral,
    "dihedral_offset": _dihedral_offset,
    "rotate_flip": _rotate_flip,
    "shift_rotate": _shift_rotate,
    "noise_25": _noise_25,
}


def augment(name: str, seed_key, epoch, indices, low_bhw, full_bhw):
    """Low- and normal-dose patches (B, S, S), each pair changed by the same random transform."""
    check(name)
    transform = AUGMENTATIONS[name]
    if transform is None:
        return low_bhw, full_bhw
    epoch_key = jax.random.fold_in(seed_key, epoch)

    def one(index, low, full):
        pair = transform(jax.random.fold_in(epoch_key, index), jnp.stack([low, full]))
        return pair[0], pair[1]

    return jax.vmap(one)(indices, low_bhw, full_bhw)


def check(name: str) -> None:
    """Raise UsageError for a name that isn't in :data:`AUGMENTATIONS`."""
    if name not in AUGMENTATIONS:
        raise UsageError(f"augment={name!r}: use one of {', '.join(AUGMENTATIONS)}")
