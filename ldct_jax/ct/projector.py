"""Forward projection after Joseph.

A ray that runs more along y than along x is sampled once in every image row, with linear
interpolation between two pixels, and otherwise once in every column; the sum is scaled by the
length of a step. The loop runs over rows, all rays at once: a row is a few hundred numbers that
stay in the nearest cache (or a GPU's), so the gathers cost little, and memory is proportional to
rays plus pixels — no view × pixel matrix.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldct_jax.ct.geometry import FanBeam
from ldct_jax.errors import UsageError

UNROLL = 8  # rows a loop step: fewer kernel launches on a GPU, fewer passes over the sums on a CPU


class _Rays(NamedTuple):
    """Rays of one marching direction: position in a padded line = first + slope · line."""

    first: np.ndarray
    slope: np.ndarray
    step_mm: np.ndarray


@functools.lru_cache(maxsize=8)
def _plan(geometry: FanBeam, height: int, width: int, pixel_mm: float):
    """Rays marched over rows, rays marched over columns, and where each (v, d) is among them."""
    theta, s = (np.asarray(a, np.float64).ravel() for a in geometry.rays())
    cos, sin = np.cos(theta), np.sin(theta)
    by_rows = np.abs(cos) >= np.abs(sin)
    order = np.concatenate([np.flatnonzero(by_rows), np.flatnonzero(~by_rows)])
    back = np.empty(len(order), np.int32)
    back[order] = np.arange(len(order), dtype=np.int32)

    c, sn, off = cos[by_rows], sin[by_rows], s[by_rows]
    # x = (s − y sin θ)/cos θ at row j, where y = (middle − j)·pixel; +1 for the padding.
    first = off / c / pixel_mm - (height - 1) / 2 * sn / c + (width - 1) / 2 + 1
    rows = _Rays(first, sn / c, pixel_mm / np.abs(c))
    c, sn, off = cos[~by_rows], sin[~by_rows], s[~by_rows]
    # y = (s − x cos θ)/sin θ at column k, where x = (k − middle)·pixel and row = middle − y/pixel.
    first = (height - 1) / 2 - off / sn / pixel_mm - (width - 1) / 2 * c / sn + 1
    columns = _Rays(first, c / sn, pixel_mm / np.abs(sn))
    to32 = functools.partial(np.asarray, dtype=np.float32)
    return _Rays(*map(to32, rows)), _Rays(*map(to32, columns)), back


def _march(lines, rays: _Rays):
    """Sum of linear interpolations over all ``lines`` (n, length) for every ray: (R,)."""
    n, length = lines.shape
    padded = jnp.pad(lines, ((0, 0), (1, 2)))

    def add(total, line_and_number):
        line, number = line_and_number
        position = jnp.clip(rays.first + rays.slope * number, 0.0, length + 1.0)
        left = position.astype(jnp.int32)
        share = position - left
        low = line.at[left].get(mode="promise_in_bounds")
        high = line.at[left + 1].get(mode="promise_in_bounds")
        return total + (low + share * (high - low)), None

    start = jnp.zeros(rays.first.shape, lines.dtype)
    numbers = jnp.arange(n, dtype=jnp.float32)
    total, _ = lax.scan(add, start, (padded, numbers), unroll=min(UNROLL, n))
    return total * rays.step_mm


@functools.partial(jax.jit, static_argnames=("shape",))
def _project(image, rows, columns, back, shape):
    found = jnp.concatenate([_march(image, rows), _march(image.T, columns)])
    return found.at[back].get(mode="promise_in_bounds").reshape(shape)


def forward_project(mu, geometry: FanBeam, pixel_mm: float):
    """Line integrals of images: (H, W) → (V, D), or (N, H, W) → (N, V, D).

    ``mu`` in 1/mm gives dimensionless integrals; zero outside the image. Differentiable (its
    transpose by ``jax.linear_transpose`` is the exact adjoint), and may be used under jit and vmap;
    stacks go slice by slice to bound memory.
    """
    mu = jnp.asarray(mu, jnp.float32)
    if mu.ndim not in (2, 3):
        raise UsageError(f"an image (H, W) or a stack (N, H, W), not {tuple(mu.shape)}")
    rows, columns, back = _plan(geometry, *mu.shape[-2:], float(pixel_mm))
    shape = (geometry.n_views, geometry.n_detectors)
    if mu.ndim == 2:
        return _project(mu, rows, columns, back, shape)
    return lax.map(lambda image: _project(image, rows, columns, back, shape), mu)
