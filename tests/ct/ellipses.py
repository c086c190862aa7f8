"""Analytic phantoms for projector tests: ellipses, their images and their exact line integrals."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ellipse:
    """``value`` inside the ellipse at (x, y) mm with semi-axes (a, b), turned by ``angle``."""

    x: float
    y: float
    a: float
    b: float
    angle: float
    value: float


def image(ellipses, size: int, pixel_mm: float, finer: int = 8) -> np.ndarray:
    """(size, size) float32, every pixel the mean of finer² samples."""
    axis = (np.arange(size * finer) - (size * finer - 1) / 2) * pixel_mm / finer
    total = np.zeros((size, size))
    for e in ellipses:
        dx, dy = axis[None, :] - e.x, -axis[:, None] - e.y
        c, s = np.cos(e.angle), np.sin(e.angle)
        inside = ((c * dx + s * dy) / e.a) ** 2 + ((c * dy - s * dx) / e.b) ** 2 < 1
        total += e.value * inside.reshape(size, finer, size, finer).mean(axis=(1, 3))
    return total.astype(np.float32)


def integrals(ellipses, geometry) -> np.ndarray:
    """(V, D) exact line integrals along the geometry's rays."""
    theta, s = geometry.rays()
    total = np.zeros(theta.shape)
    for e in ellipses:
        across = s - e.x * np.cos(theta) - e.y * np.sin(theta)
        c, sn = np.cos(theta - e.angle), np.sin(theta - e.angle)
        reach2 = (e.a * c) ** 2 + (e.b * sn) ** 2
        total += e.value * 2 * e.a * e.b * np.sqrt(np.maximum(reach2 - across**2, 0)) / reach2
    return total
