"""Branching vessels as lists of capsules, drawn once for a patient and painted slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ldct_jax.ct.phantom.canvas import Canvas, Capsule


def tree(
    rng: np.random.Generator,
    start,
    direction,
    radius: float,
    *,
    length: float,
    min_radius: float,
    inside: Callable[[np.ndarray], bool] | None = None,
    spread: float = 0.55,
    wander: float = 0.18,
    shrink: float = 0.80,
    taper: float = 0.96,
) -> list[Capsule]:
    """A random tree: bent branches of ``length`` mm that fork until ``min_radius``.

    Children's radii obey Murray's law roughly (r³ = r1³ + r2³ with random shares); ``inside(p)``
    ends branches that would leave an organ.
    """
    segments: list[Capsule] = []
    todo = [(np.asarray(start, float), np.asarray(direction, float), radius, length)]
    while todo and len(segments) < 4000:
        p, d, r, reach = todo.pop()
        d = d / np.linalg.norm(d)
        steps = 3
        for _ in range(steps):
            d = d + rng.normal(size=3) * wander
            d /= np.linalg.norm(d)
            q = p + d * reach / steps * rng.uniform(0.8, 1.2)
            if inside is not None and not inside(q):
                break
            thinner = r * taper
            segments.append(Capsule(tuple(p), tuple(q), r, thinner))
            p, r = q, thinner
        else:
            share = rng.uniform(0.3, 0.7)
            side = np.cross(d, rng.normal(size=3))
            side /= np.linalg.norm(side)
            for part, sign in ((share, 1), (1 - share, -1)):
                child = r * part ** (1 / 3)
                if child >= min_radius:
                    turn = d + sign * side * spread * rng.uniform(0.6, 1.4) * (1.3 - part)
                    todo.append((p, turn, child, max(reach * shrink, 4.0)))
    return segments


def chain(points: Sequence, radius: float | Sequence[float]) -> list[Capsule]:
    """Capsules through ``points`` (mm), of one radius or one a point."""
    radii = [radius] * len(points) if np.isscalar(radius) else list(radius)
    return [
        Capsule(tuple(a), tuple(b), ra, rb)
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True)
    ]


def moved(point, dx: float, dy: float, dz: float) -> np.ndarray:
    """``point`` (3,) shifted, mm."""
    return np.asarray(point, float) + np.array((dx, dy, dz), float)


class Bundle:
    """Many capsules, with a quick look-up of those that reach a slice."""

    def __init__(self, capsules: Sequence[Capsule]):
        self.capsules = list(capsules)
        self.low = np.array([min(c.start[2], c.end[2]) - max(c.r0, c.r1) for c in self.capsules])
        self.high = np.array([max(c.start[2], c.end[2]) + max(c.r0, c.r1) for c in self.capsules])

    def paint(self, canvas: Canvas, hu, label, *, within=None, grow_mm=0.0, **texture_sd) -> None:
        if not self.capsules:
            return
        half = canvas.slice_mm / 2 + max(grow_mm, 0)
        for i in np.flatnonzero((self.low - half < canvas.z) & (canvas.z < self.high + half)):
            self.capsules[i].paint(canvas, hu, label, within=within, grow_mm=grow_mm, **texture_sd)


def smooth_path(rng: np.random.Generator, points, step_mm: float, jitter_mm: float) -> np.ndarray:
    """A smooth curve near ``points`` (P, 3), sampled every ``step_mm``: (M, 3)."""
    from scipy.interpolate import CubicSpline

    points = np.asarray(points, float) + rng.normal(size=(len(points), 3)) * jitter_mm
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    spline = CubicSpline(along, points)
    return spline(np.arange(0, along[-1], step_mm))
